"""Hosts and their engines, and whether their leases can be kept."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from loradock.core.models import EngineStatus
from loradock.registry.tables.base import NOW, Base, Json, one_of


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
    """An engine, as its agent last told.

    Attributes:
        problem: why its agent does not reach it, None where it does.
    """

    __tablename__ = "engines"
    __table_args__ = (
        one_of("status", EngineStatus),
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
    missing_promises: Mapped[list[str]] = mapped_column(server_default=text("'{}'"))
    problem: Mapped[str | None]
    base_config: Mapped[Json | None]
    lease_until: Mapped[datetime]
    joined_at: Mapped[datetime] = mapped_column(server_default=NOW)
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
