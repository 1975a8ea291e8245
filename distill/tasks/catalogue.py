"""What reasoning-gym 0.1.25 has: what its data sets ask for, which are refused, and whose scorers are not called.

Each scorer was read, and run on the right answer, None, "", garbage, a sentence that hedges, and the right answer among
others. The scorer most of them share gives len(right) / len(answer) for an answer that holds the right one: a list of
all answers earns marks. So training goes by `Strict`, and what a data set's own scorer says is a figure, no more.
"""

_TASKS = {
    "algebra": "complex_arithmetic simple_equations",
    "arithmetic": "basic_arithmetic bitwise_arithmetic chain_sum decimal_arithmetic decimal_chain_sum "
    "fraction_simplification gsm_symbolic leg_counting number_format products",
    "ciphers": "caesar_cipher emoji_mystery",
    "code": "ab bf codeio",
    "games": "futoshiki mini_sudoku sudoku survo tsumego",
    "geometry": "advanced_geometry color_cube_rotation simple_geometry",
    "graphs": "family_relationships largest_island maze path_star rotten_oranges",
    "grids": "arc_1d arc_agi binary_matrix game_of_life manipulate_matrix modulo_grid pool_matrix rearc "
    "rectangle_count rotate_matrix spiral_matrix",
    "induction": "list_functions number_sequence",
    "logic": "aiw self_reference zebra_puzzles",
    "numbers": "base_conversion count_bits count_primes lcm prime_factorization",
    "ordering": "number_filtering number_sorting word_sorting",
    "probability": "coin_flip dice",
    "reading": "figlet_font needle_haystack",
    "strings": "binary_alternation letter_jumble sentence_reordering spell_backward string_insertion "
    "string_manipulation string_splitting string_synthesis word_sequence_reversal",
    "time": "calendar_arithmetic time_intervals",
}
CAPABILITIES: dict[str, str] = {task: name for name, tasks in _TASKS.items() for task in tasks.split()}
"""by data set, what it takes"""

_REFUSED = {
    "it gives no answer to compare with": "boxnet graph_color propositional_logic rubiks_cube rush_hour",
    "other answers than the one it gives are as right": "countdown cryptarithm jugs kakurasu knight_swap n_queens "
    "palindrome_generation puzzle24 quantum_lock shortest_path sokoban tower_of_hanoi word_ladder",
    "its answer can be written in other ways that are as right": "group_anagrams intermediate_integration "
    "knights_knaves palindrome_partitioning polynomial_equations polynomial_multiplication power_function "
    "simple_integration",
    # Of 60 answers: two or three kinds, or one kind is a third of all and the next is not rarer by much.
    "so few answers are possible that guessing is right": "acre circuit_logic course_schedule gcd isomorphic_strings "
    "letter_counting mahjong_puzzle ransom_note syllogism",
    "its scorer takes any text for the right one, and its answers are yes or no": "game_of_life_halting",
    "it is made of the others": "composite",
}
REFUSED: dict[str, str] = {task: why for why, tasks in _REFUSED.items() for task in tasks.split()}
"""by data set, why there is no training on it"""

_UNSCORED = {
    # Theirs call eval, or sympy.parse_expr, which does, on whatever a model wrote.
    "its scorer executes the answer": "binary_matrix spiral_matrix string_insertion",
    # 1e9999999 becomes a whole number of ten million digits.
    "its scorer takes minutes over a few characters": "coin_flip",
    "its scorer gives a full mark to a sentence that hedges": "gsm_symbolic survo",
}
UNSCORED: dict[str, str] = {task: why for why, tasks in _UNSCORED.items() for task in tasks.split()}
"""by data set, why its own scorer is not called; answers are right or wrong all the same"""
