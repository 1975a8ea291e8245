"""Models from elsewhere, to learn from or to start from: Hugging Face checkpoints, and learners of other runs."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from jaxtyping import Array

from distill import mesh as meshes
from distill.mesh import Mesh
from models import huggingface
from models.bpe import open_tokenizer
from models.config import Config
from models.llama4 import Llama4
from models.tokenizer import Tokenizer

PIECE, LARGE = 2**20, 2**30
"""bytes that are read at a time for a fingerprint, and from which on a file is not read whole"""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A Llama 4 checkpoint under a name by which stages and learners ask for it.

    It is read into the mesh where a stage needs it, and is in no checkpoint of the run.
    """

    name: str
    folder: str
    """as transformers' save_pretrained, a download from the hub, or `python -m models.huggingface` leaves it"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of its weights as a teacher: bfloat16 halves their memory; a learner starts in float32"""
    text_only: bool = False
    """leave out the vision tower"""

    @property
    def model(self) -> Config:
        """What it is, from its config.json.

        Raises:
            ValueError: there is none, or it is not a Llama 4.
        """
        return huggingface.read_config(Path(self.folder), self.text_only)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with its configuration, its dtype or its weights.

        A file under 2^30 bytes is read whole; of a larger one every 32nd piece of 2^20 bytes and the last, so that no
        tensor of 32 MiB is passed over.
        """
        whole = hashlib.sha256(self.dtype.encode())
        for path in sorted((Path(self.folder) / "config.json", *Path(self.folder).glob("*.safetensors"))):
            size = path.stat().st_size
            whole.update(f"{path.name} {size}".encode())
            with open(path, "rb") as file:
                for start in [*range(0, size, PIECE if size < LARGE else 32 * PIECE), max(0, size - PIECE)]:
                    file.seek(start)
                    whole.update(file.read(PIECE))
        return whole.hexdigest()[:12]

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuses a tokenizer that is not the one in its folder, where there is one.

        Raises:
            ValueError: it is another one, or the folder's cannot be read.
        """
        folder = Path(self.folder)
        if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
            return
        own = open_tokenizer(folder).fingerprint
        if own != tokenizer.fingerprint:
            raise ValueError(
                f"{self.name!r} has tokenizer {own} in {folder}, the experiment {tokenizer.fingerprint}; a token must "
                f"mean the same to both: set --tokenizer.path to that folder's"
            )

    def teacher(self, mesh: Mesh) -> tuple[Llama4, Array | None]:
        """Its weights over a mesh, and no selection bias of its routers."""
        return huggingface.load(self.folder, self.dtype, partial(meshes.shardings, mesh.build()), self.text_only), None

    def start(self, mesh: Mesh) -> Llama4:
        """Its weights over a mesh in float32, for a learner to move."""
        return huggingface.load(self.folder, "float32", partial(meshes.shardings, mesh.build()), self.text_only)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A learner of another run under a name by which stages and learners ask for it: trained once, heard by many runs.

    It is read into the mesh where a stage needs it, and is in no checkpoint of the run that hears it.
    """

    name: str
    run: str
    """its run folder"""
    stage: str
    learner: str

    @property
    def model(self) -> Config:
        """What it is, from its run's config.json.

        Raises:
            ValueError: there is no such run, stage or learner.
        """
        from distill.trained import describe

        return describe(self.run, self.stage, self.learner)

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """Of its weights as a teacher: as it was trained."""
        return "float32"

    @property
    def fingerprint(self) -> str:
        """12 hex digits that change with its configuration or its weights."""
        from distill.trained import identity

        return identity(self.run, self.stage, self.learner)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuses a tokenizer that is not its run's.

        Raises:
            ValueError: it is another one.
        """
        from distill.run import load_run

        own = load_run(self.run).tokenizer.fingerprint
        if own != tokenizer.fingerprint:
            raise ValueError(
                f"{self.name!r} was trained with tokenizer {own} in {self.run}, the experiment has "
                f"{tokenizer.fingerprint}; a token must mean the same to both"
            )

    def teacher(self, mesh: Mesh) -> tuple[Llama4, Array | None]:
        """Its newest weights over a mesh, and the selection bias of its routers if it has one."""
        from distill.trained import load_weights

        weights = load_weights(self.run, self.stage, self.learner, mesh)
        return weights.model, weights.bias

    def start(self, mesh: Mesh) -> Llama4:
        """Its newest weights over a mesh, for a learner to move."""
        return self.teacher(mesh)[0]
