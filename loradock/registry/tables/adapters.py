"""Adapters and what belongs to them: versions, aliases, base models, and bytes that nobody needs any more."""

from datetime import datetime
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Sequence,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from loradock.core.inspection import BaseOrigin
from loradock.core.models import VersionState
from loradock.registry.tables.base import NOW, Base, Json, one_of

INT_IDS: Final = Sequence("adapter_int_ids", metadata=Base.metadata, data_type=BigInteger)
"""The numbers by which engines know versions: one per version of all adapters, never given twice."""


class AdapterRow(Base):
    """An adapter: a name with one base model.

    Attributes:
        alias_revision: the last one given to any of its aliases: none is given twice, whatever is deleted meanwhile.
    """

    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(primary_key=True)
    base_model: Mapped[str | None]
    alias_revision: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    created_by: Mapped[str]


class VersionRow(Base):
    """A version: one digest, bound to one number for ever."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter", "digest"),
        UniqueConstraint("int_id"),
        one_of("state", VersionState),
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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    created_by: Mapped[str]


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
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_by: Mapped[str]


class BaseModelRow(Base):
    """What is known of a base model: its `config.json`, or the measures that an engine told."""

    __tablename__ = "base_models"
    __table_args__ = (one_of("origin", BaseOrigin),)

    name: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[Json]
    fingerprint: Mapped[str]
    origin: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    created_by: Mapped[str]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_by: Mapped[str]


class ArtifactTombstoneRow(Base):
    """Bytes in the object store that no version points to.

    Attributes:
        deleting_at: when the collector began to delete them: from then on nobody may count on them.
        deleted_at: when they were gone.
    """

    __tablename__ = "artifact_tombstones"

    digest: Mapped[str] = mapped_column(primary_key=True)
    marked_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleting_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
