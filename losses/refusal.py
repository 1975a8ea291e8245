"""What is asked of a teacher's signal before it is used, and the reason where it cannot be had."""

from jaxtyping import Array, Float

from losses.signal import Signal, Whole


def check_vocab(signal: Signal, head: Float[Array, "d v"]) -> None:
    """Refuses a teacher of another vocabulary than the student's.

    Raises:
      ValueError: their sizes differ.
    """
    if signal.vocab != head.shape[1]:
        raise ValueError(
            f"The teacher's vocabulary has {signal.vocab} tokens and the student's {head.shape[1]}; they must be one "
            "tokenizer's. Where only the padding differs, pad the shorter and give its new logits -inf."
        )


def as_whole(signal: Signal, asker: str) -> Whole:
    """The signal, for what asks it for every token.

    Raises:
      ValueError: it knows some of them.
    """
    if not callable(getattr(signal, "log_probs", None)):
        raise ValueError(
            f"{asker} asks the teacher for the probability of every token, and {type(signal).__name__} does not know "
            "every token; take a teacher that is there."
        )
    return signal  # pyright: ignore[reportReturnType]
