"""Upload sessions."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from loradock.core.uploads import UploadState
from loradock.registry.tables.base import NOW, Base, Json, one_of


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
        one_of("state", UploadState),
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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
