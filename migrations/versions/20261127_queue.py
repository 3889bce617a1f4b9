"""The queue of operations, retries, idempotency keys of their own, and alias revisions that never come again.

Revision: 0008, after 0007.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_OPERATION = "fk_idempotency_keys_operation_operations"
_UNIQUE = "uq_operations_requested_by_idempotency_key"


def upgrade() -> None:
    now = sa.text("now()")
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "idempotency_keys",
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("created_at", moment, server_default=now, nullable=False),
        sa.ForeignKeyConstraint(
            ["operation"], ["operations.id"], name=op.f(_OPERATION), deferrable=True, initially="DEFERRED"
        ),
        sa.PrimaryKeyConstraint("actor", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_operation"), "idempotency_keys", ["operation"])
    op.execute(
        "INSERT INTO idempotency_keys (actor, key, request_hash, operation, created_at) "
        "SELECT requested_by, idempotency_key, request_hash, id, created_at FROM operations "
        "WHERE idempotency_key IS NOT NULL"
    )
    # What the foreign key has yet to check would stand in the way of changing the table.
    op.execute("SET CONSTRAINTS ALL IMMEDIATE")
    op.drop_constraint(op.f(_UNIQUE), "operations")
    op.drop_column("operations", "idempotency_key")
    op.add_column("operations", sa.Column("retry_of", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_operations_retry_of_operations"), "operations", "operations", ["retry_of"], ["id"]
    )
    op.add_column("operations", sa.Column("admitted_at", moment, server_default=now, nullable=True))
    queued = sa.text("state = 'pending' AND admitted_at IS NULL")
    op.create_index("ix_operations_queued", "operations", ["id"], postgresql_where=queued)
    op.add_column(
        "adapters", sa.Column("alias_revision", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.execute(
        "UPDATE adapters SET alias_revision = found.revision FROM "
        "(SELECT adapter, max(revision) AS revision FROM aliases GROUP BY adapter) found "
        "WHERE found.adapter = adapters.name"
    )


def downgrade() -> None:
    op.drop_column("adapters", "alias_revision")
    op.drop_index("ix_operations_queued", table_name="operations")
    op.drop_column("operations", "admitted_at")
    op.drop_constraint(op.f("fk_operations_retry_of_operations"), "operations")
    op.drop_column("operations", "retry_of")
    op.add_column("operations", sa.Column("idempotency_key", sa.Text(), nullable=True))
    op.execute(
        "UPDATE operations SET idempotency_key = found.key FROM "
        "(SELECT DISTINCT ON (operation, actor) operation, actor, key FROM idempotency_keys "
        "ORDER BY operation, actor, created_at) found "
        "WHERE found.operation = operations.id AND found.actor = operations.requested_by"
    )
    op.create_unique_constraint(op.f(_UNIQUE), "operations", ["requested_by", "idempotency_key"])
    op.drop_table("idempotency_keys")
