"""Llama 4 checkpoints in the Hugging Face layout, in and out. `python -m models.huggingface` inspects and converts."""

from models.huggingface.config_in import parse_config, read_config
from models.huggingface.config_out import Ids
from models.huggingface.weights_in import load, open_checkpoint
from models.huggingface.weights_out import save

__all__ = ["Ids", "load", "open_checkpoint", "parse_config", "read_config", "save"]
