"""Changes of a stock engine: one at a time, and a record that is true before and after each."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from loradock.core.errors import LoradockError
from loradock.core.promises import EnginePromise
from loradock.engines.protocol import Command, LoadCommand, LoadResult, ResumeCommand
from loradock.engines.stock.look import StockLook
from loradock.engines.stock.quiet import QuietWatch
from loradock.engines.stock.record import Content, Entry, Phase, StockRecord, other_life
from loradock.engines.stock.report import Seen, StockReporter, describe
from loradock.engines.stock.server import StockServer

T = TypeVar("T")

_BEFORE_A_SLOT: Final = frozenset(
    {"artifact_missing", "adapter_corrupt", "adapter_not_supported", "rank_too_high", "unexpected_modules"}
)
"""Failures at which vLLM has taken no slot yet; after others it may have left half a load in one."""
_UNKEPT_BY_LOAD: Final = (EnginePromise.RESIDENCY_CHECK, EnginePromise.NO_EVICTION)


class StockChanges:
    """The one in this process that changes the engine. What was begun ends, even if the caller is cancelled.

    Args:
        look: at the engine.
        record: of its host.
        quiet: told which names go and come.
    """

    def __init__(
        self,
        server: StockServer,
        look: StockLook,
        record: StockRecord,
        reporter: StockReporter,
        quiet: QuietWatch,
    ) -> None:
        self._server = server
        self._look = look
        self._record = record
        self._reporter = reporter
        self._quiet = quiet
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def admit(self, command: Command) -> None:
        """See that a call means this life and does not come too late.

        Raises:
            LoradockError: `incarnation_mismatch`, `stale_epoch`.
        """
        with self._record.change(await self._server.life(), command):
            pass

    async def load(self, command: LoadCommand) -> LoadResult:
        """Load a version, or find that it is loaded.

        Raises:
            LoradockError: as `StockVllmEngine.load`.
        """
        return await self._exclusive(lambda: self._load(command))

    async def take_name(self, command: Command, only_operation: str | None = None) -> Entry | None:
        """Take a name away: requests for it are refused from now on.

        Args:
            only_operation: do nothing when another operation loaded it.

        Returns:
            The name's adapter, None when there is none.
        """
        return await self._exclusive(lambda: self._take_name(command, only_operation))

    async def resume(self, command: ResumeCommand) -> None:
        """Give a name back: the same path is loaded again.

        Raises:
            LoradockError: as `StockVllmEngine.resume`.
        """
        await self._exclusive(lambda: self._resume(command))

    async def forget(self, command: Command, entry: Entry, *, quiet: bool) -> bool:
        """Strike a name out of the record once it is seen to be gone.

        Args:
            entry: as it was when its name was taken away.
            quiet: whether its last request has ended, as far as can be told.

        Returns:
            Whether it was still there to strike out.

        Raises:
            LoradockError: `adapter_conflict` when a resume came between; `unload_failed` when the name is back.
        """
        return await self._exclusive(lambda: self._forget(command, entry, quiet=quiet))

    async def _exclusive(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work` when no other work runs. Once begun it ends, even if the caller is cancelled."""
        await self._turn.acquire()
        # No await may come between the acquisition and the task that releases it.
        task = asyncio.create_task(self._in_turn(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await work()
        finally:
            self._turn.release()

    async def _load(self, command: LoadCommand) -> LoadResult:
        began = time.monotonic()
        seen = await self._look.look()
        with self._record.change(seen.incarnation, command) as record:
            held = self._match(command, seen, record)
            if held is None:
                self._check_room(command, seen, record)
                record.entries[command.served_name] = _new_entry(command)
                record.loads += 1
        if held is None:
            held = await self._put_in(command, seen.incarnation)
        return LoadResult(
            outcome="loaded" if held.phase is Phase.LOADING else "already_loaded",
            incarnation=seen.incarnation,
            adapter=describe(held),
            seconds=since(began),
            unkept=_UNKEPT_BY_LOAD,
        )

    def _match(self, command: LoadCommand, seen: Seen, record: Content) -> Entry | None:
        """The adapter that a load asks for, when it is there already.

        Raises:
            LoradockError: `adapter_conflict`, `int_id_conflict`, `path_without_digest`.
        """
        entries = self._reporter.entries(seen, record)
        held = entries.pop(command.served_name, None)
        if held is not None:
            if (held.digest, held.int_id, held.path) == (command.digest, command.int_id, command.path):
                return held
            raise LoradockError(
                "adapter_conflict",
                f"{command.served_name} is held with other weights or another id",
                digest=held.digest,
                int_id=held.int_id,
            )
        for other in entries.values():
            if other.int_id == command.int_id:
                raise LoradockError(
                    "int_id_conflict", f"int id {command.int_id} belongs to {other.served_name}"
                )
        if command.digest.removeprefix("sha256:") not in command.path:
            raise LoradockError(
                "path_without_digest", f"{command.path} does not contain the digest {command.digest}"
            )
        return None

    def _check_room(self, command: Command, seen: Seen, record: Content) -> None:
        if self._reporter.free_slots(seen, record) <= 0:
            raise LoradockError(
                "no_free_slot",
                f"no slot is free for {command.served_name}: {seen.max_loras} slots, {len(seen.adapters)} names,"
                f" {record.loads} loads since the engine's start",
            )

    async def _put_in(self, command: LoadCommand, incarnation: str) -> Entry:
        """Have the engine load it, and see that it lists just this."""
        name = command.served_name
        try:
            await self._server.load(name, command.path)
        except LoradockError as error:
            if error.code != "engine_unreachable":  # then it may have been loaded: the record says by whom
                self._forget_load(command, incarnation, error.code)
            raise
        models = await self._server.models()
        life = await self._server.life()
        if life != incarnation:
            raise other_life(life)
        if models.adapters.get(name) != command.path:
            raise LoradockError(
                "engine_not_verified", f"the engine does not list {name} with {command.path} after its load"
            )
        with self._record.change(incarnation) as record:
            entry = record.entries.setdefault(name, _new_entry(command))
            entry.phase = Phase.SERVING
            if name in record.unfinished:
                record.unfinished.remove(name)
        self._quiet.end(name)
        # Told as what was just loaded.
        return entry.model_copy(update={"phase": Phase.LOADING})

    def _forget_load(self, command: LoadCommand, incarnation: str, code: str) -> None:
        with self._record.change(incarnation) as record:
            entry = record.entries.get(command.served_name)
            if entry is not None and entry.phase is Phase.LOADING:
                del record.entries[command.served_name]
                record.loads -= code in _BEFORE_A_SLOT

    async def _take_name(self, command: Command, only_operation: str | None) -> Entry | None:
        name = command.served_name
        seen = await self._look.look()
        with self._record.change(seen.incarnation, command) as record:
            entry = self._reporter.entries(seen, record).get(name)
            if entry is None or only_operation not in (None, entry.operation):
                return entry
            entry = entry.model_copy(update={"phase": Phase.DRAINING})
            record.entries[name] = entry
        if name in seen.adapters:
            self._quiet.end(name)
            await self._server.unload(name)
        self._quiet.begin(name)
        return entry

    async def _resume(self, command: ResumeCommand) -> None:
        name = command.served_name
        seen = await self._look.look()
        with self._record.change(seen.incarnation, command) as record:
            entry = self._reporter.entries(seen, record).get(name)
            if entry is None:
                raise not_loaded(command)
            if entry.phase is Phase.DRAINING:
                self._check_resumable(command, seen, record)
                record.loads += 1
        if entry.phase is Phase.DRAINING:
            await self._server.load(name, entry.path)
        with self._record.change(seen.incarnation, command) as record:
            entry = entry.model_copy(update={"phase": Phase.SERVING, "resumed": entry.resumed + 1})
            record.entries[name] = entry
        self._quiet.end(name)

    def _check_resumable(self, command: Command, seen: Seen, record: Content) -> None:
        """On a CPU engine a resume takes a slot more; elsewhere it has its own still."""
        others = record.model_copy(update={"entries": {**record.entries}})
        others.entries.pop(command.served_name, None)
        self._check_room(command, seen, others)

    async def _forget(self, command: Command, entry: Entry, *, quiet: bool) -> bool:
        name = command.served_name
        seen = await self._look.look()
        with self._record.change(seen.incarnation, command) as record:
            current = record.entries.get(name)
            if current is None:
                return False
            if current.resumed != entry.resumed:
                raise LoradockError("adapter_conflict", f"{name} was resumed while it drained")
            if name in seen.adapters:
                raise LoradockError(
                    "unload_failed", f"the engine lists {name} again after its name was taken away"
                )
            del record.entries[name]
            if not quiet and name not in record.unfinished:
                record.unfinished.append(name)
        if quiet:
            self._quiet.end(name)
        return True


def _new_entry(command: LoadCommand) -> Entry:
    return Entry(
        served_name=command.served_name,
        digest=command.digest,
        int_id=command.int_id,
        path=command.path,
        operation=command.operation,
        phase=Phase.LOADING,
        loaded_at=datetime.now(UTC),
        epoch=command.epoch,
    )


def not_loaded(command: Command) -> LoradockError:
    """`adapter_not_loaded`."""
    return LoradockError("adapter_not_loaded", f"{command.served_name} is not loaded here")


def since(began: float) -> float:
    """Seconds since a reading of the monotonic clock."""
    return round(time.monotonic() - began, 6)
