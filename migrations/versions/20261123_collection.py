"""Collection: retired versions, tombstones of bytes that nobody points to, and what agents tell of their caches.

Revision: 0004, after 0003.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_STATE = "ck_versions_state"


def upgrade() -> None:
    op.add_column("versions", sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("versions", sa.Column("retired_by", sa.Text(), nullable=True))
    op.drop_constraint(op.f(_STATE), "versions")
    op.create_check_constraint(
        op.f(_STATE), "versions", "state IN ('publishing', 'ready', 'failed', 'retired')"
    )
    op.create_index(op.f("ix_versions_digest"), "versions", ["digest"])
    op.add_column("agents", sa.Column("cache", postgresql.JSONB(none_as_null=True), nullable=True))
    op.create_table(
        "artifact_tombstones",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("marked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleting_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifact_tombstones")),
    )


def downgrade() -> None:
    op.drop_table("artifact_tombstones")
    op.drop_column("agents", "cache")
    op.drop_index(op.f("ix_versions_digest"), table_name="versions")
    op.execute("UPDATE versions SET state = 'failed' WHERE state = 'retired'")
    op.drop_constraint(op.f(_STATE), "versions")
    op.create_check_constraint(op.f(_STATE), "versions", "state IN ('publishing', 'ready', 'failed')")
    op.drop_column("versions", "retired_by")
    op.drop_column("versions", "retired_at")
