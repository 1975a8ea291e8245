"""How likely a model finds the labels of a batch."""

from jaxtyping import Array, Float

from distill.data.batch import Batch
from distill.mesh import split
from distill.state import Weights
from losses.logps import token_logps
from models.execution import Execution


def label_logps(weights: Weights, batch: Batch, execution: Execution, temperature: float = 1.0) -> Float[Array, "b t"]:
    """Log-probability of each label that counts, nats, and 0 of others; tokens with routes are sent where these say."""
    model = weights.model
    bias = batch.bias(weights.bias, model.config.periods)
    hidden, _ = model(batch.tokens, batch.layout(), bias, execution, batch.images)
    head = model.head[...].astype(hidden.dtype)
    return token_logps(hidden, head, batch.labels, batch.mask, temperature, split=split(execution))[0]
