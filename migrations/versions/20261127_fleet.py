"""Wide operations: their plans, which stay here, and what an agent's last full report was.

Revision: 0010, after 0009.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_RENEWED = ("agents", "engines")


def upgrade() -> None:
    op.create_table(
        "operation_targets",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("int_id", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("ready", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["operation"], ["operations.id"], name=op.f("fk_operation_targets_operation_operations")
        ),
        sa.PrimaryKeyConstraint("operation", "position", name=op.f("pk_operation_targets")),
    )

    op.add_column("agents", sa.Column("report", sa.Text(), nullable=True))
    # Leases touch every row every two seconds: with room left in its page no index has to follow.
    for table in _RENEWED:
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")


def downgrade() -> None:
    for table in _RENEWED:
        op.execute(f"ALTER TABLE {table} RESET (fillfactor)")
    op.drop_column("agents", "report")
    op.drop_table("operation_targets")
