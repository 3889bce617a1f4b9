"""The reconciler's queue and record, and the drift that it found."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from loradock.core.reconcile import DriftKind
from loradock.registry.tables.base import NOW, Base, Json, one_of


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
    __table_args__ = (one_of("kind", DriftKind), Index(None, "adapter"))

    engine: Mapped[str] = mapped_column(ForeignKey("engines.id"), primary_key=True)
    served_name: Mapped[str] = mapped_column(primary_key=True)
    adapter: Mapped[str | None]
    kind: Mapped[str]
    incarnation: Mapped[str]
    digest: Mapped[str | None]
    since: Mapped[datetime] = mapped_column(server_default=NOW)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_try_at: Mapped[datetime | None]
    failure: Mapped[Json | None]
    under_way: Mapped[str | None]
