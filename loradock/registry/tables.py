"""The tables. What a constraint can keep true, a constraint keeps true."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    FetchedValue,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Sequence,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from loradock.core.inspection import BaseOrigin
from loradock.core.models import (
    ACTIVE_STATES,
    CardState,
    EngineStatus,
    OperationKind,
    OperationState,
    StepState,
    VersionState,
)
from loradock.core.reconcile import DriftKind
from loradock.core.uploads import UploadState

Json = dict[str, Any]


class Base(DeclarativeBase):
    """The tables' common base."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        str: Text(),
        datetime: DateTime(timezone=True),
        Json: JSONB(none_as_null=True),
        dict[str, str]: JSONB(),
        list[str]: ARRAY(Text()),
    }


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


ACTIVE: Final = f"state IN ({', '.join(repr(str(state)) for state in sorted(ACTIVE_STATES))})"
"""SQL: the operation still holds its lock."""

INT_IDS: Final = Sequence("adapter_int_ids", metadata=Base.metadata, data_type=BigInteger)
"""The numbers by which engines know versions: one per version of all adapters, never given twice."""

FENCING_EPOCHS: Final = Sequence("fencing_epoch", metadata=Base.metadata, data_type=BigInteger)
"""Every operation draws one when it is made, and again when it is taken over: the higher one wins everywhere."""

_NOW: Final = func.now()


class AdapterRow(Base):
    """An adapter: a name with one base model.

    Attributes:
        alias_revision: the last one given to any of its aliases: none is given twice, whatever is deleted meanwhile.
    """

    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(primary_key=True)
    base_model: Mapped[str | None]
    alias_revision: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    created_by: Mapped[str]


class VersionRow(Base):
    """A version: one digest, bound to one number for ever."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter", "digest"),
        UniqueConstraint("int_id"),
        _one_of("state", VersionState),
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint("rank >= 1", name="rank"),
        CheckConstraint("digest ~ '^sha256:[0-9a-f]{64}$'", name="digest"),
        CheckConstraint("state <> 'ready' OR artifact_uri IS NOT NULL", name="ready_has_artifact"),
        Index(None, "digest"),
    )

    adapter: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str]
    int_id: Mapped[int] = mapped_column(BigInteger, INT_IDS, server_default=INT_IDS.next_value())
    state: Mapped[str]
    rank: Mapped[int]
    dtype: Mapped[str]
    target_modules: Mapped[list[str]]
    size: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[Json]
    traits: Mapped[Json]
    source_uri: Mapped[str]
    artifact_uri: Mapped[str | None]
    labels: Mapped[dict[str, str]]
    failure: Mapped[Json | None]
    retired_at: Mapped[datetime | None]
    retired_by: Mapped[str | None]
    report: Mapped[Json | None] = mapped_column(deferred=True)
    signature: Mapped[Json | None]
    operation: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    created_by: Mapped[str]


class BaseModelRow(Base):
    """What is known of a base model: its `config.json`, or the measures that an engine told."""

    __tablename__ = "base_models"
    __table_args__ = (_one_of("origin", BaseOrigin),)

    name: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[Json]
    fingerprint: Mapped[str]
    origin: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    created_by: Mapped[str]
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_by: Mapped[str]


class ArtifactTombstoneRow(Base):
    """Bytes in the object store that no version points to.

    Attributes:
        deleting_at: when the collector began to delete them: from then on nobody may count on them.
        deleted_at: when they were gone.
    """

    __tablename__ = "artifact_tombstones"

    digest: Mapped[str] = mapped_column(primary_key=True)
    marked_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    deleting_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]


class UploadRow(Base):
    """An upload session: what an actor said to bring, and how far that is.

    Attributes:
        digest: of the artifact that the files are.
        content: tells these very files from others, those beside the artifact too.
        beside: files that travel with the artifact and are no part of it: its signature.
        files: as declared: paths, sizes, hashes. Nothing of it is believed by the publish.
        begun: what the place of uploads keeps with the session; no secret.
        stored: a version of the adapter has this digest: its bytes stand for the upload's, none are sent.
    """

    __tablename__ = "uploads"
    __table_args__ = (
        _one_of("state", UploadState),
        CheckConstraint("(state = 'ended') = (ended_at IS NOT NULL)", name="ended"),
        Index(
            "uq_uploads_standing",
            "actor",
            "adapter",
            "content",
            unique=True,
            postgresql_where=text("state IN ('open', 'complete')"),
        ),
        Index("ix_uploads_not_ended", "id", postgresql_where=text("state <> 'ended'")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    actor: Mapped[str]
    adapter: Mapped[str]
    digest: Mapped[str]
    content: Mapped[str]
    beside: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    files: Mapped[list[Json]] = mapped_column(JSONB())
    begun: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'"))
    stored: Mapped[bool] = mapped_column(server_default=text("false"))
    state: Mapped[str]
    operation: Mapped[str | None] = mapped_column(ForeignKey("operations.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class AliasRow(Base):
    """A movable pointer to a version."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.version"]),
        CheckConstraint("alias !~ '^[0-9]+$'", name="alias_not_numeric"),
    )

    adapter: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int]
    revision: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_by: Mapped[str]


class AgentRow(Base):
    """A host agent: one live process per id.

    Attributes:
        report: names its last full report, while that is in force with all its engines: a renewal that only quotes it
            changes nothing but times. None: the agent must tell all.
    """

    __tablename__ = "agents"

    id: Mapped[str] = mapped_column(primary_key=True)
    instance: Mapped[str]
    superseded_instances: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    pool: Mapped[str]
    agent_version: Mapped[str]
    labels: Mapped[dict[str, str]]
    lease_until: Mapped[datetime]
    renewed_at: Mapped[datetime]
    cache: Mapped[Json | None]
    cached_digests: Mapped[list[str] | None]
    report: Mapped[str | None]


class EngineRow(Base):
    """An engine, as its agent last told."""

    __tablename__ = "engines"
    __table_args__ = (
        _one_of("status", EngineStatus),
        CheckConstraint("status <> 'alive' OR incarnation IS NOT NULL", name="alive_is_known"),
        Index(None, "pool", "id"),
        Index(None, "agent"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    agent: Mapped[str] = mapped_column(ForeignKey("agents.id"))
    pool: Mapped[str]
    kind: Mapped[str]
    url: Mapped[str]
    status: Mapped[str]
    incarnation: Mapped[str | None]
    generation: Mapped[int] = mapped_column(server_default=text("0"))
    base_model: Mapped[str | None]
    engine_version: Mapped[str | None]
    max_loras: Mapped[int] = mapped_column(server_default=text("0"))
    usable_slots: Mapped[int] = mapped_column(server_default=text("0"))
    free_slots: Mapped[int] = mapped_column(server_default=text("0"))
    max_lora_rank: Mapped[int] = mapped_column(server_default=text("0"))
    resident: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    served: Mapped[Json | None]
    unknown_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=text("'{}'"))
    limitations: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    base_config: Mapped[Json | None]
    lease_until: Mapped[datetime]
    joined_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    seen_at: Mapped[datetime | None]


class LeaseKeepingRow(Base):
    """One row: whether anybody is there to renew leases with. See `loradock.registry.lease_keeping`.

    Attributes:
        held_from: leases that ran at least up to here were good when the service was last there.
        expected_by: when the service is counted as away.
        grace_until: after it was away: how long agents have to come back.
    """

    __tablename__ = "lease_keeping"
    __table_args__ = (CheckConstraint("single", name="single"),)

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    held_from: Mapped[datetime]
    expected_by: Mapped[datetime]
    grace_until: Mapped[datetime]


class DeploymentRow(Base):
    """An adapter in a pool: its revision is what traffic tables compare."""

    __tablename__ = "deployments"

    adapter: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    pool: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    revision: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_by: Mapped[str]


class DeploymentVersionRow(Base):
    """A version that a deployment wants, with its share of the traffic.

    Attributes:
        engines: where it is wanted, whether it is there or not; None is on every engine of the pool.
        placement: the `Selection` by which a load came to `engines`; None when it asked for the whole pool.
    """

    __tablename__ = "deployment_versions"
    __table_args__ = (
        ForeignKeyConstraint(["adapter", "pool"], ["deployments.adapter", "deployments.pool"]),
        ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.version"]),
        CheckConstraint("weight BETWEEN 0 AND 100", name="weight"),
    )

    adapter: Mapped[str] = mapped_column(primary_key=True)
    pool: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    weight: Mapped[int]
    engines: Mapped[list[str] | None]
    placement: Mapped[Json | None]


class CardRow(Base):
    """A deployment card: this engine, in this life, serves this version.

    Attributes:
        operation: what brought it into its state last; None when that was the repair.
        repair: counts where `operation` is None alone: an operation that comes later need not clear it.
    """

    __tablename__ = "cards"
    __table_args__ = (
        ForeignKeyConstraint(["adapter", "version"], ["versions.adapter", "versions.version"]),
        _one_of("state", CardState),
        CheckConstraint("num_nonnulls(operation, repair) >= 1", name="brought_by"),
        Index(None, "adapter", "version", "engine"),
        Index(None, "state", "adapter", "version", "engine"),
        Index(None, "pool", "adapter", "version", "engine"),
        Index(None, "operation"),
    )

    engine: Mapped[str] = mapped_column(ForeignKey("engines.id"), primary_key=True)
    adapter: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    incarnation: Mapped[str]
    served_name: Mapped[str]
    digest: Mapped[str]
    int_id: Mapped[int] = mapped_column(BigInteger)
    pool: Mapped[str]
    state: Mapped[str]
    operation: Mapped[str | None] = mapped_column(ForeignKey("operations.id"))
    repair: Mapped[str | None]
    since: Mapped[datetime] = mapped_column(server_default=_NOW)


class ReconciliationRow(Base):
    """An engine's place in the reconciler's queue, and how it went: outbox and record in one.

    Attributes:
        requested: raised with every cause to look; a look that saw a lower number leaves the engine in the queue.
        reason: the latest cause.
        wanted_since: since when the engine differs, and could be repaired; None when all is as wanted.
        due_at: when the next look is to begin; None when there is nothing to do. A look that begins moves it on, so
            that one whose workflow is gone is begun again.
        looked_at: when the last look ended.
        failure: why the last look got nowhere.
        drifted: whether anything differed since `wanted_since`.
        window_at, window_repairs: repairs begun since then, for the limit per minute.
        repaired, failed: repairs in all.
        converged, converge_seconds: how often an engine that differed came to what is wanted, and how long that took in all.
    """

    __tablename__ = "reconciliations"
    __table_args__ = (Index("ix_reconciliations_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),)

    engine: Mapped[str] = mapped_column(ForeignKey("engines.id"), primary_key=True)
    requested: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    reason: Mapped[str]
    wanted_since: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    looked_at: Mapped[datetime | None]
    failure: Mapped[Json | None]
    drifted: Mapped[bool] = mapped_column(server_default=text("false"))
    window_at: Mapped[datetime | None]
    window_repairs: Mapped[int] = mapped_column(server_default=text("0"))
    repaired: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    failed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    converged: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    converge_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    last_converge_seconds: Mapped[float | None]


class PastReconciliationsRow(Base):
    """One row: what the reconciler did on engines that were removed. Its counts must not go down with them."""

    __tablename__ = "past_reconciliations"
    __table_args__ = (CheckConstraint("single", name="single"),)

    single: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    repaired: Mapped[int] = mapped_column(BigInteger)
    failed: Mapped[int] = mapped_column(BigInteger)
    converged: Mapped[int] = mapped_column(BigInteger)
    converge_seconds: Mapped[float]


class DriftRow(Base):
    """One difference between an engine and what is wanted of it, as the last look found it.

    Attributes:
        served_name: `adapter@version`; `#<number>` for a number that the extension does not know.
        digest: of what is held, where that differs.
        attempts: repairs that failed; the next one begins at `next_try_at`, None when none is planned.
        under_way: the repair that works on it.
    """

    __tablename__ = "drifts"
    __table_args__ = (_one_of("kind", DriftKind), Index(None, "adapter"))

    engine: Mapped[str] = mapped_column(ForeignKey("engines.id"), primary_key=True)
    served_name: Mapped[str] = mapped_column(primary_key=True)
    adapter: Mapped[str | None]
    kind: Mapped[str]
    incarnation: Mapped[str]
    digest: Mapped[str | None]
    since: Mapped[datetime] = mapped_column(server_default=_NOW)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_try_at: Mapped[datetime | None]
    failure: Mapped[Json | None]
    under_way: Mapped[str | None]


QUEUED: Final = "state = 'pending' AND admitted_at IS NULL"
"""SQL: the operation waits until there is room for it."""


class OperationRow(Base):
    """A requested change: lock and outbox in one.

    Attributes:
        step_counts: how many of its steps are in which state, once it has ended: then they stay so.
        admitted_at: since when it may be started; None while it waits in the queue.
        retry_of: the operation that it does again where that failed.
    """

    __tablename__ = "operations"
    __table_args__ = (
        _one_of("kind", OperationKind),
        _one_of("state", OperationState),
        CheckConstraint(f"({ACTIVE}) = (ended_at IS NULL)", name="ended"),
        Index("uq_operations_lock_key_active", "lock_key", unique=True, postgresql_where=text(ACTIVE)),
        Index("ix_operations_active", "id", postgresql_where=text(ACTIVE)),
        Index("ix_operations_repairs_pending", "id", postgresql_where=text("repairs_pending")),
        Index("ix_operations_queued", "id", postgresql_where=text(QUEUED)),
        Index(
            "ix_operations_ended",
            "kind",
            "state",
            postgresql_include=["created_at", "ended_at"],
            postgresql_where=text("ended_at IS NOT NULL"),
        ),
        Index(None, "adapter", "id"),
        Index(None, "state", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    adapter: Mapped[str]
    version: Mapped[int | None]
    pool: Mapped[str | None]
    state: Mapped[str]
    lock_key: Mapped[str]
    request_hash: Mapped[str]
    request: Mapped[Json]
    result: Mapped[Json | None]
    failure: Mapped[Json | None]
    step_counts: Mapped[Json | None]
    repairs_pending: Mapped[bool] = mapped_column(server_default=text("false"))
    requested_by: Mapped[str]
    epoch: Mapped[int] = mapped_column(BigInteger, FENCING_EPOCHS, server_default=FENCING_EPOCHS.next_value())
    workflow_id: Mapped[str]
    run_id: Mapped[str | None]
    superseded_runs: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("operations.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    admitted_at: Mapped[datetime | None] = mapped_column(server_default=_NOW)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class IdempotencyKeyRow(Base):
    """A caller's word for a request, for ever: the operation that answers it, made by it or joined."""

    __tablename__ = "idempotency_keys"

    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    operation: Mapped[str] = mapped_column(
        ForeignKey("operations.id", deferrable=True, initially="DEFERRED"), index=True
    )
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class OperationStepRow(Base):
    """A step of an operation; `engine` is empty for one that no single engine does."""

    __tablename__ = "operation_steps"
    __table_args__ = (_one_of("state", StepState),)

    operation: Mapped[str] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    engine: Mapped[str] = mapped_column(primary_key=True, server_default=text("''"))
    position: Mapped[int]
    state: Mapped[str]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    failure: Mapped[Json | None]
    detail: Mapped[Json] = mapped_column(server_default=text("'{}'"))


class OperationTargetRow(Base):
    """One item of a wide operation's plan: a version on an engine, in the life that it was planned for.

    Attributes:
        run_id: of the run that made the plan.
        position: 0, 1, 2 …; a batch is a range of them.
        lost: nobody is asked, only the card goes; see `UnloadItem`.
        ready: the version answers there and its card is staged.
        code: why it is not.
    """

    __tablename__ = "operation_targets"

    operation: Mapped[str] = mapped_column(ForeignKey("operations.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    run_id: Mapped[str]
    engine: Mapped[str]
    agent: Mapped[str]
    incarnation: Mapped[str]
    adapter: Mapped[str]
    version: Mapped[int]
    digest: Mapped[str]
    int_id: Mapped[int] = mapped_column(BigInteger)
    lost: Mapped[bool] = mapped_column(server_default=text("false"))
    ready: Mapped[bool] = mapped_column(server_default=text("false"))
    code: Mapped[str | None]


class AuditEventRow(Base):
    """A link of the audit chain. `seq`, `at` and both hashes are set by the database, whatever an insert says."""

    __tablename__ = "audit_events"
    __table_args__ = (
        UniqueConstraint("previous_hash"),
        Index(None, "adapter", "seq"),
        Index(None, "operation", "seq"),
        Index(None, "actor", "seq"),
    )

    seq: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, server_default=FetchedValue()
    )
    at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    actor: Mapped[str]
    action: Mapped[str]
    adapter: Mapped[str | None]
    version: Mapped[int | None]
    pool: Mapped[str | None]
    engine: Mapped[str | None]
    operation: Mapped[str | None]
    outcome: Mapped[str]
    detail: Mapped[Json]
    previous_hash: Mapped[str] = mapped_column(server_default=FetchedValue())
    hash: Mapped[str] = mapped_column(server_default=FetchedValue())
