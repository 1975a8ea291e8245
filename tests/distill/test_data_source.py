import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from distill.data import source as sources
from distill.data.manifest import SPLITS, Count
from distill.data.source import Folder, Herd, Jsonl, Source, Tfds
from distill.data.tree import Tree


def write_folder(path, count=20):
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (path / f"{i:03}.txt").write_text(f"text {i}")
    return path


def write_lines(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def texts(source, split):
    documents = source.documents(split)
    return [documents[i]["text"] for i in range(len(documents))]


def test_a_source_needs_no_base_class():
    assert all(isinstance(source, Source) for source in (Herd(), Folder("x"), Jsonl("x"), Tfds("x")))


# Herd


@pytest.fixture
def small(tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    for i in range(100):
        (tmp_path / "code" / f"m{i}.py").write_text(f"number = {i} + {i}  # {i}\n" * 8)
    tree = Tree(name="code", root=tmp_path / "code", version="1", licence="MIT", docstrings=False)
    monkeypatch.setattr("distill.data.tree.installed", lambda: (tree,))
    return tmp_path


def test_the_default_corpus_has_text_and_domain(small):
    document = Herd(str(small / "data")).documents("train")[0]
    assert document["domain"] == "code" and document["text"].startswith(b"number = ")


def test_the_default_corpus_is_kept_in_the_repository(small, monkeypatch):
    assert sources.DATA.name == "data" and (sources.DATA.parent / "distill" / "data" / "source.py").is_file()
    monkeypatch.setattr(sources, "DATA", small / "kept")
    assert Herd().manifest().name == "herd" and (small / "kept").is_dir()


# Folder


def test_a_file_is_a_document_in_exactly_one_split(tmp_path):
    folder = Folder(str(write_folder(tmp_path)), held_out=0.3)
    train, held = texts(folder, "train"), texts(folder, "held_out")
    assert sorted(train + held) == sorted(b"text %d" % i for i in range(20)) and train and held
    assert folder.documents("train")[0]["domain"] == "text"


def test_a_new_file_moves_no_other(tmp_path):
    folder = Folder(str(write_folder(tmp_path)), held_out=0.3)
    before = set(texts(folder, "held_out"))
    write_folder(tmp_path, 40)
    assert before == set(texts(folder, "held_out")) & {b"text %d" % i for i in range(20)}


def test_two_files_are_enough(tmp_path):
    folder = Folder(str(write_folder(tmp_path, 2)))
    assert len(folder.documents("train")) == len(folder.documents("held_out")) == 1


def test_equal_files_count_once(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "copy.txt").write_text("text 1\n")
    folder = Folder(str(tmp_path))
    assert sum(text.strip() == b"text 1" for split in SPLITS for text in texts(folder, split)) == 1


def test_a_long_file_is_read_in_pieces_of_whole_lines(tmp_path):
    long = b"a line of text\n" * 10_000
    (tmp_path / "a.txt").write_bytes(long)
    (tmp_path / "b.txt").write_bytes(b"\xff" * 70_000)
    found = [text for split in SPLITS for text in texts(Folder(str(tmp_path)), split)]
    lines, rest = [t for t in found if t[:1] == b"a"], [t for t in found if t[:1] == b"\xff"]
    assert b"".join(lines) == long and len(lines) == 3 and all(t.endswith(b"\n") for t in lines)
    assert [len(t) for t in rest] == [65_536, 4_464]


def test_the_pattern_chooses_the_files(tmp_path):
    write_folder(tmp_path, 2)
    for name in ("a", "b"):
        (tmp_path / f"{name}.md").write_text(name)
    assert sorted(t for s in SPLITS for t in texts(Folder(str(tmp_path), pattern="*.md"), s)) == [b"a", b"b"]


def test_the_hash_of_a_folder_follows_its_text_and_nothing_else(tmp_path):
    one, two, three = (Folder(str(write_folder(tmp_path / name))).manifest() for name in "abc")
    (tmp_path / "c" / "000.txt").write_text("another text")
    three = Folder(str(tmp_path / "c")).manifest()
    assert one == two and len(one.hash) == 12 and one.hash != three.hash
    assert sum((count for by in one.splits.values() for count in by.values()), Count()).documents == 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "gone", r"Folder: .*gone does not exist"),
        (lambda p: write_folder(p) / "000.txt", r"is a file; name the folder it is in, or read it with Jsonl"),
        (lambda p: p, r"no text in the 0 file\(s\) of .* match '\*\*/\*\.txt'; kinds of file there: none; set pattern"),
        (lambda p: write_folder(p, 1), r"holds 1 different document\(s\); at least 2 are needed.*cut a long file"),
    ],
)
def test_a_folder_without_two_texts_is_refused(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        Folder(str(make(tmp_path))).documents("train")


def test_a_folder_of_other_files_says_which(tmp_path):
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(ValueError, match=r"kinds of file there: \.md; set pattern"):
        Folder(str(tmp_path)).manifest()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    with pytest.raises(ValueError, match=r"held_out is .*; it must be a share of the documents, between 0 and 1"):
        Folder(str(write_folder(tmp_path)), held_out=share).documents("train")


# Jsonl


def test_a_line_is_a_document(tmp_path):
    path = write_lines(
        tmp_path / "a.jsonl", [{"text": f"é {i}"} for i in range(30)] + ["", {"text": "é 1"}, {"text": " "}]
    )
    jsonl = Jsonl(str(path), held_out=0.3)
    train, held = texts(jsonl, "train"), texts(jsonl, "held_out")
    assert sorted(train + held) == sorted(f"é {i}".encode() for i in range(30)) and train and held
    assert len(jsonl.manifest().hash) == 12


def test_another_field_can_hold_the_text(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "no", "body": "a"}, {"text": "no", "body": "b"}])
    assert {t for s in SPLITS for t in texts(Jsonl(str(path), "body"), s)} == {b"a", b"b"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "a"}, "{"], r"Jsonl: line 2 of .*a\.jsonl is not JSON: "),
        ([{"text": "a"}, [1]], r"line 2 of .* is a list; it must be an object with a field 'text'"),
        (
            [{"text": "a"}, {"body": "b", "id": 1}],
            r"line 2 of .* has no field 'text'; its fields are 'body', 'id'; set field",
        ),
        ([{"text": 3}], r"line 1 of .* field 'text' is a int; it must be a string"),
        ([], r"no line of .* holds text at 'text'"),
        ([{"text": "a"}, {"text": "a"}], r"holds 1 different document\(s\); at least 2 are needed"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        Jsonl(str(write_lines(tmp_path / "a.jsonl", lines))).documents("train")


def test_a_jsonl_file_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"gone does not exist"):
        Jsonl(str(tmp_path / "gone")).documents("train")
    with pytest.raises(ValueError, match=r"is a folder; name a file in it, or read it with Folder"):
        Jsonl(str(tmp_path)).documents("train")


# Tfds


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"text": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(40):
            yield i, {"text": f"text {i}", "label": i}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("tfds"))
    TinyTexts(data_dir=folder).download_and_prepare(file_format="array_record")
    return folder


def test_a_tfds_dataset_is_a_source(data_dir):
    tiny = Tfds("tiny_texts", data_dir=data_dir)
    assert texts(tiny, "train") == [b"text %d" % i for i in range(38)]
    assert texts(tiny, "held_out") == [b"text 38", b"text 39"]
    manifest = tiny.manifest()
    assert manifest.splits == {"train": {"text": Count(38)}, "held_out": {"text": Count(2)}}
    assert (
        manifest.version == "1.0.0" and manifest.hash != Tfds("tiny_texts", "label", data_dir=data_dir).manifest().hash
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "tiny_textz"}, r"there is no dataset 'tiny_textz' in TFDS or in .*set data_dir"),
        ({"field": "body"}, r"tiny_texts has no field 'body'; it has .*text.*; set field"),
        ({"field": "label"}, r"field 'label' is int.*; it must be text"),
        ({"held_out": "test"}, r"has no split 'test'; it has train; set held_out, for example to 'train\[95%:\]'"),
        ({"train": "train[:0]"}, r"split 'train\[:0\]' of tiny_texts has no documents; set train to a larger one"),
    ],
)
def test_a_tfds_dataset_that_cannot_be_read_is_named(data_dir, fields, message):
    with pytest.raises(ValueError, match=message):
        Tfds(**{"name": "tiny_texts", "data_dir": data_dir} | fields).documents("train")
