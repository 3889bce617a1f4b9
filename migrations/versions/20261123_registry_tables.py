"""The registry's tables and sequences.

Revision: 0001, the first.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_SEQUENCES = ("adapter_int_ids", "fencing_epoch")


def upgrade() -> None:
    for sequence in _SEQUENCES:
        op.execute(sa.schema.CreateSequence(sa.Sequence(sequence, data_type=sa.BigInteger)))
    op.create_table(
        "adapters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_adapters")),
    )
    op.create_table(
        "agents",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column(
            "superseded_instances",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("agent_version", sa.Text(), nullable=False),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agents")),
    )
    op.create_table(
        "audit_events",
        sa.Column(
            "seq", sa.BigInteger(), server_default=sa.FetchedValue(), autoincrement=False, nullable=False
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.FetchedValue(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("pool", sa.Text(), nullable=True),
        sa.Column("engine", sa.Text(), nullable=True),
        sa.Column("operation", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("previous_hash", sa.Text(), server_default=sa.FetchedValue(), nullable=False),
        sa.Column("hash", sa.Text(), server_default=sa.FetchedValue(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_events")),
        sa.UniqueConstraint("previous_hash", name=op.f("uq_audit_events_previous_hash")),
    )
    op.create_index(op.f("ix_audit_events_actor_seq"), "audit_events", ["actor", "seq"], unique=False)
    op.create_index(op.f("ix_audit_events_adapter_seq"), "audit_events", ["adapter", "seq"], unique=False)
    op.create_index(op.f("ix_audit_events_operation_seq"), "audit_events", ["operation", "seq"], unique=False)
    op.create_table(
        "operations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("pool", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("lock_key", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("request", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("failure", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("repairs_pending", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column(
            "epoch", sa.BigInteger(), server_default=sa.text("nextval('fencing_epoch')"), nullable=False
        ),
        sa.Column("workflow_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=True),
        sa.Column(
            "superseded_runs", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('compensating', 'paused', 'pending', 'running')) = (ended_at IS NULL)",
            name=op.f("ck_operations_ended"),
        ),
        sa.CheckConstraint("kind IN ('publish', 'load', 'unload')", name=op.f("ck_operations_kind")),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'paused', 'compensating', 'succeeded', 'failed', 'rolled_back', 'aborted')",
            name=op.f("ck_operations_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operations")),
        sa.UniqueConstraint(
            "requested_by", "idempotency_key", name=op.f("uq_operations_requested_by_idempotency_key")
        ),
    )
    op.create_index(
        "ix_operations_active",
        "operations",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state IN ('compensating', 'paused', 'pending', 'running')"),
    )
    op.create_index(op.f("ix_operations_adapter_id"), "operations", ["adapter", "id"], unique=False)
    op.create_index(op.f("ix_operations_state_id"), "operations", ["state", "id"], unique=False)
    op.create_index(
        "uq_operations_lock_key_active",
        "operations",
        ["lock_key"],
        unique=True,
        postgresql_where=sa.text("state IN ('compensating', 'paused', 'pending', 'running')"),
    )
    op.create_table(
        "deployments",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["adapter"], ["adapters.name"], name=op.f("fk_deployments_adapter_adapters")),
        sa.PrimaryKeyConstraint("adapter", "pool", name=op.f("pk_deployments")),
    )
    op.create_table(
        "engines",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=True),
        sa.Column("generation", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=True),
        sa.Column("engine_version", sa.Text(), nullable=True),
        sa.Column("max_loras", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("usable_slots", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("free_slots", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_lora_rank", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("resident", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("limitations", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status <> 'alive' OR incarnation IS NOT NULL", name=op.f("ck_engines_alive_is_known")
        ),
        sa.CheckConstraint("status IN ('alive', 'unreachable', 'lost')", name=op.f("ck_engines_status")),
        sa.ForeignKeyConstraint(["agent"], ["agents.id"], name=op.f("fk_engines_agent_agents")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_engines")),
    )
    op.create_index(op.f("ix_engines_agent"), "engines", ["agent"], unique=False)
    op.create_index(op.f("ix_engines_pool_id"), "engines", ["pool", "id"], unique=False)
    op.create_table(
        "operation_steps",
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("engine", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "detail",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'succeeded', 'failed', 'undone', 'skipped')",
            name=op.f("ck_operation_steps_state"),
        ),
        sa.ForeignKeyConstraint(
            ["operation"], ["operations.id"], name=op.f("fk_operation_steps_operation_operations")
        ),
        sa.PrimaryKeyConstraint("operation", "name", "engine", name=op.f("pk_operation_steps")),
    )
    op.create_table(
        "versions",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column(
            "int_id", sa.BigInteger(), server_default=sa.text("nextval('adapter_int_ids')"), nullable=False
        ),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("target_modules", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("traits", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=False),
        sa.Column("source_uri", sa.Text(), nullable=False),
        sa.Column("artifact_uri", sa.Text(), nullable=True),
        sa.Column("labels", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("failure", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.CheckConstraint("digest ~ '^sha256:[0-9a-f]{64}$'", name=op.f("ck_versions_digest")),
        sa.CheckConstraint(
            "state <> 'ready' OR artifact_uri IS NOT NULL", name=op.f("ck_versions_ready_has_artifact")
        ),
        sa.CheckConstraint("state IN ('publishing', 'ready', 'failed')", name=op.f("ck_versions_state")),
        sa.CheckConstraint("rank >= 1", name=op.f("ck_versions_rank")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_versions_version")),
        sa.ForeignKeyConstraint(["adapter"], ["adapters.name"], name=op.f("fk_versions_adapter_adapters")),
        sa.PrimaryKeyConstraint("adapter", "version", name=op.f("pk_versions")),
        sa.UniqueConstraint("adapter", "digest", name=op.f("uq_versions_adapter_digest")),
        sa.UniqueConstraint("int_id", name=op.f("uq_versions_int_id")),
    )
    op.create_table(
        "aliases",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("alias", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.CheckConstraint("alias !~ '^[0-9]+$'", name=op.f("ck_aliases_alias_not_numeric")),
        sa.ForeignKeyConstraint(
            ["adapter", "version"],
            ["versions.adapter", "versions.version"],
            name=op.f("fk_aliases_adapter_version_versions"),
        ),
        sa.PrimaryKeyConstraint("adapter", "alias", name=op.f("pk_aliases")),
    )
    op.create_table(
        "cards",
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("served_name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("int_id", sa.BigInteger(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('staged', 'serving', 'draining', 'lost')", name=op.f("ck_cards_state")),
        sa.ForeignKeyConstraint(
            ["adapter", "version"],
            ["versions.adapter", "versions.version"],
            name=op.f("fk_cards_adapter_version_versions"),
        ),
        sa.ForeignKeyConstraint(["engine"], ["engines.id"], name=op.f("fk_cards_engine_engines")),
        sa.ForeignKeyConstraint(["operation"], ["operations.id"], name=op.f("fk_cards_operation_operations")),
        sa.PrimaryKeyConstraint("engine", "adapter", "version", name=op.f("pk_cards")),
    )
    op.create_index(
        op.f("ix_cards_adapter_version_engine"), "cards", ["adapter", "version", "engine"], unique=False
    )
    op.create_index(op.f("ix_cards_operation"), "cards", ["operation"], unique=False)
    op.create_index(
        op.f("ix_cards_state_adapter_version_engine"),
        "cards",
        ["state", "adapter", "version", "engine"],
        unique=False,
    )
    op.create_table(
        "deployment_versions",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("engines", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.CheckConstraint("weight BETWEEN 0 AND 100", name=op.f("ck_deployment_versions_weight")),
        sa.ForeignKeyConstraint(
            ["adapter", "pool"],
            ["deployments.adapter", "deployments.pool"],
            name=op.f("fk_deployment_versions_adapter_pool_deployments"),
        ),
        sa.ForeignKeyConstraint(
            ["adapter", "version"],
            ["versions.adapter", "versions.version"],
            name=op.f("fk_deployment_versions_adapter_version_versions"),
        ),
        sa.PrimaryKeyConstraint("adapter", "pool", "version", name=op.f("pk_deployment_versions")),
    )


def downgrade() -> None:
    for table in (
        "deployment_versions",
        "cards",
        "aliases",
        "versions",
        "operation_steps",
        "engines",
        "deployments",
        "operations",
        "audit_events",
        "agents",
        "adapters",
    ):
        op.drop_table(table)
    for sequence in _SEQUENCES:
        op.execute(sa.schema.DropSequence(sa.Sequence(sequence)))
