"""What the reconciler speaks of: what an engine holds, how that differs from what is wanted, and a repair."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from loradock.core.models import Digest, Model, RunRef, VersionRef
from loradock.core.names import served_name
from loradock.core.requests import EngineTarget


class DriftKind(StrEnum):
    """How an engine differs from what is wanted of it."""

    MISSING = "missing"
    """A wanted version is not served."""
    WRONG = "wrong"
    """Other weights are held under a wanted version's name."""
    LEFTOVER = "leftover"
    """Loaded by an operation or a repair of ours, and wanted by nobody any more."""
    FOREIGN = "foreign"
    """Loaded through the extension by somebody else, and wanted by nobody."""
    UNKNOWN_ID = "unknown_id"
    """The engine lists a number that the extension did not load: half a load, or one past the extension."""


class ForeignPolicy(StrEnum):
    """What happens to an adapter that somebody else loaded and nobody wants."""

    REPORT = "report"
    UNLOAD = "unload"


class ReconcileRules(Model):
    """How the reconciler goes about it, by the settings.

    Attributes:
        foreign_grace_seconds: how long a foreign adapter is left alone before it is unloaded.
        repairs_per_minute: of one engine.
        backoff_seconds, backoff_max_seconds: the pause after a repair that failed: doubled each time, up to the most.
        drain_seconds: how long requests may go on that use what is taken out; then they are cut.
    """

    foreign: ForeignPolicy = ForeignPolicy.REPORT
    foreign_grace_seconds: float = Field(default=300.0, ge=0)
    repairs_per_minute: int = Field(default=60, ge=1)
    backoff_seconds: float = Field(default=5.0, gt=0)
    backoff_max_seconds: float = Field(default=600.0, gt=0)
    drain_seconds: float = Field(default=30.0, ge=0)

    def backoff(self, attempts: int) -> float:
        """Seconds to wait after so many attempts that failed."""
        return float(min(self.backoff_seconds * 2 ** min(attempts - 1, 30), self.backoff_max_seconds))


class HeldAdapter(Model):
    """An adapter that an engine holds, as its extension tells.

    Attributes:
        serving: resident, and admitting requests.
        operation: what loaded it: an operation's id, a repair's, or anything that somebody else said.
    """

    adapter: str
    version: int = Field(ge=1)
    digest: Digest
    int_id: int
    serving: bool
    operation: str

    @property
    def served_name(self) -> str:
        """`adapter@version`."""
        return served_name(self.adapter, self.version)

    @property
    def ref(self) -> VersionRef:
        """What to name to the host when it is taken out."""
        return VersionRef(
            adapter=self.adapter, version=self.version, digest=self.digest, int_id=max(1, self.int_id)
        )


class EngineObservation(Model):
    """What an engine holds at one moment of one life.

    Attributes:
        unknown_ids: numbers that it lists and that the extension did not load.
    """

    incarnation: str
    held: tuple[HeldAdapter, ...]
    unknown_ids: tuple[int, ...] = ()


class Repair(Model):
    """One thing to put right on one engine, begun: its epoch is drawn, so what begins later wins over it.

    Attributes:
        run: `run.operation` is the repair's own id.
        take_out: what is to be removed first, as the engine holds it.
        put_in: what is to be loaded then; None when nothing is wanted under the name.
        attempt: 1 for the first.
    """

    run: RunRef
    kind: DriftKind
    target: EngineTarget
    pool: str
    take_out: VersionRef | None = None
    put_in: VersionRef | None = None
    attempt: int = Field(ge=1)

    @property
    def ref(self) -> VersionRef:
        """The version that it is about."""
        ref = self.put_in or self.take_out
        if ref is None:
            raise ValueError("a repair takes out or puts in")
        return ref

    @property
    def served_name(self) -> str:
        """The name that it is about."""
        return self.ref.served_name


class Look(Model):
    """A look that has begun.

    Attributes:
        target: None when the engine does not live: it is looked at when it is back.
        begun_at: before the engine was asked: a card that is younger says more than the engine's answer.
        requested: how often a look had been asked for.
        drain_seconds: how long requests may go on that use what is taken out.
    """

    engine: str
    target: EngineTarget | None
    begun_at: datetime
    requested: int
    drain_seconds: float


class Looked(Model):
    """What a look found.

    Attributes:
        repairs: begun, in the order in which they matter.
        waits: something differs that an active operation holds.
        changed: the engine is another process by now.
    """

    repairs: tuple[Repair, ...] = ()
    waits: bool = False
    changed: bool = False


class Made(Model):
    """What became of repairs that were done on the engine, by the served name of each.

    Attributes:
        good: those that count.
        unwanted: what was loaded and is wanted no more: to be taken out again.
        late: an operation came later, or the engine is another: nothing is to be done.
    """

    good: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    late: tuple[str, ...] = ()


class Scanned(Model):
    """What a part of a scan found.

    Attributes:
        engines: how many were compared.
        differing: those that differ, now in the reconciler's queue.
        next: where the next part begins, None at the end.
    """

    engines: int
    differing: tuple[str, ...]
    next: str | None
