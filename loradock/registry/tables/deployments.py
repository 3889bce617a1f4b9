"""What is wanted where, and the cards that say what is served."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from loradock.core.models import CardState
from loradock.registry.tables.base import NOW, Base, Json, one_of


class DeploymentRow(Base):
    """An adapter in a pool: its revision is what traffic tables compare."""

    __tablename__ = "deployments"

    adapter: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    pool: Mapped[str] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    revision: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
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
        one_of("state", CardState),
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
    since: Mapped[datetime] = mapped_column(server_default=NOW)
