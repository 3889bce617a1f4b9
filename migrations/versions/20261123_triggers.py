"""What the database itself keeps true: the audit chain, and the signals to those who wait for a change.

Revision: 0002, after 0001.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_FUNCTIONS = (
    # One text for an event, whatever the session's time zone and date style are.
    """
    CREATE FUNCTION audit_event_hash(event audit_events) RETURNS text LANGUAGE sql STABLE AS $$
        SELECT encode(sha256(convert_to(jsonb_build_array(
            event.previous_hash, event.seq,
            to_char(event.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
            event.actor, event.action, event.adapter, event.version, event.pool, event.engine, event.operation,
            event.outcome, event.detail
        )::text, 'UTF8')), 'hex')
    $$
    """,
    # The statement after the lock sees what the lock's last holder committed; should a transaction of a stricter
    # isolation level not see it, the unique previous_hash refuses the fork. (7236270, 0) is the migrations' lock.
    """
    CREATE FUNCTION audit_events_chain() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        last audit_events;
    BEGIN
        PERFORM pg_advisory_xact_lock(7236270, 1);
        SELECT * INTO last FROM audit_events ORDER BY seq DESC LIMIT 1;
        NEW.seq := coalesce(last.seq, 0) + 1;
        NEW.at := greatest(clock_timestamp(), last.at);
        NEW.previous_hash := coalesce(last.hash, repeat('0', 64));
        NEW.hash := audit_event_hash(NEW);
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit_events is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
    END
    $$
    """,
    """
    CREATE FUNCTION notify_operation() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('loradock_operations', to_jsonb(NEW) ->> TG_ARGV[0]);
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION notify_cards() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('loradock_cards', TG_TABLE_NAME);
        RETURN NULL;
    END
    $$
    """,
)

_TRIGGERS = (
    """
    CREATE TRIGGER chain BEFORE INSERT ON audit_events
        FOR EACH ROW EXECUTE FUNCTION audit_events_chain()
    """,
    """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
        FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()
    """,
    # ALWAYS: also for a session that plays the replica, which skips ordinary triggers.
    "ALTER TABLE audit_events ENABLE ALWAYS TRIGGER chain",
    "ALTER TABLE audit_events ENABLE ALWAYS TRIGGER append_only",
    """
    CREATE TRIGGER notify AFTER INSERT OR UPDATE ON operations
        FOR EACH ROW EXECUTE FUNCTION notify_operation('id')
    """,
    """
    CREATE TRIGGER notify AFTER INSERT OR UPDATE ON operation_steps
        FOR EACH ROW EXECUTE FUNCTION notify_operation('operation')
    """,
    *(
        f"""
        CREATE TRIGGER notify AFTER INSERT OR UPDATE OR DELETE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION notify_cards()
        """
        for table in ("cards", "deployments", "deployment_versions")
    ),
)


def upgrade() -> None:
    for statement in (*_FUNCTIONS, *_TRIGGERS):
        op.execute(statement)


def downgrade() -> None:
    for table in ("operations", "operation_steps", "cards", "deployments", "deployment_versions"):
        op.execute(f"DROP TRIGGER notify ON {table}")
    op.execute("DROP TRIGGER append_only ON audit_events")
    op.execute("DROP TRIGGER chain ON audit_events")
    for function in ("notify_cards", "notify_operation", "audit_events_refuse", "audit_events_chain"):
        op.execute(f"DROP FUNCTION {function}()")
    op.execute("DROP FUNCTION audit_event_hash(audit_events)")
