"""The way to Postgres: connections, and the unit of work that every query runs in."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any, Final

from psycopg import errors as postgres_errors
from sqlalchemy import URL, DateTime, func, insert, make_url, select, text, type_coerce
from sqlalchemy import exc as sqlalchemy_errors
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from loradock.core.errors import LoradockError
from loradock.registry.tables import AuditEventRow

# A process that dies in the middle must not hold a lock for long; a query that hangs must not hold a worker.
_SESSION_OPTIONS: Final = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "lock_timeout": "10s",
        "statement_timeout": "30s",
        "idle_in_transaction_session_timeout": "30s",
        "timezone": "UTC",
    }.items()
)

CLIENT_ENCODING: Final = "utf8"
"""What every connection speaks, whatever the database's own encoding: on SQL_ASCII psycopg would give bytes for text."""


def sqlalchemy_url(url: str) -> URL:
    """The address in SQLAlchemy's form, on the psycopg driver.

    Raises:
        LoradockError: `setting_invalid`; the address, which may hold a password, is not shown.
    """
    try:
        parsed = make_url(url)
    except (sqlalchemy_errors.ArgumentError, ValueError):
        raise LoradockError("setting_invalid", "LORADOCK_DATABASE_URL is not an address") from None
    if parsed.drivername.partition("+")[0] not in {"postgresql", "postgres"}:
        raise LoradockError("setting_invalid", "LORADOCK_DATABASE_URL must begin with postgresql://")
    return parsed.set(drivername="postgresql+psycopg")


def libpq_url(url: str) -> str:
    """The address in libpq's form; it holds the password.

    Raises:
        LoradockError: `setting_invalid`.
    """
    return sqlalchemy_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def database_errors() -> Iterator[None]:
    """Give the database's own failures a code.

    Raises:
        LoradockError: `database_unavailable` for what may pass (no connection, deadlock, lock or statement timeout),
            `schema_outdated` when a table, column or function is missing, `invalid_request` for text that Postgres
            cannot store (NUL, half surrogates).
    """
    try:
        yield
    except sqlalchemy_errors.TimeoutError:
        raise LoradockError("database_unavailable", "no free connection to Postgres in time") from None
    except sqlalchemy_errors.DBAPIError as error:
        raise _translate(error) from error


def _translate(error: sqlalchemy_errors.DBAPIError) -> Exception:
    cause = error.orig
    name = type(cause).__name__
    if isinstance(
        cause,
        postgres_errors.UndefinedTable | postgres_errors.UndefinedColumn | postgres_errors.UndefinedFunction,
    ):
        return LoradockError("schema_outdated", f"Postgres: {name}")
    if isinstance(error, sqlalchemy_errors.DataError):
        return LoradockError("invalid_request", f"a value cannot be stored (Postgres: {name})")
    passing = isinstance(error, sqlalchemy_errors.OperationalError | sqlalchemy_errors.InterfaceError)
    if passing or error.connection_invalidated:
        return LoradockError("database_unavailable", f"Postgres: {name}")
    return error


class Reader:
    """A unit of work that only reads: one consistent picture of the database.

    Attributes:
        session: for the modules of this package alone.
    """

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def now(self) -> datetime:
        """The time now, by the database's clock: the only one that hosts share."""
        clock = select(type_coerce(func.clock_timestamp(), DateTime(timezone=True)))
        return (await self.session.scalars(clock)).one()


class Transaction(Reader):
    """A unit of work that writes: all of it is kept or nothing.

    Audit events are held back to the commit: writing one takes the lock on the chain's end, which is thus held only for
    the last statement and never while another lock is waited for.
    """

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self._events: list[dict[str, Any]] = []

    def audit(
        self,
        action: str,
        *,
        actor: str,
        adapter: str | None = None,
        version: int | None = None,
        pool: str | None = None,
        engine: str | None = None,
        operation: str | None = None,
        outcome: str = "ok",
        **detail: Any,
    ) -> None:
        """Note an event, to be written with the commit.

        Args:
            action: `<thing>.<what happened to it>`.
            outcome: `ok`, or the error's code.
            detail: further facts, JSON values only, never a secret.
        """
        self._events.append(
            {
                "action": action,
                "actor": actor,
                "adapter": adapter,
                "version": version,
                "pool": pool,
                "engine": engine,
                "operation": operation,
                "outcome": outcome,
                "detail": detail,
            }
        )

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that may fail without the rest: what it wrote and what it noted for the audit is undone."""
        noted = len(self._events)
        try:
            async with self.session.begin_nested():
                yield
        except BaseException:
            del self._events[noted:]
            raise

    async def write_audit(self) -> None:
        """Write what was noted; called once, right before the commit."""
        if self._events:
            await self.session.flush()
            await self.session.execute(insert(AuditEventRow.__table__), self._events)  # type: ignore[arg-type]
            self._events = []


class Database:
    """A pool of connections to one database.

    Args:
        url: `postgresql://user:password@host:port/name`.
        pool_size: connections at most; a unit of work holds one.
    """

    def __init__(self, url: str, pool_size: int = 10) -> None:
        self._engine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "connect_timeout": 5,
                "client_encoding": CLIENT_ENCODING,
                "options": _SESSION_OPTIONS,
                "application_name": "loradock",
            },
        )
        self._writers = _sessions(self._engine)
        self._readers = _sessions(
            self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        )

        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A unit of work, committed at the end of the block and undone by any exception.

        Raises:
            LoradockError: `database_unavailable` (also for a deadlock: the caller tries the whole block again),
                `schema_outdated`.
        """
        with database_errors():
            async with self._writers() as session, session.begin():
                unit = Transaction(session)
                yield unit
                await unit.write_audit()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Reader]:
        """A unit of work that can only read.

        Raises:
            LoradockError: `database_unavailable`, `schema_outdated`.
        """
        with database_errors():
            async with self._readers() as session, session.begin():
                yield Reader(session)

    @asynccontextmanager
    async def single(self) -> AsyncIterator[AsyncConnection]:
        """For a single statement, which is a transaction of its own: no session, no round trips for begin and commit.

        Raises:
            LoradockError: `database_unavailable`, `schema_outdated`.
        """
        with database_errors():
            async with self._single.connect() as connection:
                yield connection

    async def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            LoradockError: `database_unavailable`.
        """
        async with self.read() as reader:
            await reader.session.execute(text("SELECT 1"))

    async def dispose(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


def _sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, expire_on_commit=False)
