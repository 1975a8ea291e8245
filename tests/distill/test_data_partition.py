from distill.data.partition import Passage, partition, shared_lines, split_of

# By their hashes: 6 % of all paths are held out.
HELD = next(f"t/{i}.py" for i in range(1000) if split_of(f"t/{i}.py") == "held_out")
KEPT = next(f"t/{i}.py" for i in range(1000) if split_of(f"t/{i}.py") == "train")


def test_the_split_of_a_path_never_changes():
    assert [split_of(path) for path in ("python/argparse.py", HELD, KEPT)] == ["train", "held_out", "train"]


def test_about_six_files_in_a_hundred_are_held_out():
    held = sum(split_of(f"python/{i}.py") == "held_out" for i in range(10_000))
    assert 500 < held < 700


def test_a_file_is_in_one_split_whole():
    splits = partition([Passage(HELD, "code", "one"), Passage(HELD, "code", "two"), Passage(KEPT, "code", "three")])
    assert {s: [p.text for p in ps] for s, ps in splits.items()} == {"held_out": ["one", "two"], "train": ["three"]}


def test_a_passage_in_both_splits_stays_held_out():
    splits = partition([Passage(KEPT, "code", "same  words\n"), Passage(HELD, "docs", "same words")])
    assert [p.source for p in splits["held_out"]] == [HELD] and not splits["train"]


def test_a_passage_repeated_within_a_split_counts_once():
    splits = partition([Passage(KEPT, "code", "a b"), Passage(KEPT, "code", " a\tb\n"), Passage(KEPT, "code", "a c")])
    assert [p.text for p in splits["train"]] == ["a b", "a c"]


def test_shared_lines_are_counted_and_short_ones_are_not():
    line = "a line of text that is longer than forty characters"
    train = [Passage(KEPT, "code", f"  {line}\nshort\n")]
    held = [Passage(HELD, "code", f"{line}\nshort\n{line[::-1]}\n")]
    assert shared_lines({"train": train, "held_out": held}) == 0.5
