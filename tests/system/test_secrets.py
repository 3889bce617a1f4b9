"""After everything that the other tests did: no secret of the stack is anywhere that it does not belong."""

from pathlib import Path

import pytest

from tests.artifacts.samples import make_adapter
from tests.system.command_line import Cli
from tests.system.running import RunningStack

pytestmark = pytest.mark.slow


def secrets(stack: RunningStack) -> dict[str, str]:
    found = {path.name: path.read_text().strip() for path in (stack.state / "secrets").iterdir()}
    assert {"api-token", "agent-token", "engine-token"} <= set(found)
    found["postgres password"] = (stack.state / "postgres" / "password").read_text().strip()
    found["S3 secret"] = str(stack.stack.info.object_store.secret_access_key)
    assert stack.stack.info.token == found["api-token"]
    assert found["postgres password"] in stack.stack.info.database_url
    assert all(len(value) >= 16 for value in found.values())
    return found | {f"a caller's secret {number}": one for number, one in enumerate(stack.poison)}


class Search:
    """Looks for every secret of a stack at once."""

    def __init__(self, stack: RunningStack) -> None:
        self._wanted = {name: value.encode() for name, value in secrets(stack).items()}

    def __call__(self, text: str | bytes) -> list[str]:
        """The secrets that stand in the text."""
        content = text.encode() if isinstance(text, str) else text
        return [name for name, value in self._wanted.items() if value in content]


@pytest.fixture(scope="module")
def leaked(used: RunningStack) -> Search:
    return Search(used)


def test_the_search_finds_what_it_looks_for(used: RunningStack, leaked: Search) -> None:
    assert leaked(f"Bearer {used.stack.info.token}") == ["api-token"]
    assert leaked((used.state / "seaweedfs" / "credentials.json").read_bytes()) == ["S3 secret"]
    assert leaked(used.stack.info.database_url) == ["postgres password"]
    assert leaked("nothing") == []


@pytest.fixture(scope="module")
def used(session_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> RunningStack:
    """The stack after a story with a good and a bad end; what other tests did is in it too."""
    stack, name = session_stack, "secretive"
    secret = "sk-of-a-caller-in-an-address"
    stack.poison.add(secret)
    address = f"s3://key:{secret}@bucket/prefix"
    stack.refuse("POST", f"/v1/adapters/{name}/versions", {"source": {"uri": address}})
    stack.publish(name, make_adapter(tmp_path_factory.mktemp(name)))
    stack.load(name)
    stack.run(f"/v1/adapters/{name}/versions", {"source": {"uri": "s3://sources/none"}})
    stack.unload(name)
    stack.refuse("GET", "/v1/adapters", authorization=f"Basic {stack.stack.info.token}")
    return stack


def test_no_log_has_a_secret(used: RunningStack, leaked: Search) -> None:
    logs = [path for path in used.logs.rglob("*") if path.is_file()]
    assert {"api.log", "orchestrator.log", "agent-1.log", "engine-1.log"} <= {path.name for path in logs}
    assert {path.name: found for path in logs if (found := leaked(path.read_bytes()))} == {}


def test_no_row_has_a_secret(used: RunningStack, leaked: Search) -> None:
    tables = used.tables()
    assert {"operations", "operation_steps", "audit_events", "versions", "engines"} <= set(tables)
    for table in tables:
        rows = used.rows(f"SELECT t::text FROM {table} t")
        assert leaked("\n".join(row for (row,) in rows)) == [], table


def test_no_workflow_history_has_a_secret(used: RunningStack, leaked: Search) -> None:
    async def histories() -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        async for workflow in used.temporal.list_workflows():
            handle = used.temporal.get_workflow_handle(workflow.id, run_id=workflow.run_id)
            history = await handle.fetch_history()
            found[f"{workflow.id} {workflow.run_id}"] = b"".join(
                event.SerializeToString() for event in history.events
            )
        return found

    found = used.do(histories())
    assert len(found) > 5
    # The search would find what it looks for: addresses stand in histories as they are.
    assert any(b"s3://sources/none" in content for content in found.values())
    assert {name: bad for name, content in found.items() if (bad := leaked(content))} == {}


def test_no_answer_of_the_api_has_a_secret(used: RunningStack, leaked: Search) -> None:
    used.request("GET", "/openapi.json")
    assert len(used.answers) > 5
    assert [answer for answer in used.answers if leaked(answer)] == []


def test_nobody_can_read_a_secret_in_the_process_list(used: RunningStack, leaked: Search) -> None:
    for name, pid in used.pids().items():
        assert leaked(Path(f"/proc/{pid}/cmdline").read_bytes()) == [], name


def test_no_object_and_no_cached_file_has_a_secret(used: RunningStack, leaked: Search) -> None:
    store, bucket = used.s3, used.stack.info.object_store.bucket
    for key in used.objects():
        assert leaked(store.get_object(Bucket=bucket, Key=key)["Body"].read()) == [], key
    for path in (used.state / "agents").rglob("*"):
        assert not path.is_file() or leaked(path.read_bytes()) == [], path


def test_files_with_secrets_are_for_their_owner_alone(used: RunningStack) -> None:
    holders = [*(used.state / "secrets").iterdir(), used.stack.options.dev_file]
    assert [path for path in holders if path.stat().st_mode & 0o077] == []
    assert used.state.stat().st_mode & 0o077 == 0


def test_the_cli_says_no_secret(used: RunningStack, leaked: Search) -> None:
    cli = Cli(used)
    for arguments in (["audit"], ["ops"], ["show", "nobody"]):
        done = cli.run(*arguments, LORADOCK_LOG_LEVEL="DEBUG")
        assert leaked(done.stdout + done.stderr) == [], arguments


def test_an_agent_has_no_way_to_the_database(used: RunningStack) -> None:
    database, token = used.stack.info.database_url, used.stack.info.token
    for part in ("agent-1", "agent-2", "engine-1", "engine-2"):
        environment = Path(f"/proc/{used.pid(part)}/environ").read_bytes()
        assert environment
        assert database.encode() not in environment, part
        assert token.encode() not in environment, part
