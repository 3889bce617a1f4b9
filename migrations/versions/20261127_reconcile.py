"""Reconciliation: what engines serve by digest, the reconciler's queue, and drift.

Revision: 0006, after 0005.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NOW = sa.text("now()")
_BROUGHT_BY = "ck_cards_brought_by"


def upgrade() -> None:
    op.add_column("engines", sa.Column("served", postgresql.JSONB(none_as_null=True), nullable=True))
    op.add_column(
        "engines",
        sa.Column(
            "unknown_ids", postgresql.ARRAY(sa.BigInteger()), server_default=sa.text("'{}'"), nullable=False
        ),
    )
    op.alter_column("cards", "operation", nullable=True)
    op.add_column("cards", sa.Column("repair", sa.Text(), nullable=True))
    op.create_check_constraint(op.f(_BROUGHT_BY), "cards", "num_nonnulls(operation, repair) >= 1")
    op.create_index(
        "ix_operations_repairs_pending", "operations", ["id"], postgresql_where=sa.text("repairs_pending")
    )
    op.create_table(
        "reconciliations",
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("requested", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        *(
            sa.Column(name, sa.DateTime(timezone=True), nullable=True)
            for name in ("wanted_since", "due_at", "looked_at")
        ),
        sa.Column("failure", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("drifted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("window_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("window_repairs", sa.Integer(), server_default=sa.text("0"), nullable=False),
        *(
            sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False)
            for name in ("repaired", "failed", "converged")
        ),
        sa.Column("converge_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_converge_seconds", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["engine"], ["engines.id"], name=op.f("fk_reconciliations_engine_engines")),
        sa.PrimaryKeyConstraint("engine", name=op.f("pk_reconciliations")),
    )
    op.create_index(
        "ix_reconciliations_due",
        "reconciliations",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "drifts",
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("served_name", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure", postgresql.JSONB(none_as_null=True), nullable=True),
        sa.Column("under_way", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "kind IN ('missing', 'wrong', 'leftover', 'foreign', 'unknown_id')", name=op.f("ck_drifts_kind")
        ),
        sa.ForeignKeyConstraint(["engine"], ["engines.id"], name=op.f("fk_drifts_engine_engines")),
        sa.PrimaryKeyConstraint("engine", "served_name", name=op.f("pk_drifts")),
    )
    op.create_index(op.f("ix_drifts_adapter"), "drifts", ["adapter"])


def downgrade() -> None:
    op.drop_table("drifts")
    op.drop_table("reconciliations")
    op.drop_index("ix_operations_repairs_pending", table_name="operations")
    op.drop_constraint(op.f(_BROUGHT_BY), "cards")
    op.execute("DELETE FROM cards WHERE operation IS NULL")
    op.drop_column("cards", "repair")
    op.alter_column("cards", "operation", nullable=False)
    op.drop_column("engines", "unknown_ids")
    op.drop_column("engines", "served")
