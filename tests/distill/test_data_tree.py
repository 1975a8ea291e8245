import pytest

from distill.data import tree
from distill.data.tree import Tree, docstrings, package, pieces

LONG = "words that fill a line of text, so that nobody takes it for noise\n" * 3


def make(root, files, docstrings=False):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Tree(name="t", root=root, version="1", licence="MIT", docstrings=docstrings)


def test_a_code_tree_yields_files_in_the_order_of_their_paths(tmp_path):
    found = list(make(tmp_path, {"b.py": LONG, "a/z.py": LONG, "a.txt": LONG}).passages())
    assert [(p.source, p.domain, p.text) for p in found] == [("t/a/z.py", "code", LONG), ("t/b.py", "code", LONG)]


def test_a_docstring_tree_yields_docstrings(tmp_path):
    found = list(make(tmp_path, {"a.py": f'"""{LONG}"""\nx = 1\n'}, docstrings=True).passages())
    assert [(p.domain, p.text) for p in found] == [("docs", LONG)]


@pytest.mark.parametrize(
    "path", ["test/a.py", "x/tests/a.py", "idlelib/a.py", "site-packages/p/a.py", "x/test_a.py", "a_test.py"]
)
def test_tests_and_other_peoples_packages_are_left_out(tmp_path, path):
    assert not list(make(tmp_path, {path: LONG}).passages())


@pytest.mark.parametrize("content", ["x = 1\n", b"\xff\xfe" * 200, ""])
def test_what_is_short_or_not_text_is_left_out(tmp_path, content):
    assert not list(make(tmp_path, {"a.py": content}).passages())


def test_a_file_that_is_not_python_has_no_docstrings(tmp_path):
    assert not list(make(tmp_path, {"a.py": f'"""{LONG}"""\n{{% template %}}\n'}, docstrings=True).passages())


def test_line_ends_are_unix(tmp_path):
    (passage,) = make(tmp_path, {"a.py": LONG.replace("\n", "\r\n")}).passages()
    assert passage.text == LONG


def test_a_tree_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the text of 't' is not at .*gone; install it again"):
        list(Tree(name="t", root=tmp_path / "gone", version="1", licence="MIT", docstrings=True).passages())


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(
        ValueError, match="reads the docstrings of no-such-thing, which is not installed; install it, or"
    ):
        package("no-such-thing", "x", "MIT")


def test_docstrings_come_in_the_order_of_the_file():
    code = '''"""module"""
class A:
    """class"""
    async def f(self):
        """method"""
def g():
    "this" + """is none"""
'''
    assert docstrings(code) == ["module\n", "class\n", "method\n"]


def test_an_escaped_lone_surrogate_does_not_stop_the_build():
    assert docstrings('"""a \\ud800"""') == ["a ?\n"]


def test_code_is_read_and_not_run(tmp_path):
    found = docstrings(f'"""text"""\nopen({str(tmp_path / "trace")!r}, "w")\n')
    assert found == ["text\n"] and not (tmp_path / "trace").exists()


def test_pieces_join_to_the_whole():
    text = "".join(f"def f{i}():\n    return {i}\n\n\n" for i in range(50))
    assert "".join(pieces(text, 100)) == text
    assert max(map(len, pieces(text, 100))) <= 100


def test_a_piece_begins_with_a_top_level_block():
    text = "".join(f"def f{i}():\n    x = {i}\n\n    return x\n\n\n" for i in range(10, 50))
    assert all(piece.startswith("def f") for piece in pieces(text, 100))


def test_a_text_without_blocks_is_cut_between_lines():
    assert list(pieces("aaa\nbbb\nccc\n", 9)) == ["aaa\nbbb\n", "ccc\n"]


def test_a_text_without_lines_is_cut_anywhere():
    assert list(pieces("a" * 10, 4)) == ["aaaa", "aaaa", "aa"]


def test_the_installed_trees_are_there_and_pinned():
    trees = tree.installed()
    assert [t.name for t in trees][0] == "python" and len(trees) == 1 + len(tree.PACKAGES)
    assert all(t.root.is_dir() and t.version and t.licence for t in trees)
