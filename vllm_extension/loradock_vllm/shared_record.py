"""The record of an engine with several API server processes: files in a private folder of the host.

`ledger.json` holds the ledger in its first line and the fences in the second, so that a reader need not read those. It is
written under a lock, beside itself, and then put in its place: whoever dies in the middle leaves the old one. Afterwards the
generation in `counts` is raised, which every process looks at before it serves a request.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from loradock_vllm.commands import Command
from loradock_vllm.errors import ExtensionError
from loradock_vllm.fences import Fences
from loradock_vllm.ledger import Ledger
from loradock_vllm.process import ProcessId
from loradock_vllm.shared_counts import SharedCounts
from loradock_vllm.shared_in_flight import SharedInFlight
from loradock_vllm.shared_lock import SharedLock

WATCH_SECONDS: Final = 0.05
"""How long a process may take to notice a change while no request makes it look."""

_FORM: Final = 1
_NEVER: Final = -1
"""No generation: who has seen this one looks again every time."""


class SharedRecord:
    """One process's part in the record.

    Args:
        folder: the engine's own, made by `runtime_folder.engine_folder`.
        processes: how many API server processes the engine has.
        adapters: how many adapters it can hold.

    Raises:
        OSError: the folder cannot be used.
        ValueError: what lies in it has another form.
    """

    def __init__(self, folder: Path, processes: int, adapters: int) -> None:
        self._path = folder / "ledger.json"
        self._parent = os.getppid()
        self._orphan = False
        # Kept locked for as long as the process lives: cleaners of temporary folders leave such a folder alone.
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._folder, fcntl.LOCK_SH)
        self._lock = os.open(folder / "ledger.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.engine_lock = SharedLock(folder / "engine.lock")
        # Twice as many rows as processes: one that took a dead one's place must not wait for anything.
        self._counts = SharedCounts(folder / "counts", 2 * processes, 1 + adapters)
        self.in_flight = SharedInFlight(self._counts, self._cell_of)
        self._changed: Callable[[Ledger], None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        with self._locked():
            if not self._counts.living():
                # What lies here is of an engine that is gone.
                self._write(str(uuid.uuid4()), Ledger())
            self._counts.join(ProcessId.of(os.getpid()))
            self.incarnation, self._view = self._read(whole=False)
            self._seen = self._counts.generation

    @property
    def ledger(self) -> Ledger:
        """How the ledger stands now, to read.

        Raises:
            ExtensionError: `engine_error`.
        """
        if self._counts.generation != self._seen:
            self._refresh()
        return self._view

    def is_current(self) -> bool:
        """Whether no process changed anything since `ledger` was read."""
        return self._counts.generation == self._seen

    @contextmanager
    def change(self, command: Command | None = None) -> Iterator[Ledger]:
        """Change the ledger; every process sees the change before it serves its next request.

        Raises:
            ExtensionError: `stale_epoch`, `engine_error`.
        """
        with self._locked():
            _, ledger = self._read(whole=True)
            if command is not None:
                ledger.fence(command)
            try:
                yield ledger
            finally:
                self._write(self.incarnation, ledger)
        self._refresh()

    def watch(self, changed: Callable[[Ledger], None]) -> None:
        """Have `changed` called in this process after every change, whichever process made it."""
        self._changed = changed
        changed(self.ledger)
        self._watcher = asyncio.get_running_loop().create_task(self._look(), name="loradock-record")

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if os.getppid() != self._parent:
                self._orphaned()
            elif not self.is_current():
                with contextlib.suppress(ExtensionError):  # told to whoever asks next
                    self._refresh()

    def _orphaned(self) -> None:
        """The process that held the engine together is gone, and the next engine may listen on the same port already."""
        self._orphan = True
        self._seen = _NEVER

    def _refresh(self) -> None:
        # The generation first: a change between the two readings is then noticed the next time.
        generation = self._counts.generation
        _, self._view = self._read(whole=False)
        self._seen = generation
        if self._changed is not None:
            self._changed(self._view)

    def _cell_of(self, served_name: str) -> int | None:
        adapter = self._view.get(served_name)
        return None if adapter is None else adapter.cell

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A moment in which no other process changes the record. Whoever has it waits for nothing and nobody."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _read(self, *, whole: bool) -> tuple[str, Ledger]:
        if self._orphan:
            raise ExtensionError(
                "engine_error", "the process that started this server is gone: it serves no more"
            )
        try:
            with self._path.open(encoding="utf-8") as file:
                head: dict[str, Any] = json.loads(file.readline())
                fences = Fences.read(json.loads(file.readline())) if whole else None
            if head["form"] != _FORM:
                raise ValueError("another version of the extension wrote it")
            return str(head["incarnation"]), Ledger.read(head["ledger"], fences)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExtensionError(
                "engine_error", f"the record of this engine's processes cannot be read: {error!r}"
            ) from error

    def _write(self, incarnation: str, ledger: Ledger) -> None:
        head = {"form": _FORM, "incarnation": incarnation, "ledger": ledger.dump()}
        text = "\n".join(json.dumps(part, separators=(",", ":")) for part in (head, ledger.fences.dump()))
        beside = self._path.with_suffix(".new")
        try:
            beside.write_text(text + "\n", encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:
            raise ExtensionError(
                "engine_error", f"the record of this engine's processes cannot be written: {error!r}"
            ) from error
        self._counts.next_generation()
