"""Registering the search attributes: once, again, and by many at once."""

import asyncio

from temporalio.client import Client

from tests.worker.conftest import new_namespace
from worker import search_attributes
from workflows.search_attributes import ALL

NAMES = [key.name for key in ALL]


async def test_registering_adds_what_is_missing_and_then_nothing(temporal_dev_server: str) -> None:
    namespace = await new_namespace(temporal_dev_server)
    client = await Client.connect(temporal_dev_server, namespace=namespace)
    assert sorted(await search_attributes.missing(client)) == sorted(NAMES)
    assert sorted(await search_attributes.register(client)) == sorted(NAMES)
    assert await search_attributes.register(client) == []
    assert await search_attributes.missing(client) == []


async def test_many_processes_may_register_at_once(temporal_dev_server: str) -> None:
    namespace = await new_namespace(temporal_dev_server)
    clients = [await Client.connect(temporal_dev_server, namespace=namespace) for _ in range(5)]
    await asyncio.gather(*(search_attributes.register(client) for client in clients))
    assert await search_attributes.missing(clients[0]) == []
