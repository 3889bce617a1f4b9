"""The command against the real API process on a real Postgres: what it sends is taken, what it gets is understood."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from loradock.cli.failures import ExitCode
from loradock.cli.main import run as run_command
from loradock.core.models import OperationState
from loradock.dev.postgres import EmbeddedPostgres
from loradock.registry import operations
from loradock.registry.database import Database
from migrations import runner
from tests.api.world import World
from tests.cli.conftest import Ran

TOKEN = "operator-token-of-the-tests"

AsyncCli = Callable[..., Awaitable[Ran]]


@pytest.fixture(scope="module")
def own_database_url(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database for this file's tests together: they use adapters of their own."""
    url = embedded_postgres.create_database("cli_tests")
    runner.upgrade(url)
    yield url
    embedded_postgres.drop_database("cli_tests")


@pytest.fixture(scope="module")
def api_url(own_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A `loradock api` process. Nothing answers as Temporal, so operations stay as they are."""
    folder = tmp_path_factory.mktemp("api")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    environment |= {
        "LORADOCK_DATABASE_URL": own_database_url,
        "LORADOCK_API_TOKEN": TOKEN,
        "LORADOCK_TEMPORAL_ADDRESS": "127.0.0.1:1",
        "LORADOCK_TEMPORAL_UI_URL": "http://temporal.test",
    }
    ready = folder / "ready"
    command = [sys.executable, "-m", "loradock", "api", "--port", "0", "--ready-file", str(ready)]
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ready.exists(), (folder / "api.log").read_text()
        yield ready.read_text().strip()
    finally:
        process.terminate()
        assert process.wait(20) == 0, (folder / "api.log").read_text()


@pytest.fixture
async def database(own_database_url: str) -> AsyncIterator[Database]:
    opened = Database(own_database_url)
    yield opened
    await opened.dispose()


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def command(
    api_url: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncCli:
    monkeypatch.setenv("LORADOCK_API_URL", api_url)
    monkeypatch.setenv("LORADOCK_API_TOKEN", TOKEN)

    async def run(*arguments: str) -> Ran:
        code = await asyncio.to_thread(run_command, arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(int(code), captured.out, captured.err)

    return run


async def test_every_read_is_understood_and_json_is_the_apis(
    world: World, command: AsyncCli, api_url: str
) -> None:
    await world.engines("engine-1", "engine-2")
    await world.version("acme/greeter", "one")
    await world.version("acme/greeter", "two", ready=False)
    await world.loaded("acme/greeter", 1)
    assert (await command("alias", "acme/greeter", "stable", "1")).code == ExitCode.OK
    reads = {
        ("ls",): ("/v1/adapters", ["acme/greeter", "tiny-llama"]),
        ("ls", "versions", "acme/greeter"): ("/v1/adapters/acme/greeter/versions", ["ready", "publishing", "stable"]),
        ("ls", "engines"): ("/v1/engines", ["engine-1", "alive", "default"]),
        ("ls", "cards"): ("/v1/cards", ["acme/greeter@1", "serving", "engine-2"]),
        ("ls", "deployments"): ("/v1/deployments", ["@1 100%"]),
        ("show", "acme/greeter"): ("/v1/adapters/acme/greeter", ["engine-1 (@1)", "stable"]),
        ("show", "acme/greeter@stable"): ("/v1/adapters/acme/greeter/versions/1", ["sha256:", "q_proj", "engine-2"]),
        ("ops",): ("/v1/operations", ["publish acme/greeter", "succeeded"]),
        ("audit", "--adapter", "acme/greeter"): ("/v1/audit?adapter=acme/greeter", ["alias", "http://temporal.test"]),
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=api_url, headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        for arguments, (path, expected) in reads.items():
            ran = await command(*arguments)
            assert ran.code == ExitCode.OK, (arguments, ran.err)
            assert [text for text in expected if text not in ran.out] == [], (arguments, ran.out)
            assert (await command(*arguments, "--json")).json == (await http.get(path)).json()


async def test_a_publish_goes_in_is_found_again_and_is_followed_to_its_end(
    world: World, database: Database, command: AsyncCli, elsewhere: Path
) -> None:
    await world.engines("engine-1")
    (elsewhere / "weights").mkdir()
    first = await command("publish", "greeter", "weights", "--no-upload", "--label", "run=7", "--no-wait")
    assert first.code == ExitCode.OK, first.err
    name = first.out.strip()
    assert (
        await command("publish", "greeter", "weights", "--no-upload", "--label", "run=7", "--no-wait")
    ).out.strip() == name

    other = await command("publish", "greeter", "s3://bucket/other", "--no-wait")
    assert other.code == ExitCode.REFUSED
    assert "[adapter_busy]" in other.err
    assert f"operation: {name}" in other.err
    assert (await command("ops", "wait", name, "--timeout", "200ms")).code == ExitCode.TIMEOUT

    waiting = asyncio.create_task(command("ops", "wait", name))
    async with database.read() as reader:
        found = await operations.get_operation(reader, name)
    run = await world.begun(found)
    await world.end(run, OperationState.FAILED)
    ended = await waiting
    assert ended.code == ExitCode.OPERATION_FAILED
    assert name in ended.err
    assert "failed" in (await command("ops", name)).out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "nobody"), "adapter_not_found"),
        (("load", "nobody@1"), "adapter_not_found"),
        (("show", "bad name"), "invalid_name"),
        (("publish", "greeter", "gs://bucket/x"), "unsupported_scheme"),
        (("publish", "greeter", "s3://bucket/x", "--expect-digest", "1234"), "invalid_request"),
        (("ops", "op-none"), "operation_not_found"),
        (("ops", "--state", "sleeping"), "invalid_request"),
        (("ls", "--token", "wrong"), "unauthorized"),
    ],
)
async def test_what_the_api_refuses_is_told_with_its_code(
    command: AsyncCli, arguments: tuple[str, ...], code: str
) -> None:
    ran = await command(*arguments)
    assert ran.code == ExitCode.REFUSED
    assert f"error [{code}]:" in ran.err
