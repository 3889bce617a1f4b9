"""A migrated database of its own for every test of the registry."""

import itertools
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from loradock.registry.database import Database
from migrations import runner
from tests.registry.world import World

_counter = itertools.count(1)


def _url(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _admin(server: str, statement: sql.Composed) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture(scope="session")
def template(postgres_server: str) -> str:
    """The name of a migrated database to copy. Other rooms' tests take this fixture over, and make one of their own."""
    name = f"registry_template_{next(_counter)}"
    _admin(postgres_server, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    runner.upgrade(_url(postgres_server, name))
    return name


@pytest.fixture
def registry_url(postgres_server: str, template: str) -> Iterator[str]:
    """The address of a migrated, empty database."""
    name = f"registry_{next(_counter)}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    _admin(postgres_server, sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
    yield _url(postgres_server, name)
    _admin(postgres_server, sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


@pytest.fixture
async def database(registry_url: str) -> AsyncIterator[Database]:
    """The registry's way to it."""
    database = Database(registry_url, pool_size=16)
    yield database
    await database.dispose()


@pytest.fixture
def world(database: Database) -> World:
    """Short ways to the states that tests begin with."""
    return World(database)
