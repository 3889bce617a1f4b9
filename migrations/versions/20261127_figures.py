"""For the metrics: ended operations are counted and timed from an index alone, and what the reconciler did on an engine
counts on when the engine is removed.

Revision: 0013, after 0012.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_INDEX = "ix_operations_ended"


def upgrade() -> None:
    op.create_index(
        _INDEX,
        "operations",
        ["kind", "state"],
        postgresql_include=["created_at", "ended_at"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_table(
        "past_reconciliations",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("repaired", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("converged", sa.BigInteger(), nullable=False),
        sa.Column("converge_seconds", sa.Float(), nullable=False),
        sa.CheckConstraint("single", name=op.f("ck_past_reconciliations_single")),
        sa.PrimaryKeyConstraint("single", name=op.f("pk_past_reconciliations")),
    )


def downgrade() -> None:
    op.drop_table("past_reconciliations")
    op.drop_index(_INDEX, table_name="operations")
