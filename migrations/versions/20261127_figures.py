"""Ended operations by kind and state, counted and timed from an index alone: for the metrics.

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


def downgrade() -> None:
    op.drop_index(_INDEX, table_name="operations")
