"""What a host knows of its stock engine beyond what that tells itself: who loaded what, and which calls come too late.

A file beside the host's cache, so that it outlives the agent: its next process, and another one beside it, read the same. It
says nothing of another life of the engine. What an engine lists and the record does not know, somebody else put there.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from loradock.core.errors import LoradockError
from loradock.engines.protocol import Command
from loradock.engines.stock.metrics import started_at

_log = logging.getLogger(__name__)


class Phase(StrEnum):
    """Where an adapter stands."""

    LOADING = "loading"
    """The engine was asked, or is about to be: written before, so that a load that is cut off is known as ours."""
    SERVING = "serving"
    DRAINING = "draining"
    """Its name was taken away, or is about to be; nothing more is known to be left of it than running requests."""


class Entry(BaseModel):
    """One adapter.

    Attributes:
        operation: what loaded it; empty when somebody else did.
        resumed: how often its name was given back: an unload that waited meanwhile is over.
    """

    served_name: str
    digest: str
    int_id: int
    path: str
    operation: str
    phase: Phase
    loaded_at: datetime
    epoch: int = 0
    resumed: int = 0


class Content(BaseModel):
    """The record of one life of an engine.

    Attributes:
        entries: by served name.
        epochs: the highest epoch seen for each name; it outlives the adapter.
        undoing: the run that has begun to put a name back, with its epoch.
        loads: how often the engine took an adapter into a slot: it gives none back.
        unfinished: names that are gone though requests were still running.
    """

    incarnation: str
    entries: dict[str, Entry] = Field(default_factory=dict)
    epochs: dict[str, int] = Field(default_factory=dict)
    undoing: dict[str, tuple[int, str]] = Field(default_factory=dict)
    loads: int = 0
    unfinished: list[str] = Field(default_factory=list)

    def admit(self, command: Command) -> None:
        """Admit a call of this epoch for its name, and remember it.

        Raises:
            LoradockError: `stale_epoch` when a later epoch was seen, or when the call goes forward although its run has
                begun to put back.
        """
        name, epoch = command.served_name, command.epoch
        highest = self.epochs.get(name, -1)
        if epoch < highest:
            raise LoradockError(
                "stale_epoch", f"epoch {epoch} of {name} is over: {highest} was seen", epoch=epoch, highest_epoch=highest
            )  # fmt: skip
        self.epochs[name] = epoch
        if name in self.entries:
            self.entries[name].epoch = epoch
        run = (epoch, command.run_id)
        if command.undo:
            self.undoing[name] = run
        elif self.undoing.get(name) == run:
            raise LoradockError(
                "stale_epoch", f"the run of epoch {epoch} puts {name} back already", epoch=epoch
            )


class StockRecord:
    """The file.

    Args:
        file: made when missing, with its folders.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self, incarnation: str) -> Content:
        """What is known of this life."""
        found = self._content()
        return found if found.incarnation == incarnation else Content(incarnation=incarnation)

    @contextmanager
    def change(self, incarnation: str, command: Command | None = None) -> Iterator[Content]:
        """Change it, alone among all processes of the host; nothing is written when the block fails.

        Args:
            command: whose call it is; one that means another life or comes too late is refused.

        Raises:
            LoradockError: `incarnation_mismatch`, `stale_epoch`, `disk_error`.
        """
        if command is not None and command.incarnation != incarnation:
            raise other_life(incarnation)
        with self._locked():
            content = self._content()
            if content.incarnation != incarnation:
                if started_at(content.incarnation) > started_at(incarnation):
                    raise other_life(content.incarnation)
                content = Content(incarnation=incarnation)
            if command is not None:
                content.admit(command)
                self._write(content)  # whatever becomes of the call, an older one is late from now on
            yield content
            self._write(content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(f"{self._file}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise _disk_error(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held for the time of a small write
            yield
        finally:
            os.close(lock)

    def _content(self) -> Content:
        try:
            return Content.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return Content(incarnation="")
        except OSError as error:
            raise _disk_error(error) from error
        except ValidationError:
            # What it said is lost: what the engine lists counts as somebody else's from now on, and is replaced.
            _log.warning("%s cannot be read and is begun anew", self._file)
            return Content(incarnation="")

    def _write(self, content: Content) -> None:
        # Whole or not at all. No sync: a power cut ends the engine's life as well, and with it what is written here.
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            new.write_text(content.model_dump_json())
            new.replace(self._file)
        except OSError as error:
            raise _disk_error(error) from error


def other_life(incarnation: str) -> LoradockError:
    """`incarnation_mismatch`, naming the life that is now."""
    return LoradockError(
        "incarnation_mismatch", "the call means another life of this engine", incarnation=incarnation
    )


def _disk_error(error: OSError) -> LoradockError:
    return LoradockError(
        "disk_error", f"the record of a stock engine: {error.strerror or type(error).__name__}"
    )
