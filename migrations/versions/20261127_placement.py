"""Placement: what a load asked for is kept with what is wanted, and agents tell which artifacts their caches hold.

Revision: 0007, after 0006.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("agents", sa.Column("cached_digests", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column(
        "deployment_versions", sa.Column("placement", postgresql.JSONB(none_as_null=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("deployment_versions", "placement")
    op.drop_column("agents", "cached_digests")
