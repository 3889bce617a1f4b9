"""A plan is done as it was shown, what best effort could not reach is retried alone, on the whole stack."""

import pytest

from tests.system.command_line import Cli
from tests.system.conftest import MakeAdapter
from tests.system.running import RunningStack

pytestmark = pytest.mark.slow


def test_a_plan_is_done_as_it_was_shown_and_only_while_it_is_right(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    cli = Cli(stack)
    stack.publish(name, make())
    options = (f"{name}@1", "--replicas", "1")
    plan = cli.json("plan", *options)
    assert plan["error"] is None
    (chosen,) = [one["engine"] for one in plan["engines"] if one["action"] == "load"]
    assert [stack.held(engine) for engine in stack.engines] == [set(), set()]
    cli.ok("load", *options, "--plan", plan["etag"])
    assert [engine for engine in stack.engines if f"{name}@1" in stack.held(engine)] == [chosen]
    (deployment,) = stack.items(f"/v1/deployments?adapter={name}")
    assert deployment["versions"][0]["engines"] == [chosen]
    assert deployment["versions"][0]["placement"]["replicas"] == 1
    again = {"If-Match": f'"{plan["etag"]}"'}
    body = {"version": 1, "replicas": 1}
    outdated = stack.refuse("POST", f"/v1/adapters/{name}/load", body, headers=again)
    assert (outdated["status"], outdated["code"]) == (409, "plan_outdated")


def test_a_retry_loads_on_the_engine_that_failed_and_on_no_other(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    cli = Cli(stack)
    stack.publish(name, make())
    well, broken = stack.engines
    stack.faults(broken, load_error="out of memory")
    load = stack.load(name, policy="best_effort")
    assert (load["result"]["engines"], list(load["result"]["failed_engines"])) == ([well], [broken])
    assert {step["engine"] for step in load["steps"] if step["error"]} == {broken}
    stack.faults()
    retried = cli.json("ops", "retry", load["id"])
    assert (retried["state"], retried["retry_of"]) == ("succeeded", load["id"])
    assert {step["engine"] for step in retried["steps"]} == {broken}
    assert all(f"{name}@1" in stack.held(engine) for engine in stack.engines)
    (deployment,) = stack.items(f"/v1/deployments?adapter={name}")
    assert deployment["versions"][0]["engines"] is None  # the whole pool is wanted, as it was asked for
    assert stack.refuse("POST", f"/v1/operations/{load['id']}/retry")["code"] == "operation_not_retryable"
