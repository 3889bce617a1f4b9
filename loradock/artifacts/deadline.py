"""A limit on the time that one transfer may take in all."""

import time

from loradock.artifacts.protocol import Progress
from loradock.core.errors import LoradockError


class Deadline:
    """A progress that ends what it watches when its time is over.

    Args:
        told: hears of everything too, first.
        seconds: from now.
    """

    def __init__(self, told: Progress, seconds: float) -> None:
        self._told, self._seconds = told, seconds
        self._until = time.monotonic() + seconds

    def advance(self, size: int) -> None:
        """As `Progress.advance`.

        Raises:
            LoradockError: `source_timeout`.
        """
        self._told.advance(size)
        if time.monotonic() > self._until:
            raise LoradockError(
                "source_timeout", f"reading the source took longer than {self._seconds:g} seconds"
            )
