"""Tables of the report, as text and as HTML: what its parts share."""

from collections.abc import Mapping, Sequence
from html import escape


def align(lines: Sequence[Sequence[str]], words: int) -> str:
    """Columns padded to their widest cell, the head ruled off: the first `words` to the left, others to the right."""
    widths = [max(len(cell) for cell in cells) for cells in zip(*lines, strict=True)]
    padded = [
        "  ".join(
            cell.ljust(width) if i < words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([padded[0], "-" * len(padded[0]), *padded[1:]])


def named(model: str, hue: Mapping[str, str], text: str) -> str:
    """The first cell of a row: the colour of a model, and what the row is called."""
    return f'<th><span class="hue" style="background:{hue[model]}"></span>{escape(text)}</th>'


def signed(text: str) -> str:
    """With a minus sign as it is set, not a hyphen."""
    return text.replace("-", "−")
