"""Alembic's entry: on the connection that `migrations.runner` opened, or, from the `alembic` command, on one of its own."""

from alembic import context
from sqlalchemy import Connection

from loradock.core.settings import load_settings
from loradock.registry.tables import Base
from migrations.runner import locked_connection


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=Base.metadata, compare_type=True, compare_server_default=True
    )
    with context.begin_transaction():
        context.run_migrations()


def _print_sql() -> None:
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def _run() -> None:
    if context.is_offline_mode():
        return _print_sql()
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        return _migrate(given)
    with locked_connection(load_settings().require("database_url")) as connection:
        return _migrate(connection)


_run()
