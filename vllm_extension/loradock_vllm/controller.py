"""Load, drain, resume, unload: one change of the engine at a time, and a ledger that stays true throughout."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from loradock_vllm.binding import EngineBinding, EngineFacts
from loradock_vllm.commands import Command, DrainCommand, LoadCommand, ResumeCommand, UnloadCommand
from loradock_vllm.errors import ExtensionError
from loradock_vllm.in_flight import InFlight
from loradock_vllm.ledger import Adapter, Ledger
from loradock_vllm.residency import Residency
from loradock_vllm.version import __version__

ABORT_SECONDS: Final = 10.0
"""How long aborted requests may take to end after their tasks were cancelled."""

T = TypeVar("T")

# A child of vLLM's own logger, so that its lines appear in the server's log without any setting.
logger = logging.getLogger("vllm.loradock")


class Controller:
    """The one that changes the engine behind this server process.

    Args:
        binding: the engine.
        usable_slots: another number than the engine's own idea of it; never above its `max_loras`.
    """

    def __init__(self, binding: EngineBinding, usable_slots: int | None = None) -> None:
        self.incarnation = str(uuid.uuid4())
        self.ledger = Ledger()
        self.in_flight = InFlight()
        self._binding = binding
        self._residency = Residency(binding, self.ledger)
        self._usable_override = usable_slots
        self._engine_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loading: int | None = None

    @property
    def facts(self) -> EngineFacts:
        """What does not change while the engine runs."""
        return self._binding.facts

    @property
    def usable_slots(self) -> int:
        """How many adapters may be resident."""
        if self._usable_override is None:
            return self.facts.usable_slots
        return min(self._usable_override, self.facts.max_loras)

    def knows_model(self, name: str) -> bool:
        """Whether some model of this server has this name: base model, ours, or another's adapter."""
        return (
            name in self.facts.base_models
            or self.ledger.get(name) is not None
            or name in self._binding.foreign_names()
        )

    async def state(self) -> dict[str, Any]:
        """What the engine really holds, beside what the ledger believes.

        Raises:
            ExtensionError: `engine_error` when the engine does not tell.
        """
        facts = self.facts
        # An engine that is adding an adapter answers nothing else meanwhile: what it held before must do for so long.
        resident = await self._residency.known_ids(busy=self._loading is not None) if facts.lora else set()
        known = self.ledger.int_ids()
        loading = {self._loading} if self._loading is not None else set()
        taken = resident | known | loading | set(self._binding.foreign_names().values())
        return {
            "incarnation": self.incarnation,
            "extension_version": __version__,
            "engine": {"kind": facts.kind, "version": facts.version, "tested": facts.tested},
            "base_model": facts.base_models[0] if facts.base_models else "",
            "base_config": dict(facts.base_config) or None,
            "max_loras": facts.max_loras,
            "usable_slots": self.usable_slots,
            "free_slots": max(0, self.usable_slots - len(taken)),
            "max_lora_rank": facts.max_lora_rank,
            "device": facts.device,
            "capabilities": self._capabilities(),
            "limitations": list(facts.limitations),
            "adapters": [self._describe(adapter, resident) for adapter in self.ledger.adapters()],
            "foreign_int_ids": sorted(resident - known - loading),
            "in_flight_base": self.in_flight.base,
        }

    async def load(self, command: LoadCommand) -> dict[str, Any]:
        """Load an adapter, or find that it is loaded.

        Cancelled while it waits for its turn, nothing has happened; cancelled later, the load goes on to the end.

        Raises:
            ExtensionError: see `CODES`. After every failure nothing of the adapter is left in the engine, or the
                leftover is remembered and removed before the next load.
        """
        self._admit(command)
        return await self._exclusive(lambda: self._load(command))

    async def drain(self, command: DrainCommand) -> dict[str, Any]:
        """Refuse new requests for a name and wait a while for the running ones.

        Raises:
            ExtensionError: `adapter_not_loaded`, or what every call may meet.
        """
        self._admit(command)
        adapter = await self._held(command)
        if adapter is None:
            raise ExtensionError("adapter_not_loaded", f"{command.served_name} is not loaded here")
        self.ledger.start_drain(adapter)
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
        self._admit(command)
        adapter = await self._held(command)
        if adapter is None:
            return _unloaded("not_loaded", started)
        if command.only_operation is not None and adapter.operation != command.only_operation:
            return _unloaded("not_owned", started)
        generation = self.ledger.start_drain(adapter)
        await self._wait_for_requests(command, adapter, generation)
        outcome = await self._exclusive(lambda: self._unload(command, adapter, generation))
        return _unloaded(outcome, started)

    def _admit(self, command: Command) -> None:
        if command.incarnation != self.incarnation:
            raise ExtensionError(
                "incarnation_mismatch",
                "the call means another life of this engine",
                incarnation=self.incarnation,
            )
        self.ledger.fence(command)

    async def _held(self, command: Command) -> Adapter | None:
        """The adapter of the name; one whose load is under way is waited for."""
        held = self.ledger.get(command.served_name)
        if held is None:
            async with self._engine_lock:
                self._admit(command)
                held = self.ledger.get(command.served_name)
        return held

    async def _exclusive(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run `work` when no other work runs. Once begun it ends, even if the caller is cancelled."""
        await self._engine_lock.acquire()
        # No await may come between the acquisition and the task that releases it.
        task = asyncio.create_task(self._release_after(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _release_after(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return await work()
        finally:
            self._engine_lock.release()

    async def _load(self, command: LoadCommand) -> dict[str, Any]:
        started = time.monotonic()
        # Asked again: a later operation may have come while this one waited for its turn.
        self._admit(command)
        self._require_lora()
        held = self.ledger.match(command)
        if held is not None and held.int_id in await self._residency.list_ids():
            return self._loaded("already_loaded", held, started)
        await self._check_load(command, held)
        self._loading = command.int_id
        try:
            await self._residency.add(command)
        finally:
            self._loading = None
        adapter = held or self.ledger.add(command)
        adapter.path = command.path
        if not adapter.detached:
            self._binding.bind_name(adapter.served_name, adapter.int_id, adapter.path)
        logger.info("loaded %s (int id %d, %s)", adapter.served_name, adapter.int_id, adapter.digest)
        return self._loaded("loaded", adapter, started)

    def _require_lora(self) -> None:
        facts = self.facts
        if not facts.lora:
            raise ExtensionError("engine_not_supported", "this engine was started without --enable-lora")
        if facts.missing:
            raise ExtensionError(
                "engine_not_supported",
                f"{facts.kind} {facts.version} cannot do this here: {'; '.join(facts.missing)}",
                missing=list(facts.missing),
            )

    async def _check_load(self, command: LoadCommand, held: Adapter | None) -> None:
        """All that can be told before the engine is touched."""
        name = command.served_name
        foreign = self._binding.foreign_names()
        if name in foreign or name in self.facts.base_models:
            raise ExtensionError("adapter_conflict", f"the server has another model named {name}")
        if not await asyncio.to_thread((Path(command.path) / "adapter_config.json").is_file):
            raise ExtensionError("artifact_missing", f"no adapter_config.json in {command.path}")
        await self._residency.remove_leftovers()
        resident = await self._residency.list_ids()
        if command.int_id in resident or command.int_id in foreign.values():
            raise ExtensionError(
                "int_id_conflict", f"int id {command.int_id} is resident in the engine for another adapter"
            )
        held_ids = self.ledger.int_ids() - ({held.int_id} if held else set())
        taken = len(resident | held_ids | set(foreign.values()))
        if taken >= self.usable_slots:
            raise ExtensionError(
                "no_free_slot",
                f"{taken} adapters are resident and {self.usable_slots} slots are usable",
                resident=taken,
                usable_slots=self.usable_slots,
            )

    async def _resume(self, command: ResumeCommand) -> dict[str, Any]:
        self._admit(command)
        adapter = self.ledger.require(command.served_name)
        if adapter.detached:
            if adapter.int_id not in await self._residency.list_ids():
                self.ledger.discard(adapter)
                raise ExtensionError(
                    "adapter_not_loaded", f"{command.served_name} was removed from the engine"
                )
            self._binding.bind_name(adapter.served_name, adapter.int_id, adapter.path)
        self.ledger.resume(adapter)
        return {"outcome": "serving"}

    async def _wait_for_requests(self, command: UnloadCommand, adapter: Adapter, generation: int) -> None:
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
        if not self._still_drains(command, adapter, generation):
            return
        logger.warning("aborting %d requests for %s", running, name)
        if not await self.in_flight.abort(name, ABORT_SECONDS):
            left = self.in_flight.count(name)
            raise ExtensionError("unload_failed", f"{left} requests for {name} do not end", in_flight=left)

    def _still_drains(self, command: Command, adapter: Adapter, generation: int) -> bool:
        """After a wait: whether the adapter is still held, and draining for this call.

        Raises:
            ExtensionError: `stale_epoch` when a later operation took over, `adapter_conflict` after a resume.
        """
        self._admit(command)
        if self.ledger.get(command.served_name) is not adapter:
            return False
        if adapter.generation != generation:
            raise ExtensionError("adapter_conflict", f"{command.served_name} was resumed while it drained")
        return True

    async def _unload(self, command: UnloadCommand, adapter: Adapter, generation: int) -> str:
        if not self._still_drains(command, adapter, generation):
            return "not_loaded"
        adapter.detached = True
        self._binding.unbind_name(adapter.served_name)
        if not await self._residency.remove(adapter.int_id):
            raise ExtensionError(
                "unload_failed",
                f"{adapter.served_name} is still resident after its removal; it stays refused",
                int_id=adapter.int_id,
            )
        self.ledger.discard(adapter)
        logger.info("unloaded %s (int id %d)", adapter.served_name, adapter.int_id)
        return "unloaded"

    def _capabilities(self) -> list[str]:
        always = ["in_flight", "expectations"]
        if not self.facts.lora or self.facts.missing:
            return always
        return ["load", "unload", "drain", "resume", "abort", *self.facts.capabilities, *always]

    def _describe(self, adapter: Adapter, resident: set[int]) -> dict[str, Any]:
        return {
            "served_name": adapter.served_name,
            "digest": adapter.digest,
            "int_id": adapter.int_id,
            "path": adapter.path,
            "state": adapter.state.value,
            "in_flight": self.in_flight.count(adapter.served_name),
            "resident": adapter.int_id in resident,
            "operation": adapter.operation,
            "epoch": self.ledger.epoch(adapter.served_name),
            "loaded_at": adapter.loaded_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    def _loaded(self, outcome: str, adapter: Adapter, started: float) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "incarnation": self.incarnation,
            "adapter": self._describe(adapter, {adapter.int_id}),
            "seconds": round(time.monotonic() - started, 6),
        }


def _unloaded(outcome: str, started: float) -> dict[str, Any]:
    return {"outcome": outcome, "seconds": round(time.monotonic() - started, 6)}
