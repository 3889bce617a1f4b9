"""What a stock vLLM holds, put together from what it lists and what its host's record knows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from loradock.core.errors import LoradockError
from loradock.core.names import parse_served_name
from loradock.core.promises import EnginePromise
from loradock.engines.protocol import UNKNOWN_DIGEST, AdapterReport, AdapterState, EngineState, EngineVersion
from loradock.engines.stock.metrics import Metrics
from loradock.engines.stock.options import StockOptions
from loradock.engines.stock.record import Content, Entry, Phase

KIND: Final = "stock-vllm"

MISSING_PROMISES: Final = tuple(EnginePromise)
"""Stock vLLM keeps none of those that can be missing: the extension is there for each of them."""

TESTED_VERSIONS: Final = ("0.32.",)
"""Beginnings of vLLM's versions that the driver was tested with."""

DigestOf = Callable[[str, str], str | None]
"""The digest of the weights that a served name's path holds, None for a path that this host's cache did not make."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a stock engine, all of it in one life.

    Attributes:
        adapters: paths by name, as the engine lists them.
        max_loras: adapter slots.
    """

    incarnation: str
    version: str
    base: str
    adapters: Mapping[str, str]
    metrics: Metrics
    max_loras: int

    @property
    def tested(self) -> bool:
        """Whether the driver was tested with this version."""
        return self.version.startswith(TESTED_VERSIONS)


class StockReporter:
    """Puts reports together.

    Args:
        digest_of: tells weights by their path: the engine names no digest.
    """

    def __init__(self, options: StockOptions, digest_of: DigestOf) -> None:
        self._options = options
        self._digest_of = digest_of

    def state(self, seen: Seen, record: Content, unfinished: Iterable[str]) -> EngineState:
        """The whole state."""
        entries = self.entries(seen, record)
        strange = sorted(name for name in seen.adapters if not is_served_name(name))
        return EngineState(
            incarnation=seen.incarnation,
            extension_version="",
            engine=EngineVersion(kind=KIND, version=seen.version, tested=seen.tested),
            base_model=seen.base,
            max_loras=seen.max_loras,
            usable_slots=self._usable_slots(seen),
            free_slots=self.free_slots(seen, record),
            max_lora_rank=self._options.max_lora_rank,
            device="cpu" if self._options.on_cpu else "",
            capabilities=("load", "unload", "drain", "resume"),
            limitations=self._limitations(seen, strange),
            adapters=tuple(describe(entries[name]) for name in sorted(entries)),
            foreign_int_ids=(),
            in_flight_base=None,
            missing_promises=MISSING_PROMISES,
            unfinished=tuple(sorted(unfinished)),
        )

    def entries(self, seen: Seen, record: Content) -> dict[str, Entry]:
        """All that the engine serves or drains, by name, each as it really stands."""
        found = {
            name: self.listed(name, path, record)
            for name, path in seen.adapters.items()
            if is_served_name(name)
        }
        for name, entry in record.entries.items():
            if name not in seen.adapters and entry.phase is Phase.DRAINING:
                found[name] = entry
        return found

    def listed(self, name: str, path: str, record: Content) -> Entry:
        """What the engine lists under a name: by the record where that says the same, else somebody else's."""
        known = record.entries.get(name)
        if known is not None and known.path == path:
            return known.model_copy(update={"phase": Phase.SERVING})
        return Entry(
            served_name=name,
            digest=self._digest_of(name, path) or UNKNOWN_DIGEST,
            int_id=0,
            path=path,
            operation="",
            phase=Phase.SERVING,
            loaded_at=datetime.now(UTC),
            epoch=max(0, record.epochs.get(name, 0)),
            resumed=known.resumed if known else 0,
        )

    def free_slots(self, seen: Seen, record: Content) -> int:
        """Adapters that may still be loaded.

        On a GPU vLLM takes the slot of what was used least recently, which is read again when it is asked for: names count.
        On a CPU a slot that was ever used stays so, and the last one makes base answers wrong: every load of a life counts.
        """
        names = len(seen.adapters.keys() | self.entries(seen, record).keys())
        taken = names
        if self._options.on_cpu:
            foreign = sum(record.entries.get(name) is None for name in seen.adapters)
            taken = max(names, record.loads + foreign)
        return max(0, self._usable_slots(seen) - taken)

    def _usable_slots(self, seen: Seen) -> int:
        return max(0, seen.max_loras - 1) if self._options.on_cpu else seen.max_loras

    def _limitations(self, seen: Seen, strange: list[str]) -> tuple[str, ...]:
        said = []
        if not seen.tested:
            said.append(f"the driver for stock vLLM was not tested with version {seen.version or 'unknown'}")
        if strange:
            names = ", ".join(name[:60] for name in strange[:5])
            said.append(f"serves adapters that are none of Loradock's ({len(strange)}): {names}")
        if self._options.on_cpu:
            said.append("on a CPU no slot comes back after an unload: restart the engine when none is free")
        return tuple(said)


def describe(entry: Entry) -> AdapterReport:
    """One adapter."""
    draining = entry.phase is Phase.DRAINING
    return AdapterReport(
        served_name=entry.served_name,
        digest=entry.digest,
        int_id=entry.int_id,
        path=entry.path,
        state=AdapterState.DRAINING if draining else AdapterState.SERVING,
        in_flight=None,
        resident=True,
        operation=entry.operation,
        epoch=entry.epoch,
        loaded_at=entry.loaded_at,
    )


def is_served_name(name: str) -> bool:
    """Whether a name can be one of ours."""
    try:
        parse_served_name(name)
    except LoradockError:
        return False
    return True
