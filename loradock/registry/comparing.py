"""The comparison itself: what is wanted on an engine against what it holds. Knows no database and never waits."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from loradock.core.ids import is_repair
from loradock.core.reconcile import DriftKind, EngineObservation, HeldAdapter
from loradock.registry.desired import WantedVersion


@dataclass(frozen=True)
class Difference:
    """One thing in which an engine is not as it should be.

    Attributes:
        served_name: or `#<number>` for a number that the extension does not know.
        held: what the engine has under the name.
    """

    served_name: str
    kind: DriftKind
    wanted: WantedVersion | None = None
    held: HeldAdapter | None = None

    @property
    def adapter(self) -> str | None:
        """The adapter that it is about."""
        if self.wanted is not None:
            return self.wanted.ref.adapter
        return None if self.held is None else self.held.adapter


def compare(
    wanted: Iterable[WantedVersion],
    routed: Collection[str],
    seen: EngineObservation,
    known_operations: Collection[str],
) -> list[Difference]:
    """Everything in which the engine differs, what takes most traffic first.

    Args:
        wanted: in the order in which it matters.
        routed: names with a serving card for these very weights in this life.
        known_operations: those that are ours, of the ones that the engine names.
    """
    held = {adapter.served_name: adapter for adapter in seen.held}
    by_name = {version.ref.served_name: version for version in wanted}
    found = [*_of_wanted(by_name, held, routed)]
    for name, adapter in held.items():
        if name not in by_name:
            ours = is_repair(adapter.operation) or adapter.operation in known_operations
            kind = DriftKind.LEFTOVER if ours else DriftKind.FOREIGN
            found.append(Difference(name, kind, held=adapter))
    found += [Difference(f"#{number}", DriftKind.UNKNOWN_ID) for number in sorted(seen.unknown_ids)]
    return found


def _of_wanted(
    wanted: Mapping[str, WantedVersion], held: Mapping[str, HeldAdapter], routed: Collection[str]
) -> Iterable[Difference]:
    for name, version in wanted.items():
        adapter = held.get(name)
        if adapter is not None and not is_right(adapter, version):
            yield Difference(name, DriftKind.WRONG, version, adapter)
        elif adapter is None or not adapter.serving or name not in routed:
            yield Difference(name, DriftKind.MISSING, version, adapter)


def is_right(adapter: HeldAdapter, version: WantedVersion) -> bool:
    """Whether what is held under the name is the wanted version, under its own number."""
    return (adapter.digest, adapter.int_id) == (version.ref.digest, version.ref.int_id)
