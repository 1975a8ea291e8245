import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from distill.data import corpus
from distill.data.manifest import Count, Manifest
from distill.data.partition import split_of
from distill.data.tree import Tree

REPOSITORY = Path(__file__).parents[2]


def trees(root):
    """A code tree of 100 files and a docstring tree of 50, all different."""
    for name, count, line in (
        ("code", 100, "number = {i} + {i}  # {i}\n"),
        ("docs", 50, '"""' + "about number {i}. " * 12 + '"""\n'),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            path = root / name / f"m{i}.py"
            if not path.exists():
                path.write_text(line.format(i=i) * (8 if name == "code" else 1))
    return tuple(
        Tree(name=n, root=root / n, version="1", licence="MIT", docstrings=n == "docs") for n in ("code", "docs")
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    return corpus.build(root / "data", trees(root))


def texts(folder, split):
    source = tfds.builder_from_directory(str(folder / "text")).as_data_source(split)
    return [source[i]["text"] for i in range(len(source))]


def test_two_builds_of_the_same_files_are_the_same_corpus(built, tmp_path):
    again = corpus.build(tmp_path / "elsewhere", trees(tmp_path))
    assert again.name == built.name
    first, second = corpus.read_manifest(built), corpus.read_manifest(again)
    assert first.sha256 == second.sha256 and first.hash == first.sha256[:12]
    assert [texts(built, s) for s in first.splits] == [texts(again, s) for s in first.splits]


def test_another_text_is_another_hash(built, tmp_path):
    other = trees(tmp_path)
    (tmp_path / "code" / "m0.py").write_text("different = 1\n" * 20)
    assert corpus.read_manifest(corpus.build(tmp_path / "data", other)).hash != corpus.read_manifest(built).hash


def test_another_version_is_another_folder(built, tmp_path):
    code, docs = trees(tmp_path)
    newer = Tree(name="docs", root=docs.root, version="2", licence="MIT", docstrings=True)
    assert corpus.build(tmp_path / "data", (code, newer)).name != built.name


def test_held_out_text_is_not_in_train(built):
    train, held = texts(built, "train"), texts(built, "held_out")
    assert train and held and not set(train) & set(held)


def test_the_split_goes_by_the_path(built):
    held = [i for i in range(100) if split_of(f"code/m{i}.py") == "held_out"]
    assert [text.split()[2] for text in texts(built, "held_out") if b"number =" in text] == sorted(
        b"%d" % i for i in held
    )


def test_the_manifest_counts_what_is_there(built):
    counts = corpus.read_manifest(built).splits
    for split in ("train", "held_out"):
        found = texts(built, split)
        total = sum(counts[split].values(), Count())
        assert (total.documents, total.bytes) == (len(found), sum(map(len, found)))
    assert sum(by["code"].documents for by in counts.values()) == 100


def test_the_manifest_names_versions_and_licences(built):
    manifest = corpus.read_manifest(built)
    assert manifest.pins == {"code": "1", "docs": "1"} and manifest.licences == {"code": "MIT", "docs": "MIT"}
    assert manifest.version == corpus.VERSION


def test_a_manifest_survives_json(built):
    manifest = corpus.read_manifest(built)
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"splits": {}, "colour": 1}'])
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(ValueError, match="not a manifest"):
        Manifest.from_json(text)


def test_a_built_corpus_is_not_built_again(built, monkeypatch):
    monkeypatch.setattr(corpus, "_write", lambda *_: pytest.fail("built again"))
    corpus.build(built.parent, trees(built.parent.parent))


@pytest.mark.parametrize("harm", ["no manifest", "half a manifest", "a short file", "a file too few"])
def test_a_damaged_corpus_is_built_again_with_a_notice(tmp_path, capsys, harm):
    folder = corpus.build(tmp_path / "data", trees(tmp_path))
    before = texts(folder, "train")
    record = next((folder / "text").glob("*train*"))
    match harm:
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "half a manifest":
            (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:100])
        case "a short file":
            record.write_bytes(record.read_bytes()[:-1])
        case "a file too few":
            record.unlink()
    capsys.readouterr()
    assert corpus.build(tmp_path / "data", trees(tmp_path)) == folder
    assert "is damaged (its files are not those its manifest lists); building it again" in capsys.readouterr().err
    assert texts(folder, "train") == before
    assert os.listdir(tmp_path / "data") == [folder.name]


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "shared_lines", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        corpus.build(tmp_path / "data", trees(tmp_path))
    assert not os.listdir(tmp_path / "data")


def test_what_a_killed_build_left_is_removed_an_hour_later(tmp_path):
    for name, age in (("old", 7200), ("new", 60)):
        (tmp_path / "data" / f".building-{name}" / "tfds").mkdir(parents=True)
        os.utime(tmp_path / "data" / f".building-{name}", (time.time() - age,) * 2)
    folder = corpus.build(tmp_path / "data", trees(tmp_path))
    assert sorted(os.listdir(tmp_path / "data")) == [".building-new", folder.name]


def test_the_loser_of_a_race_takes_the_winners_corpus(tmp_path, monkeypatch):
    mine = trees(tmp_path)
    write = corpus._write

    def slow(folder, trees):
        monkeypatch.setattr(corpus, "_write", write)
        write(folder, trees)
        winner = corpus.build(tmp_path / "data", mine)  # another process, meanwhile
        (winner / "manifest.json").touch()
        stamps.append((winner / "manifest.json").stat().st_ino)

    stamps: list[int] = []
    monkeypatch.setattr(corpus, "_write", slow)
    folder = corpus.build(tmp_path / "data", mine)
    assert (folder / "manifest.json").stat().st_ino == stamps[0]
    assert os.listdir(tmp_path / "data") == [folder.name]


def test_trees_with_too_few_files_are_refused(tmp_path):
    (tmp_path / "code").mkdir()
    lonely = Tree(name="code", root=tmp_path / "code", version="1", licence="MIT", docstrings=False)
    with pytest.raises(ValueError, match="split has no documents: .* hold too few Python files"):
        corpus.build(tmp_path / "data", (lonely,))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_data_corpus import trees
from distill.data import corpus
root = Path({root!r})
print(corpus.read_manifest(corpus.build(root / "data", trees(root))).hash)
assert "tensorflow" not in sys.modules
"""


def start(root):
    code = SCRIPT.format(tests=str(Path(__file__).parent), root=str(root))
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_killed_build_starts_over_and_two_at_once_agree_without_tensorflow(built, tmp_path):
    trees(tmp_path)
    killed = start(tmp_path)
    while killed.poll() is None and not list(tmp_path.glob("data/.building-*")):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not list(tmp_path.glob("data/herd-*"))
    answers = [process.communicate(timeout=200) for process in (start(tmp_path), start(tmp_path))]
    assert [out.strip() for out, _ in answers] == [corpus.read_manifest(built).hash] * 2, answers
