"""Cards by pool: a list that asks for one does not read all others.

Revision: 0011, after 0010.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_INDEX = "ix_cards_pool_adapter_version_engine"


def upgrade() -> None:
    op.create_index(op.f(_INDEX), "cards", ["pool", "adapter", "version", "engine"])


def downgrade() -> None:
    op.drop_index(op.f(_INDEX), table_name="cards")
