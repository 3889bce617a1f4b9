"""What the extension tells of an engine: what it really holds, beside what the ledger believes."""

import os
from typing import Any

from loradock_vllm.binding import EngineBinding, EngineFacts
from loradock_vllm.ledger import NOTHING_RESIDENT, Adapter
from loradock_vllm.pace import LoadLimits
from loradock_vllm.record import Record
from loradock_vllm.residency import Residency
from loradock_vllm.version import __version__


class Reporter:
    """Answers `state`, and describes adapters in other answers.

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

    async def state(self) -> dict[str, Any]:
        """The whole state.

        Raises:
            ExtensionError: `engine_error` when the engine does not tell.
        """
        facts = self._binding.facts
        loading = self._record.ledger.loading if self._record.engine_lock.locked() else None
        resident = NOTHING_RESIDENT
        if loading is not None:
            resident = loading.before
        elif facts.lora:
            resident = await self._residency.settled_ids()
        ledger = self._record.ledger
        known = ledger.int_ids() | ({loading.int_id} if loading is not None else set())
        taken = resident.somewhere | known | set(self._binding.foreign_names().values())
        return {
            "incarnation": self._record.incarnation,
            "extension_version": __version__,
            "engine": {"kind": facts.kind, "version": facts.version, "tested": facts.tested},
            "base_model": facts.base_models[0] if facts.base_models else "",
            "base_config": dict(facts.base_config) or None,
            "max_loras": facts.max_loras,
            "usable_slots": self._usable_slots,
            "free_slots": max(0, self._usable_slots - len(taken)),
            "max_lora_rank": facts.max_lora_rank,
            "device": facts.device,
            "api_servers": facts.api_servers,
            "answered_by": os.getpid(),
            "data_parallel_ranks": facts.data_parallel_ranks,
            "load_limits": {
                "pause_seconds": self._limits.pause_seconds,
                "per_minute": self._limits.per_minute,
            },
            "capabilities": _capabilities(facts),
            "limitations": list(facts.limitations),
            "adapters": [
                self.describe(adapter, resident=adapter.int_id in resident.everywhere)
                for adapter in ledger.adapters()
            ],
            "foreign_int_ids": sorted(resident.somewhere - known),
            "in_flight_base": self._record.in_flight.base,
        }

    def describe(self, adapter: Adapter, *, resident: bool) -> dict[str, Any]:
        """One adapter."""
        return {
            "served_name": adapter.served_name,
            "digest": adapter.digest,
            "int_id": adapter.int_id,
            "path": adapter.path,
            "state": adapter.state.value,
            "in_flight": self._record.in_flight.count(adapter.served_name),
            "resident": resident,
            "operation": adapter.operation,
            "epoch": adapter.epoch,
            "loaded_at": adapter.loaded_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }


def _capabilities(facts: EngineFacts) -> list[str]:
    always = ["in_flight", "expectations"]
    if not facts.lora or facts.missing:
        return always
    return ["load", "unload", "drain", "resume", "abort", *facts.capabilities, *always]
