"""The default corpus on disk: built once by TFDS as ArrayRecord, without TensorFlow or a network, then only read."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from distill.data.manifest import SPLITS, Count, Manifest, Split, fingerprint, sizes
from distill.data.partition import HELD_OUT, Passage, partition, shared_lines
from distill.data.tree import LONGEST, SHORTEST, Tree

VERSION = "1.0.0"
"""of the builder: raise it with any change to what the same files yield"""


class HerdText(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of passages that are already sorted into splits."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, splits: dict[Split, list[Passage]], **kwargs: Any) -> None:
        self._passages = splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        return tfds.core.DatasetInfo(
            builder=self,
            description="Code of the Python standard library; docstrings of the packages Herd depends on.",
            features=tfds.features.FeaturesDict({"text": text(), "source": text(), "domain": text()}),
            disable_shuffling=True,  # the order of the passages is part of the corpus
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[int, dict[str, str]]]]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, str]]]:
        for key, passage in enumerate(self._passages[split]):
            yield key, vars(passage)


def build(folder: Path, trees: Sequence[Tree]) -> Path:
    """The folder of the corpus made of `trees`, below `folder`; made if it is not there.

    The name of the folder holds the versions of all it is made from, so that another Python or another package makes
    another corpus beside it. It appears by one rename, when it is whole: a build that is killed leaves nothing behind
    that would be read, and of two that run at once the first to finish wins.

    Raises:
      ValueError: a split is empty, or a tree is not where it should be.
    """
    final = folder / f"herd-{_key(trees)}"
    if final.exists():
        if _whole(final):
            return final
        _say(f"{final} is damaged (its files are not those its manifest lists); building it again")
    else:
        _say(f"building the corpus in {final}: once, a quarter of a minute")
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    mine = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    try:
        _write(mine, trees)
        _publish(mine, final)
    finally:
        shutil.rmtree(mine, ignore_errors=True)
    return final


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the corpus in `folder`.

    Raises:
      ValueError: it is not a manifest.
      FileNotFoundError: there is none.
    """
    return Manifest.from_json((folder / "manifest.json").read_text())


def _key(trees: Sequence[Tree]) -> str:
    rules = (VERSION, str(SHORTEST), str(LONGEST), str(HELD_OUT))
    return fingerprint([*rules, *chain.from_iterable((t.name, t.version, str(t.docstrings)) for t in trees)])[:12]


def _whole(folder: Path) -> bool:
    try:
        return read_manifest(folder).files == sizes(folder)
    except (OSError, ValueError):
        return False


def _write(folder: Path, trees: Sequence[Tree]) -> None:
    splits = partition(passage for tree in trees for passage in tree.passages())
    for split, passages in splits.items():
        if not passages:
            raise ValueError(
                f"the {split} split has no documents: {[str(t.root) for t in trees]} hold too few Python files"
            )
    tfds.disable_progress_bar()
    builder = HerdText(splits=splits, data_dir=str(folder / "tfds"))
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks of a download; there is none
        builder.download_and_prepare(file_format="array_record")
    # TFDS files by name and version; the corpus folder's own name says both.
    os.rename(builder.data_path, folder / "text")
    shutil.rmtree(folder / "tfds")
    sha256 = fingerprint(
        part for split in SPLITS for p in splits[split] for part in (split, p.source, p.domain, p.text)
    )
    manifest = Manifest(
        name="herd",
        hash=sha256[:12],
        sha256=sha256,
        basis="split, source, domain and text of every document in order",
        splits={split: _counts(passages) for split, passages in splits.items()},
        version=VERSION,
        pins={tree.name: tree.version for tree in trees},
        licences={tree.name: tree.licence for tree in trees},
        shared_lines=shared_lines(splits),
        files=sizes(folder),
    )
    (folder / "manifest.json").write_text(manifest.to_json())


def _counts(passages: list[Passage]) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    for passage in passages:
        counts[passage.domain] = counts.get(passage.domain, Count()) + Count(1, len(passage.text.encode()))
    return counts


def _publish(mine: Path, final: Path) -> None:
    """Rename `mine` to `final`; where another process was first and its corpus is whole, keep that one."""
    os.chmod(mine, 0o755)  # mkdtemp's is private
    for _ in range(10):
        try:
            return os.rename(mine, final)
        except OSError:  # there is a folder of that name
            if _whole(final):
                return
        # A damaged corpus steps aside by a rename too: no other process can see half of it go.
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=final.parent))
        try:
            os.rename(final, aside / "damaged")
        except FileNotFoundError:
            continue  # another process was faster
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"could not put the corpus at {final}: something keeps writing there; choose another folder")


def _sweep(folder: Path, hours: float = 1.0) -> None:
    """Remove what builds that were killed left behind."""
    for left in folder.glob(".building-*"):
        try:
            if time.time() - left.stat().st_mtime > hours * 3600:
                shutil.rmtree(left, ignore_errors=True)
        except FileNotFoundError:
            continue


def _say(text: str) -> None:
    print(f"herd: {text}", file=sys.stderr, flush=True)
