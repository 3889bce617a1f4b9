"""Inspection: the report of each version, base models to compare adapters with, and what engines tell of theirs.

Revision: 0003, after 0002.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("report", postgresql.JSONB(none_as_null=True), nullable=True))
    op.add_column("engines", sa.Column("base_config", postgresql.JSONB(none_as_null=True), nullable=True))
    op.create_table(
        "base_models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(none_as_null=True), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.CheckConstraint("origin IN ('registered', 'engine')", name=op.f("ck_base_models_origin")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_base_models")),
    )


def downgrade() -> None:
    op.drop_table("base_models")
    op.drop_column("engines", "base_config")
    op.drop_column("versions", "report")
