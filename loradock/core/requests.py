"""What callers ask for, and the plans that the registry makes of it."""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from loradock.core.base_config import BaseConfig
from loradock.core.models import Digest, Failure, Model, VersionRef
from loradock.core.names import AdapterName, SimpleName
from loradock.core.promises import EnginePromise

Seconds = Annotated[float, Field(ge=0, le=24 * 3600)]

MAX_LABELS = 64
"""Labels that a version, an agent or a selector may have."""

CACHED_DIGESTS_TOLD = 500
"""The most recently used artifacts of a host's cache that its agent tells of."""

Labels = dict[
    Annotated[str, StringConstraints(min_length=1, max_length=63)],
    Annotated[str, StringConstraints(max_length=255)],
]


class LoadPolicy(StrEnum):
    """What a load does when an engine fails."""

    ALL = "all"
    """Every engine is put back to before."""
    BEST_EFFORT = "best_effort"
    """The engines that became ready serve, if they are enough."""


class ThenLoad(Model):
    """What comes after a publish: a load of the version on its pool's engines, an operation of its own.

    Attributes:
        pool: None is the only pool that serves the adapter's base model.
        replace: as in `LoadRequest`.
    """

    pool: SimpleName | None = None
    replace: bool = False


class PublishRequest(Model):
    """Publish a folder of weights as a version of an adapter.

    Attributes:
        uri: `file:///folder` or `s3://bucket/prefix`.
        base_model: needed for the first version unless all engines serve one base model.
        expect_digest: the publish fails when the weights are others.
        then: what is to follow when it has succeeded.
    """

    adapter: AdapterName
    uri: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    base_model: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = None
    expect_digest: Digest | None = None
    labels: Labels = Field(default_factory=dict)
    then: ThenLoad | None = None


class Selection(Model):
    """Which engines of a pool a load is for. Kept with what is wanted.

    Attributes:
        engines: these only; None is any.
        labels: engines with all of these labels only.
        replicas: on so many of them; None is on all.
    """

    engines: tuple[SimpleName, ...] | None = None
    labels: Labels = Field(default_factory=dict)
    replicas: int | None = Field(default=None, ge=1)

    @property
    def is_whole_pool(self) -> bool:
        """Whether it is every engine of the pool, those that join later too."""
        return self.engines is None and not self.labels and self.replicas is None


class LoadRequest(Model):
    """Load a version on engines of a pool.

    Attributes:
        engines: these only; None is every engine of the pool that is alive.
        labels: engines with all of these labels only.
        replicas: on so many of them, chosen by placement; None is on all.
        min_ready: for `best_effort`: how many engines must become ready.
        replace: the version takes all the traffic in the moment in which it becomes routable, and the adapter's other
            versions in the pool are unloaded after that, by an operation of its own.
        plan: the etag of the plan that this must be; None is whatever is right when it begins.
        only: of the engines that this comes to, do these alone: a retry of what failed. What is wanted stays the whole.
    """

    adapter: AdapterName
    version: int = Field(ge=1)
    pool: SimpleName
    engines: tuple[SimpleName, ...] | None = Field(default=None, min_length=1, max_length=2000)
    labels: Labels = Field(default_factory=dict, max_length=MAX_LABELS)
    replicas: int | None = Field(default=None, ge=1)
    policy: LoadPolicy = LoadPolicy.ALL
    min_ready: int = Field(default=1, ge=1)
    replace: bool = False
    plan: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    only: tuple[SimpleName, ...] | None = Field(default=None, min_length=1, max_length=2000)

    @property
    def selection(self) -> Selection:
        """Which engines it is for."""
        return Selection(engines=self.engines, labels=self.labels, replicas=self.replicas)


class UnloadRequest(Model):
    """Unload a version (or all versions) of an adapter from engines of a pool.

    Attributes:
        version: None is every loaded version.
        keep_version: with no `version`: every loaded version but this one.
        drain_seconds: how long requests that run may go on.
        force: unload a version that has weight, and cut requests that outlast the drain.
    """

    adapter: AdapterName
    version: int | None = Field(default=None, ge=1)
    keep_version: int | None = Field(default=None, ge=1)
    pool: SimpleName
    engines: tuple[SimpleName, ...] | None = Field(default=None, min_length=1, max_length=2000)
    drain_seconds: Seconds = 30.0
    force: bool = False


class EngineTarget(Model):
    """An engine that an operation is to work on, in the life that it was planned for.

    Attributes:
        agent: the host agent beside it, whose queues take the work.
    """

    engine: str
    agent: str
    incarnation: str


class LoadPlan(Model):
    """Where a load goes.

    Attributes:
        wanted: the engines that are to serve the version from now on, those that cannot now among them; None is all of
            the pool.
        left_out: engines that were asked for and cannot take the version now, with the code of each (`best_effort`).
        batches: of a wide load, whose targets stay in the registry in so many batches: `targets` is empty then.
        engines: how many there are in those batches.
    """

    ref: VersionRef
    pool: str
    base_model: str
    targets: tuple[EngineTarget, ...]
    wanted: tuple[str, ...] | None = None
    left_out: dict[str, str] = Field(default_factory=dict)
    batches: int = 0
    engines: int = 0


class UnloadItem(Model):
    """One card that an unload takes away.

    Attributes:
        lost: the card was lost with an earlier life of the engine, or the engine with its agent: nobody is asked, only
            the card goes.
    """

    target: EngineTarget
    ref: VersionRef
    lost: bool = False


class UnloadPlan(Model):
    """What an unload takes away.

    Attributes:
        batches: of a wide unload, whose items stay in the registry in so many batches: `items` is empty then.
        cards: how many there are in those batches.
    """

    adapter: str
    pool: str
    items: tuple[UnloadItem, ...]
    versions: tuple[int, ...]
    batches: int = 0
    cards: int = 0


class ReservedVersion(Model):
    """A version number bound to a digest before its bytes are stored.

    Attributes:
        already_published: the same weights are a ready version: nothing is left to do but to check the bytes.
    """

    ref: VersionRef
    already_published: bool


class EngineReport(Model):
    """What an agent says of one engine with each renewal of its lease.

    Attributes:
        reachable: whether the engine told its state; the rest is the last known state if not.
        incarnation: None while the engine was never reached.
        usable_slots: how many adapters may be resident at once.
        resident: served names that the engine holds.
        served: those of them that it admits requests for, with the digest of each; None from an agent of before.
        unknown_ids: numbers that the engine lists and that its extension did not load.
        limitations: what else should be known of it, one sentence each.
        missing_promises: what this engine cannot promise.
        problem: why it is not reachable, one sentence.
        base_config: the measures of its base model, where the engine tells them.
    """

    engine: SimpleName
    url: Annotated[str, StringConstraints(max_length=500)]
    kind: Annotated[str, StringConstraints(max_length=40)]
    reachable: bool
    incarnation: Annotated[str, StringConstraints(max_length=100)] | None = None
    base_model: Annotated[str, StringConstraints(max_length=500)] | None = None
    engine_version: Annotated[str, StringConstraints(max_length=100)] | None = None
    max_loras: int = Field(default=0, ge=0)
    usable_slots: int = Field(default=0, ge=0)
    free_slots: int = Field(default=0, ge=0)
    max_lora_rank: int = Field(default=0, ge=0)
    resident: tuple[Annotated[str, StringConstraints(max_length=150)], ...] = Field(
        default=(), max_length=10_000
    )
    served: dict[Annotated[str, StringConstraints(max_length=150)], Digest] | None = Field(
        default=None, max_length=10_000
    )
    unknown_ids: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(), max_length=10_000)
    limitations: tuple[Annotated[str, StringConstraints(max_length=500)], ...] = Field(
        default=(), max_length=50
    )
    missing_promises: tuple[EnginePromise, ...] = ()
    problem: Annotated[str, StringConstraints(max_length=500)] | None = None
    base_config: BaseConfig | None = None

    @model_validator(mode="after")
    def _reachable_means_known(self) -> "EngineReport":
        if self.reachable and (self.incarnation is None or self.base_model is None):
            raise ValueError("a reachable engine has an incarnation and a base model")
        return self


class CacheReport(Model):
    """A host's cache in numbers, as its agent tells it.

    Attributes:
        leased: adapters that an engine or a hand relies on.
        hits: uses that fetched nothing, since the cache was made.
        evicted: adapters that had to go, since the cache was made.
        free_bytes: of its disk.
    """

    bytes: int = Field(ge=0)
    adapters: int = Field(ge=0)
    leased: int = Field(ge=0)
    hits: int = Field(ge=0)
    evicted: int = Field(ge=0)
    free_bytes: int = Field(ge=0)


class LeaseRenewal(Model):
    """One call of an agent for all its engines.

    Attributes:
        instance: one per agent process; a second live process under one agent id is told apart by it.
        labels: facts for placement, e.g. zone; those of all its engines.
        cached_digests: the artifacts that the host's cache holds, the most recently used first; None is no news.
    """

    agent: SimpleName
    instance: Annotated[str, StringConstraints(min_length=8, max_length=64)]
    pool: SimpleName
    agent_version: Annotated[str, StringConstraints(max_length=40)]
    engines: tuple[EngineReport, ...] = Field(min_length=1, max_length=1000)
    labels: Labels = Field(default_factory=dict)
    cache: CacheReport | None = None
    cached_digests: tuple[Digest, ...] | None = Field(default=None, max_length=2 * CACHED_DIGESTS_TOLD)


class LeaseKeep(Model):
    """One call of an agent of whose engines there is nothing new to tell.

    Attributes:
        report: as the answer to the last full renewal named it.
        engines: how many that renewal was for.
    """

    instance: Annotated[str, StringConstraints(min_length=8, max_length=64)]
    report: Annotated[str, StringConstraints(min_length=8, max_length=64)]
    engines: int = Field(ge=1, le=1000)


class OperationResult(Model):
    """What an operation brought about, for its row and its caller.

    Attributes:
        version: the version that it made or moved.
        engines: the engines where it took effect.
        failed_engines: engines that did not become ready (`best_effort`), with the code of each.
        note: one sentence for people.
        next: the operation that follows this one.
        next_failed: why what was to follow was not begun.
    """

    version: int | None = None
    digest: str | None = None
    already_published: bool = False
    engines: tuple[str, ...] = ()
    failed_engines: dict[str, str] = Field(default_factory=dict)
    note: str = ""
    details: dict[str, Any] = Field(default_factory=dict)
    next: str | None = None
    next_failed: Failure | None = None
