"""What an engine cannot promise, and why one is not reached.

Revision: 0015, after 0014.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column(
        "engines",
        sa.Column(
            "missing_promises", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
    )
    op.add_column("engines", sa.Column("problem", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("engines", "problem")
    op.drop_column("engines", "missing_promises")
