"""A stopwatch: how long one thread waits, for others to look at."""

import time


class Stopwatch:
    """Seconds spent inside its `with` blocks, of one that is not over too. One thread waits, any may look."""

    def __init__(self) -> None:
        self._state: tuple[float, float | None] = 0.0, None  # one value, so that who looks sees both or neither change

    def __enter__(self) -> "Stopwatch":
        self._state = self._state[0], time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._state = self.seconds, None

    @property
    def seconds(self) -> float:
        """So far."""
        total, since = self._state
        return total if since is None else total + time.monotonic() - since
