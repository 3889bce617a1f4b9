"""A load, by the one that holds the engine: all that can be told before, the engine's work, and what is noted of it."""

import asyncio
import logging
import time
from pathlib import Path

from loradock_vllm.binding import EngineBinding
from loradock_vllm.commands import LoadCommand
from loradock_vllm.errors import ExtensionError
from loradock_vllm.ledger import Adapter, Resident
from loradock_vllm.pace import LoadLimits
from loradock_vllm.record import Record
from loradock_vllm.residency import Residency

logger = logging.getLogger("vllm.loradock")


class Loader:
    """Loads adapters. Its caller holds the engine's lock.

    Args:
        binding: the engine.
        record: what its processes know in common.
        residency: what is really there.
        usable_slots: how many adapters may be resident.
        limits: how soon after one another loads may begin.
    """

    def __init__(
        self,
        binding: EngineBinding,
        record: Record,
        residency: Residency,
        usable_slots: int,
        limits: LoadLimits,
    ) -> None:
        self._binding = binding
        self._record = record
        self._residency = residency
        self._usable_slots = usable_slots
        self._limits = limits

    async def load(self, command: LoadCommand) -> tuple[str, Adapter]:
        """Load an adapter, or find that it is loaded: the outcome, and the adapter.

        Raises:
            ExtensionError: see `CODES`; `load_rate_limited` with `details.retry_after` (seconds) when it is too soon.
        """
        self._require_lora()
        held = self._record.ledger.match(command)
        resident = await self._residency.list_ids()
        if held is not None and held.int_id in resident.everywhere:
            return "already_loaded", held
        resident = await self._check(command, held)
        self._check_pace()
        with self._record.change() as ledger:
            ledger.begin_load(command, resident, time.monotonic())
        try:
            await self._residency.add(command)
            with self._record.change() as ledger:
                adapter = ledger.add(command)
        finally:
            with self._record.change() as ledger:
                ledger.end_load(time.monotonic())
        logger.info("loaded %s (int id %d, %s)", adapter.served_name, adapter.int_id, adapter.digest)
        return "loaded", adapter

    def _require_lora(self) -> None:
        facts = self._binding.facts
        if not facts.lora:
            raise ExtensionError("engine_not_supported", "this engine was started without --enable-lora")
        if facts.missing:
            raise ExtensionError(
                "engine_not_supported",
                f"{facts.kind} {facts.version} cannot do this here: {'; '.join(facts.missing)}",
                missing=list(facts.missing),
            )

    async def _check(self, command: LoadCommand, held: Adapter | None) -> Resident:
        """All that can be told before the engine is touched; gives what is resident."""
        name = command.served_name
        foreign = self._binding.foreign_names()
        if name in foreign or name in self._binding.facts.base_models:
            raise ExtensionError("adapter_conflict", f"the server has another model named {name}")
        if not await asyncio.to_thread((Path(command.path) / "adapter_config.json").is_file):
            raise ExtensionError("artifact_missing", f"no adapter_config.json in {command.path}")
        await self._residency.remove_leftovers()
        resident = await self._residency.list_ids()
        others = resident.somewhere - ({held.int_id} if held else set())
        if command.int_id in others or command.int_id in foreign.values():
            raise ExtensionError(
                "int_id_conflict", f"int id {command.int_id} is resident in the engine for another adapter"
            )
        taken = len(others | self._held_ids_but(held) | set(foreign.values()))
        if taken >= self._usable_slots:
            raise ExtensionError(
                "no_free_slot",
                f"{taken} adapters are resident and {self._usable_slots} slots are usable",
                resident=taken,
                usable_slots=self._usable_slots,
            )
        return resident

    def _held_ids_but(self, held: Adapter | None) -> set[int]:
        return self._record.ledger.int_ids() - ({held.int_id} if held else set())

    def _check_pace(self) -> None:
        wait = self._limits.wait_seconds(self._record.ledger.recent_loads, time.monotonic())
        if wait > 0:
            raise ExtensionError(
                "load_rate_limited",
                f"this engine takes its next load in {wait:.1f} s",
                retry_after=round(wait, 3),
            )
