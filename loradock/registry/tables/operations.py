"""Operations: their locks, their keys, their steps and their plans."""

from datetime import datetime
from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Sequence, text
from sqlalchemy.orm import Mapped, mapped_column

from loradock.core.models import ACTIVE_STATES, OperationKind, OperationState, StepState
from loradock.registry.tables.base import NOW, Base, Json, one_of

ACTIVE: Final = f"state IN ({', '.join(repr(str(state)) for state in sorted(ACTIVE_STATES))})"
"""SQL: the operation still holds its lock."""

FENCING_EPOCHS: Final = Sequence("fencing_epoch", metadata=Base.metadata, data_type=BigInteger)
"""Every operation draws one when it is made, and again when it is taken over: the higher one wins everywhere."""

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
        one_of("kind", OperationKind),
        one_of("state", OperationState),
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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    admitted_at: Mapped[datetime | None] = mapped_column(server_default=NOW)
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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class OperationStepRow(Base):
    """A step of an operation; `engine` is empty for one that no single engine does."""

    __tablename__ = "operation_steps"
    __table_args__ = (one_of("state", StepState),)

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
