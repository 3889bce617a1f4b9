"""The command line as a person and as a script use it."""

import pytest

from loradock.engines.simulated.answers import simulated_text
from tests.system.command_line import Cli
from tests.system.conftest import MakeAdapter
from tests.system.running import RunningStack, eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def cli(stack: RunningStack) -> Cli:
    return Cli(stack)


def test_the_whole_way_of_an_adapter(stack: RunningStack, cli: Cli, make: MakeAdapter, name: str) -> None:
    folder = make()
    published = cli.ok("publish", name, str(folder), "--wait", "--label", "run=7")
    assert f"{name}@1 published" in published
    digest = stack.get(f"/v1/adapters/{name}/versions/1")["digest"]
    assert digest in published
    assert "was already published" in cli.ok("publish", name, str(folder))

    loaded = cli.ok("load", f"{name}@1")
    assert "is served by engine-1, engine-2" in loaded
    for engine in stack.engines:
        assert stack.answer(engine, f"{name}@1", "Say hello.") == simulated_text(digest, "Say hello.")

    assert name in cli.ok("ls")
    assert f"{name}@1" in cli.ok("ls", "cards")
    # An engine is listed as its agent last told: with the next renewal of the lease.
    eventually(
        lambda: f"{name}@1" in cli.ok("ls", "engines") or None, "the engines' list does not name the version"
    )
    assert digest[7:15] in cli.ok("show", name)
    assert "run=7" in cli.ok("show", f"{name}@1")
    operations = cli.json("ops", "--adapter", name)["items"]
    assert [(one["kind"], one["state"]) for one in operations] == [
        ("load", "succeeded"), ("publish", "succeeded"), ("publish", "succeeded"),
    ]  # fmt: skip
    shown = cli.ok("ops", operations[0]["id"])
    assert "engine-1" in shown
    assert operations[0]["temporal_url"] in shown
    audit = cli.ok("audit", "--adapter", name)
    assert "adapter.loaded" in audit
    assert operations[0]["temporal_url"] in audit

    assert "unloaded from engine-1, engine-2" in cli.ok("unload", f"{name}@1", "--drain", "5s")
    assert [stack.held(engine) for engine in stack.engines] == [set(), set()]


def test_json_is_one_document_and_nothing_else(
    stack: RunningStack, cli: Cli, make: MakeAdapter, name: str
) -> None:
    done = cli.json("publish", name, str(make()))
    assert (done["state"], done["version"]) == ("succeeded", 1)
    assert cli.json("load", f"{name}@1")["result"]["engines"] == ["engine-1", "engine-2"]
    for command in (["ls"], ["ls", "versions", name], ["ls", "cards"]):
        assert cli.json(*command)["items"], command
    assert cli.json("show", f"{name}@1")["digest"] == done["result"]["digest"]
    assert cli.json("ops", "show", done["id"])["id"] == done["id"]
    assert {event["adapter"] for event in cli.json("audit", "--adapter", name)["items"]} == {name}
    assert cli.json("unload", name)["state"] == "succeeded"


def test_3_when_the_operation_fails(cli: Cli, name: str, stack: RunningStack) -> None:
    address = (stack.stack.options.project / "not-there").as_uri()
    failed = cli.json("publish", name, address, code=3)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "source_not_found")


def test_4_when_the_api_refuses(cli: Cli, stack: RunningStack) -> None:
    assert cli.json("load", "nobody@1", code=4)["code"] == "adapter_not_found"
    wrong = cli.run("ls", LORADOCK_API_TOKEN="wrong")
    assert wrong.returncode == 4
    assert "unauthorized" in wrong.stderr


def test_5_when_nobody_answers(cli: Cli, stack: RunningStack) -> None:
    done = cli.run("ls", LORADOCK_API_URL="http://127.0.0.1:9")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr


def test_6_when_the_wait_is_over_and_the_operation_goes_on(
    stack: RunningStack, cli: Cli, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.faults(load_seconds=4)
    done = cli.run("load", f"{name}@1", "--timeout", "500ms")
    assert done.returncode == 6
    (operation,) = stack.items(f"/v1/operations?adapter={name}&kind=load")
    assert operation["id"] in done.stderr
    assert operation["ended_at"] is None
    assert cli.run("ops", "wait", operation["id"]).returncode == 0
    assert stack.ended(operation["id"])["state"] == "succeeded"


def test_without_waiting_the_id_is_all_that_stdout_has(
    stack: RunningStack, cli: Cli, make: MakeAdapter, name: str
) -> None:
    identifier = cli.ok("publish", name, str(make()), "--no-wait").strip()
    assert stack.ended(identifier)["state"] == "succeeded"


def test_abort_succeeds_when_the_operation_was_put_back(
    stack: RunningStack, cli: Cli, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.faults(load_seconds=4)
    identifier = cli.ok("load", f"{name}@1", "--no-wait").strip()
    assert cli.run("ops", "abort", identifier).returncode == 0
    assert stack.ended(identifier)["state"] == "aborted"
    assert cli.run("ops", "wait", identifier).returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [["load", "greeter"], ["publish", "greeter", "./not-there"]],
)
def test_2_when_the_command_line_is_wrong(cli: Cli, arguments: list[str]) -> None:
    done = cli.run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
