"""The audit's chain."""

from datetime import datetime

from sqlalchemy import BigInteger, FetchedValue, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from loradock.registry.tables.base import Base, Json


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
