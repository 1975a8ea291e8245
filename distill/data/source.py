"""Where text comes from: the default corpus, a folder, a JSON Lines file, or any TFDS dataset. A source is a value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from distill.data.files import Index, Spans, scan_folder, scan_jsonl
from distill.data.manifest import SPLITS, Count, Document, Documents, Manifest, Split, fingerprint

DATA = Path(__file__).parents[2] / "data"
"""default folder of the default corpus"""


@runtime_checkable
class Source(Protocol):
    """Documents in two splits, `train` and `held_out`, and a manifest that says which documents they are."""

    def documents(self, split: Split) -> Documents:
        """Random access to the documents of a split, in an order that never changes."""
        ...

    def manifest(self) -> Manifest:
        """Name, hash and counts of the documents."""
        ...


@dataclass(frozen=True)
class Herd:
    """The default corpus: code of the Python standard library, and docstrings of our own pinned dependencies.

    About 20 MB, read from what is installed, once, in a quarter of a minute; no network. It depends on the versions of
    Python and of the packages: the manifest names them, and its hash goes with every figure.
    """

    folder: str | None = None
    """where corpora are kept; None: `data/` in the repository"""

    def documents(self, split: Split) -> Documents:
        """Documents of a split; their domains are `code` and `docs`."""
        import tensorflow_datasets as tfds

        builder: Any = tfds.builder_from_directory(str(self._built() / "text"))
        return Records(builder.as_data_source(split), "text")

    def manifest(self) -> Manifest:
        """The manifest written when the corpus was built."""
        from distill.data.corpus import read_manifest

        return read_manifest(self._built())

    def _built(self) -> Path:
        from distill.data.corpus import build
        from distill.data.tree import installed

        return build(Path(self.folder).expanduser() if self.folder else DATA, installed())


@dataclass(frozen=True)
class Folder:
    """Text files: a file is a document (long ones are read in pieces). Any bytes will do; equal files count once."""

    path: str
    pattern: str = "**/*.txt"
    held_out: float = 0.06
    """share of the files to hold out, by the hash of their text"""

    def documents(self, split: Split) -> Documents:
        """Documents of a split; their domain is `text`."""
        return Spans(self._index().splits[split], None)

    def manifest(self) -> Manifest:
        """Counts, and a hash of every file's text."""
        return self._index().manifest("folder")

    def _index(self) -> Index:
        spans = scan_folder(Path(self.path).expanduser(), self.pattern)
        return Index.of(spans, self.held_out, f"Folder: {self.path}")


@dataclass(frozen=True)
class Jsonl:
    """A JSON Lines file: a line is a document. Equal texts count once."""

    path: str
    field: str = "text"
    held_out: float = 0.06
    """share of the lines to hold out, by the hash of their text"""

    def documents(self, split: Split) -> Documents:
        """Documents of a split; their domain is `text`."""
        return Spans(self._index().splits[split], self.field)

    def manifest(self) -> Manifest:
        """Counts (bytes are those of the lines), and a hash of every line's text."""
        return self._index().manifest("jsonl")

    def _index(self) -> Index:
        spans = scan_jsonl(Path(self.path).expanduser(), self.field)
        return Index.of(spans, self.held_out, f"Jsonl: {self.path}")


@dataclass(frozen=True)
class Tfds:
    """A TensorFlow Datasets dataset by name, downloaded and prepared where it is not; TensorFlow itself is not needed.

    Nothing is looked for twice here: whether the held-out split repeats the training split is up to the dataset.
    """

    name: str
    field: str = "text"
    train: str = "train[:95%]"
    held_out: str = "train[95%:]"
    data_dir: str | None = None
    """None: where TFDS keeps its datasets"""

    def documents(self, split: Split) -> Documents:
        """Documents of a split; their domain is `text`.

        Raises:
          ValueError: no such dataset, split or field; a field that is not text; a split without documents.
        """
        builder = self._builder()
        part = self._parts()[split]
        if not builder.info.splits[part].num_examples:
            raise ValueError(f"Tfds: split {part!r} of {self.name} has no documents; set {split} to a larger one")
        found = Records(builder.as_data_source(part), self.field)
        found[0]  # is it text?
        return found

    def manifest(self) -> Manifest:
        """Counts (bytes are not known), and a hash of the dataset's name, version and split sizes."""
        info = self._builder().info
        sizes = [f"{name} {split.num_examples} {split.num_bytes}" for name, split in sorted(info.splits.items())]
        sha256 = fingerprint([info.full_name, self.field, self.train, self.held_out, *sizes])
        return Manifest(
            name=f"tfds {info.full_name}",
            hash=sha256[:12],
            sha256=sha256,
            basis="name and version of the dataset, field, splits and their sizes",
            splits={split: {"text": Count(info.splits[part].num_examples)} for split, part in self._parts().items()},
            version=str(info.version),
        )

    def _parts(self) -> dict[Split, str]:
        return {"train": self.train, "held_out": self.held_out}

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds

        try:
            builder: Any = tfds.builder(self.name, data_dir=self.data_dir, file_format="array_record")
        except tfds.core.DatasetNotFoundError as error:
            raise ValueError(
                f"Tfds: there is no dataset {self.name!r} in TFDS or in {self.data_dir or 'its data folder'}; "
                f"see https://www.tensorflow.org/datasets/catalog, or set data_dir to the folder of a prepared one"
            ) from error
        builder.download_and_prepare()
        features = list(builder.info.features)
        if self.field not in features:
            raise ValueError(f"Tfds: {self.name} has no field {self.field!r}; it has {', '.join(features)}; set field")
        for split in SPLITS:
            part = self._parts()[split]
            if part.split("[")[0] not in builder.info.splits:
                raise ValueError(
                    f"Tfds: {self.name} has no split {part!r}; it has {', '.join(builder.info.splits)}; set {split}, "
                    f"for example to 'train[95%:]'"
                )
        return builder


class Records:
    """The records of a TFDS data source as documents."""

    def __init__(self, records: Any, field: str) -> None:
        """Documents whose text is at `field`, and whose domain is at `domain` where there is one."""
        self._records = records
        self._field = field

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Document:
        record = self._records[index]
        text = record[self._field]
        if not isinstance(text, bytes):
            raise ValueError(f"Tfds: field {self._field!r} is {type(text).__name__}; it must be text")
        domain = record["domain"].decode() if "domain" in record else "text"
        return {"text": text, "domain": domain}
