"""Models from elsewhere: checkpoints in the Hugging Face layout, to learn from or to start from."""

from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from distill import mesh as meshes
from distill.mesh import Mesh
from models import huggingface
from models.config import Config
from models.llama4 import Llama4


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

    def teacher(self, mesh: Mesh) -> Llama4:
        """Its weights over a mesh; stages that ask for the same one share it."""
        return _read(self, mesh)

    def start(self, mesh: Mesh) -> Llama4:
        """Its weights over a mesh in float32, for a learner to move."""
        return huggingface.load(self.folder, "float32", partial(meshes.shardings, mesh.build()), self.text_only)

    def check_starts(self, learner: str, model: Config) -> None:
        """Refuses to start a learner that is another model."""
        own = self.model
        names = [each.name for each in fields(Config) if vars(own)[each.name] != vars(model)[each.name]]
        if names:
            raise ValueError(
                f"learner {learner!r} starts from {self.name!r}, but differs from it in {', '.join(names)}; set its "
                f"model to huggingface.read_config({self.folder!r}), or start from nothing"
            )


@lru_cache(maxsize=1)
def _read(given: Given, mesh: Mesh) -> Llama4:
    return huggingface.load(given.folder, given.dtype, partial(meshes.shardings, mesh.build()), given.text_only)
