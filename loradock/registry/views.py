"""What reads of the registry give: frozen models, in the shapes that the API shows."""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import Field

from loradock.core.base_config import BaseConfig
from loradock.core.inspection import BaseOrigin, InspectionReport
from loradock.core.models import (
    AdapterTraits,
    CardState,
    EngineStatus,
    Failure,
    Manifest,
    Model,
    OperationKind,
    OperationState,
    StepReport,
    StepState,
    VersionState,
)
from loradock.core.promises import EnginePromise
from loradock.core.reconcile import DriftKind
from loradock.core.requests import CacheReport, Selection
from loradock.core.signatures import SignatureRecord

Item = TypeVar("Item")


class Page(Model, Generic[Item]):
    """One page of a list.

    Attributes:
        next: the cursor of the next page, None at the end.
    """

    items: tuple[Item, ...]
    next: str | None = None


class AliasView(Model):
    """A movable pointer to a version.

    Attributes:
        revision: raised by every move, and never given again when the alias was deleted; compare it with If-Match.
    """

    adapter: str
    alias: str
    version: int
    revision: int
    updated_at: datetime
    updated_by: str


class VersionView(Model):
    """One version of an adapter.

    Attributes:
        int_id: the number by which engines know it.
        size: bytes of all its files together.
        operation: the publish that made it, or tries to.
        failure: why its last publish failed.
        signature: what the check of its signature found; None when policy never asked for one.
    """

    adapter: str
    version: int
    served_name: str
    digest: str
    int_id: int
    state: VersionState
    rank: int
    dtype: str
    target_modules: tuple[str, ...]
    size: int
    source_uri: str
    artifact_uri: str | None
    labels: dict[str, str]
    manifest: Manifest
    traits: AdapterTraits
    failure: Failure | None
    operation: str
    created_at: datetime
    created_by: str
    retired_at: datetime | None = None
    retired_by: str | None = None
    signature: SignatureRecord | None = None


class VersionDetail(VersionView):
    """One version with what inspection found.

    Attributes:
        report: None for a version that was published before inspection wrote reports.
    """

    report: InspectionReport | None


class BaseModelView(Model):
    """What is known of a base model.

    Attributes:
        origin: `registered` by its config.json, or told by an `engine` that runs it.
        fingerprint: over the measures.
        measures: what adapters are compared with.
        config: as it was given.
    """

    name: str
    origin: BaseOrigin
    fingerprint: str
    measures: BaseConfig
    config: dict[str, Any]
    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str


class DeploymentVersion(Model):
    """A version that a deployment wants.

    Attributes:
        weight: its share of the traffic, 0 to 100.
        engines: where it is wanted, whether it is there or not; None is all of the pool.
        placement: what the last load asked for, when that was not the whole pool.
    """

    version: int
    weight: int
    engines: tuple[str, ...] | None
    placement: Selection | None = None


class DeploymentView(Model):
    """What is wanted of an adapter in a pool.

    Attributes:
        generation: raised when the wanted versions change.
        revision: raised by every change that an operation makes to versions, weights or cards; an engine that dies or
            comes back changes cards without it.
    """

    adapter: str
    pool: str
    generation: int
    revision: int
    versions: tuple[DeploymentVersion, ...]
    updated_at: datetime
    updated_by: str


class AdapterView(Model):
    """An adapter in a list.

    Attributes:
        base_model: None until a first publish told it.
        latest_version: the highest version that is ready.
    """

    name: str
    base_model: str | None
    latest_version: int | None
    created_at: datetime
    created_by: str


class AdapterDetail(AdapterView):
    """An adapter with what belongs to it; `versions` newest first, at most 200 (the rest by the versions' own list)."""

    versions: tuple[VersionView, ...]
    aliases: tuple[AliasView, ...]
    deployments: tuple[DeploymentView, ...]


class OperationView(Model):
    """One requested change and how far it is.

    Attributes:
        steps: at most 1,000, those that matter most (all: `/v1/operations/{operation}/steps`); in a list of operations
            only such that failed, at most 10.
        step_counts: how many steps there are in each state; states without any are left out.
        run_id: the run of its workflow that holds it, None before it began.
        epoch: the fencing epoch that it holds.
        repairs_pending: something could not be put back and waits for the reconciler.
        queue_position: 1 is next; None when it does not wait for room.
        retry_of: the operation that it does again where that failed.
    """

    id: str
    kind: OperationKind
    adapter: str
    version: int | None
    pool: str | None
    state: OperationState
    steps: tuple[StepReport, ...] = ()
    step_counts: dict[StepState, int] = Field(default_factory=dict)
    request: dict[str, Any]
    result: dict[str, Any] | None
    error: Failure | None
    repairs_pending: bool
    workflow_id: str
    run_id: str | None
    epoch: int
    requested_by: str
    queue_position: int | None = None
    retry_of: str | None = None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class DriftView(Model):
    """One thing in which an engine is not as it should be.

    Attributes:
        served_name: or `#<number>` for a number that the engine lists and its extension did not load.
        digest: of what is held, where something is.
        since: when it was first seen so.
        attempts: repairs that failed.
        next_try_at: when the next one may begin; None when none is planned, or one may begin at once.
        repair: the repair that is under way, or was the last.
        error: why the last repair failed.
    """

    served_name: str
    kind: DriftKind
    digest: str | None
    since: datetime
    attempts: int
    next_try_at: datetime | None
    repair: str | None
    error: Failure | None


class ReconcileView(Model):
    """How the reconciliation of an engine stands.

    Attributes:
        wanted_since: since when it may differ from what is wanted; None when it is as wanted.
        reason: the latest cause to look.
        next_look_at: None when nothing is to be done.
        last_look_at: when the last look ended.
        last_error: why the last look got nowhere.
        repaired, failed: repairs in all.
        converged: how often it differed and came to what is wanted.
        converge_seconds: how long that took in all.
        last_converge_seconds: how long that took the last time, from `wanted_since`.
    """

    wanted_since: datetime | None
    reason: str
    next_look_at: datetime | None
    last_look_at: datetime | None
    last_error: Failure | None
    repaired: int
    failed: int
    converged: int
    converge_seconds: float
    last_converge_seconds: float | None


class EngineView(Model):
    """An engine, as its agent last told.

    Attributes:
        status: `lost` as soon as the lease ran out, whether that was noted yet or not.
        generation: how many lives of it are known.
        resident: served names that it holds.
        served: those of them that it admits requests for, with their digests; None from an agent of before.
        unknown_ids: numbers that it lists and its extension did not load.
        limitations: what else should be known of it, one sentence each.
        missing_promises: what it cannot promise (docs/engines.md); none of a vLLM with our extension and its workers' part.
        problem: why its agent does not reach it; None when it does, or when it was never said.
        base_fingerprint: tells two base models of one name apart; None where the engine tells no measures.
        base_config: the measures of its base model, None where it does not tell them.
        seen_at: when it was last reached.
        agent_version, labels: as its agent told.
        cache: the host's cache, as its agent last told; None from an agent that tells nothing of it.
        drift: in what it differs from what is wanted of it, as the last look found.
        reconcile: None while there was no cause to look.
    """

    id: str
    agent: str
    pool: str
    kind: str
    url: str
    status: EngineStatus
    incarnation: str | None
    generation: int
    base_model: str | None
    engine_version: str | None
    max_loras: int
    usable_slots: int
    free_slots: int
    max_lora_rank: int
    resident: tuple[str, ...]
    served: dict[str, str] | None
    unknown_ids: tuple[int, ...]
    limitations: tuple[str, ...]
    missing_promises: tuple[EnginePromise, ...] = ()
    problem: str | None = None
    base_fingerprint: str | None
    base_config: BaseConfig | None
    lease_until: datetime
    joined_at: datetime
    seen_at: datetime | None
    agent_version: str
    labels: dict[str, str]
    cache: CacheReport | None = None
    drift: tuple[DriftView, ...] = ()
    reconcile: ReconcileView | None = None


class RemovedEngine(Model):
    """An engine that is known no more.

    Attributes:
        agent_removed: whether its agent is known no more either: it had no other engine.
        cards: served names whose (lost) cards went with it.
        unwanted: served names that were wanted there alone, and so are wanted nowhere in their pool now.
    """

    id: str
    pool: str
    agent: str
    agent_removed: bool
    cards: tuple[str, ...]
    unwanted: tuple[str, ...]


class CardView(Model):
    """This engine, in this life, serves this version from this digest since then.

    Attributes:
        since: when it came into its state.
        operation: the operation that brought it there last; None when that was the repair.
        repair: the repair that did; its id stands in the audit as an operation's does.
    """

    engine: str
    incarnation: str
    adapter: str
    version: int
    served_name: str
    digest: str
    state: CardState
    since: datetime
    pool: str
    operation: str | None
    repair: str | None


class AuditEvent(Model):
    """Who did what: one link of the chain.

    Attributes:
        seq: 1, 2, 3 … without gaps, in the order of commit.
        hash: sha256 over this event and `previous_hash`, 64 hex digits.
    """

    seq: int
    at: datetime
    actor: str
    action: str
    adapter: str | None
    version: int | None
    pool: str | None
    engine: str | None
    operation: str | None
    outcome: str
    detail: dict[str, Any]
    previous_hash: str
    hash: str


class LeaseGranted(Model):
    """The answer to an agent's renewal.

    Attributes:
        superseded: another process has taken over under this agent id: this one must stop; nothing was changed.
        engines: the generation of each engine that the lease covers.
        refused: engines that it does not cover, with a sentence why.
        report: names what was told: as long as it stays true, the lease is kept by quoting this. None: tell all again.
    """

    lease_until: datetime
    superseded: bool = False
    engines: dict[str, int] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)
    report: str | None = None


class LeaseKept(Model):
    """The answer to a renewal that only quotes the last full report.

    Attributes:
        kept: False when that is not in force any more, and nothing was changed: the agent must tell all.
    """

    kept: bool
