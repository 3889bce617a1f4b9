"""Who relies on a cached adapter: one empty file per engine and incarnation."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.core.names import check_simple_name


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """One life of one engine.

    Attributes:
        incarnation: empty for a holder that we cannot read: it counts all the same.
    """

    engine: str
    incarnation: str

    @property
    def file_name(self) -> str:
        """`engine@incarnation`; neither part can contain an `@`.

        Raises:
            LoradockError: `invalid_name`.
        """
        if self == PINNED:
            return self.engine
        return f"{check_simple_name(self.engine)}@{check_simple_name(self.incarnation)}"


def write_lease(folder: Path, holder: Holder) -> None:
    """Note a holder; fine when it is noted already."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # a removal took the empty folder just now
            (folder / holder.file_name).touch()
            return


def remove_lease(folder: Path, holder: Holder) -> None:
    """Strike a holder out; fine when it was not noted."""
    (folder / holder.file_name).unlink(missing_ok=True)


def read_leases(folder: Path) -> tuple[Holder, ...]:
    """All holders, sorted. A file that we did not make is an unknown holder: it means keep."""
    holders: list[Holder] = []
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            engine, _, incarnation = path.name.partition("@")
            holders.append(Holder(engine, incarnation))
    return tuple(sorted(holders))


PINNED: Final = Holder("pinned", "")
"""The pin of a hand: no engine's life ends it."""
