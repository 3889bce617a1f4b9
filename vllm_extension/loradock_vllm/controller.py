"""Load, drain, resume, unload: one change of the engine at a time, and a ledger that stays true throughout."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

from loradock_vllm.binding import EngineBinding
from loradock_vllm.commands import Command, DrainCommand, LoadCommand, ResumeCommand, UnloadCommand
from loradock_vllm.errors import ExtensionError
from loradock_vllm.in_flight import InFlight
from loradock_vllm.ledger import Adapter, Ledger
from loradock_vllm.loading import Loader
from loradock_vllm.pace import LoadLimits
from loradock_vllm.record import LocalRecord, Record
from loradock_vllm.report import Reporter
from loradock_vllm.residency import Residency
from loradock_vllm.served_names import ServedNames

ABORT_SECONDS: Final = 12.0
"""How long aborted requests may take to end: first by themselves, then with their tasks cancelled."""

PACE_SECONDS: Final = 30.0
"""How long a load that comes too soon waits before it is told to come again."""

T = TypeVar("T")

# A child of vLLM's own logger, so that its lines appear in the server's log without any setting.
logger = logging.getLogger("vllm.loradock")


class Controller:
    """The one that changes the engine behind this server process, and knows what its sibling processes do.

    Args:
        binding: the engine.
        usable_slots: another number than the engine's own idea of it; never above its `max_loras`.
        record: what all server processes of the engine know in common; its own when there is only this one.
        limits: how soon after one another loads may begin.
    """

    def __init__(
        self,
        binding: EngineBinding,
        usable_slots: int | None = None,
        record: Record | None = None,
        limits: LoadLimits | None = None,
    ) -> None:
        self.record = record or LocalRecord()
        self.usable_slots = binding.facts.usable_slots
        if usable_slots is not None:
            self.usable_slots = min(usable_slots, binding.facts.max_loras)
        self._binding = binding
        self._names = ServedNames(binding)
        self._residency = Residency(binding, self.record)
        parts = (binding, self.record, self._residency, self.usable_slots, limits or LoadLimits())
        self._loader = Loader(*parts)
        self._reporter = Reporter(*parts)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._aborting: set[str] = set()
        self.record.watch(self._follow)

    @property
    def incarnation(self) -> str:
        """New at every start of the engine."""
        return self.record.incarnation

    @property
    def in_flight(self) -> InFlight:
        """The running requests."""
        return self.record.in_flight

    def knows_model(self, name: str) -> bool:
        """Whether some model of this server has this name: base model, ours, or another's adapter."""
        return (
            name in self._binding.facts.base_models
            or self.record.ledger.get(name) is not None
            or name in self._binding.foreign_names()
        )

    def catch_up(self) -> None:
        """Have what sibling processes changed be true here too.

        Raises:
            ExtensionError: `engine_error` when this process cannot know it: it must not serve anything.
        """
        _ = self.record.ledger

    async def state(self) -> dict[str, Any]:
        """What the engine really holds, beside what the ledger believes.

        Raises:
            ExtensionError: `engine_error` when the engine does not tell.
        """
        return await self._reporter.state()

    def _follow(self, ledger: Ledger) -> None:
        """The ledger has changed, here or in a sibling process: this process's names and requests follow."""
        self._names.follow(ledger)
        for adapter in ledger.adapters():
            if adapter.aborting and self.in_flight.count_own(adapter.served_name):
                self._abort(adapter.served_name)

    def _abort(self, name: str) -> None:
        if name in self._aborting:
            return
        self._aborting.add(name)
        logger.warning("aborting %d requests for %s", self.in_flight.count_own(name), name)
        task = self._keep(self.in_flight.abort_own(name))
        task.add_done_callback(lambda _: self._aborting.discard(name))

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def load(self, command: LoadCommand) -> dict[str, Any]:
        """Load an adapter, or find that it is loaded.

        Cancelled while it waits for its turn, nothing has happened; cancelled later, the load goes on to the end.

        Raises:
            ExtensionError: see `CODES`. After every failure nothing of the adapter is left in the engine, or the
                leftover is remembered and removed before the next load.
        """
        self._admit(command)
        deadline = time.monotonic() + PACE_SECONDS
        while True:
            try:
                return await self._exclusive(lambda: self._load(command))
            except ExtensionError as error:
                wait = error.details.get("retry_after", 0.0)
                if error.code != "load_rate_limited" or time.monotonic() + wait > deadline:
                    raise
            # Without the lock: what is not a load goes on meanwhile.
            await asyncio.sleep(wait)

    async def drain(self, command: DrainCommand) -> dict[str, Any]:
        """Refuse new requests for a name and wait a while for the running ones.

        Raises:
            ExtensionError: `adapter_not_loaded`, or what every call may meet.
        """
        if await self._start_drain(command) is None:
            raise ExtensionError("adapter_not_loaded", f"{command.served_name} is not loaded here")
        idle = await self.in_flight.wait_idle(command.served_name, command.wait_seconds)
        return {
            "outcome": "drained" if idle else "draining",
            "in_flight": self.in_flight.count(command.served_name),
        }

    async def resume(self, command: ResumeCommand) -> dict[str, Any]:
        """Admit requests for a name again.

        Raises:
            ExtensionError: `adapter_not_loaded`, or what every call may meet.
        """
        self._admit(command)
        return await self._exclusive(lambda: self._resume(command))

    async def unload(self, command: UnloadCommand) -> dict[str, Any]:
        """Drain a name, remove its adapter from the engine, and check that it is gone.

        Cancelled while it waits for running requests, the name stays draining and nothing is removed.

        Raises:
            ExtensionError: `drain_timeout`, `unload_failed`, `adapter_conflict` when a resume came between, or
                what every call may meet.
        """
        started = time.monotonic()
        adapter = await self._start_drain(command, command.only_operation)
        if adapter is None:
            return _unloaded("not_loaded", started)
        if command.only_operation not in (None, adapter.operation):
            return _unloaded("not_owned", started)
        await self._wait_for_requests(command, adapter)
        outcome = await self._exclusive(lambda: self._unload(command, adapter))
        return _unloaded(outcome, started)

    def _admit(self, command: Command) -> None:
        with self._change(command):
            pass

    def _change(self, command: Command) -> AbstractContextManager[Ledger]:
        """Change the ledger for a call that means this engine and does not come too late."""
        if command.incarnation != self.incarnation:
            raise ExtensionError(
                "incarnation_mismatch",
                "the call means another life of this engine",
                incarnation=self.incarnation,
            )
        return self.record.change(command)

    async def _start_drain(self, command: Command, only_operation: str | None = None) -> Adapter | None:
        """The name's adapter, draining unless another operation has loaded it; None when there is none."""
        adapter = self._drain_now(command, only_operation)
        if adapter is None and self.record.engine_lock.locked():
            # Its load may be under way: that is waited for.
            await self.record.engine_lock.acquire()
            self.record.engine_lock.release()
            adapter = self._drain_now(command, only_operation)
        return adapter

    def _drain_now(self, command: Command, only_operation: str | None) -> Adapter | None:
        with self._change(command) as ledger:
            held = ledger.get(command.served_name)
            if held is None or only_operation not in (None, held.operation):
                return held
            return ledger.start_drain(command.served_name)

    async def _exclusive(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work` when no other work runs, in any process. Once begun it ends, even if the caller is cancelled."""
        await self.record.engine_lock.acquire()
        # No await may come between the acquisition and the task that releases it.
        return await asyncio.shield(self._keep(self._release_after(work)))

    async def _release_after(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await work()
        finally:
            self.record.engine_lock.release()

    async def _load(self, command: LoadCommand) -> dict[str, Any]:
        started = time.monotonic()
        # Asked again: a later operation may have come while this one waited for its turn.
        self._admit(command)
        outcome, adapter = await self._loader.load(command)
        return {
            "outcome": outcome,
            "incarnation": self.incarnation,
            "adapter": self._reporter.describe(adapter, resident=True),
            "seconds": round(time.monotonic() - started, 6),
        }

    async def _resume(self, command: ResumeCommand) -> dict[str, Any]:
        self._admit(command)
        adapter = self.record.ledger.require(command.served_name)
        if adapter.detached:
            await self._require_whole(adapter)
        with self._change(command) as ledger:
            ledger.resume(command.served_name)
        return {"outcome": "serving"}

    async def _require_whole(self, adapter: Adapter) -> None:
        """See that a removal that was given up took nothing away; else what is left is remembered, to go before a load."""
        resident = await self._residency.list_ids()
        if adapter.int_id in resident.everywhere:
            return
        with self.record.change() as ledger:
            ledger.discard(adapter)
            if adapter.int_id in resident.somewhere:
                ledger.note_leftover(adapter.int_id, adapter.digest)
        raise ExtensionError("adapter_not_loaded", f"{adapter.served_name} was removed from the engine")

    async def _wait_for_requests(self, command: UnloadCommand, adapter: Adapter) -> None:
        name = command.served_name
        if await self.in_flight.wait_idle(name, command.drain_seconds):
            return
        running = self.in_flight.count(name)
        if command.on_timeout == "keep_draining":
            raise ExtensionError(
                "drain_timeout",
                f"{running} requests for {name} still run after {command.drain_seconds:g} s; it stays draining",
                in_flight=running,
            )
        with self._change(command) as ledger:
            if not _still_drains(ledger, adapter):
                return
            ledger.start_abort(adapter)
        if not await self.in_flight.wait_idle(name, ABORT_SECONDS):
            left = self.in_flight.count(name)
            raise ExtensionError("unload_failed", f"{left} requests for {name} do not end", in_flight=left)

    async def _unload(self, command: UnloadCommand, adapter: Adapter) -> str:
        with self._change(command) as ledger:
            if not _still_drains(ledger, adapter):
                return "not_loaded"
            # From here on no process has the name in its table.
            ledger.detach(adapter)
        if not await self._residency.remove(adapter.int_id):
            raise ExtensionError(
                "unload_failed",
                f"{adapter.served_name} is still resident after its removal; it stays refused",
                int_id=adapter.int_id,
            )
        with self.record.change() as ledger:
            ledger.discard(adapter)
        logger.info("unloaded %s (int id %d)", adapter.served_name, adapter.int_id)
        return "unloaded"


def _still_drains(ledger: Ledger, adapter: Adapter) -> bool:
    """After a wait: whether the adapter is still held, and draining as it was when the wait began.

    Raises:
        ExtensionError: `adapter_conflict` after a resume.
    """
    if not ledger.holds(adapter):
        return False
    if ledger.require(adapter.served_name).generation != adapter.generation:
        raise ExtensionError("adapter_conflict", f"{adapter.served_name} was resumed while it drained")
    return True


def _unloaded(outcome: str, started: float) -> dict[str, Any]:
    return {"outcome": outcome, "seconds": round(time.monotonic() - started, 6)}
