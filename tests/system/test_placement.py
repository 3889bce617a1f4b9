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


def test_a_retry_of_a_load_that_was_put_back_loads_what_is_missing(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    # What a best-effort load leaves is the reconciler's at once: who retries it first is a race that nobody loses.
    cli = Cli(stack)
    stack.publish(name, make())
    _, broken = stack.engines
    stack.faults(broken, load_error="out of memory")
    load = stack.run(f"/v1/adapters/{name}/load", {"version": 1})
    assert load["state"] == "failed"
    assert all(f"{name}@1" not in stack.held(engine) for engine in stack.engines)
    stack.faults()
    retried = cli.json("ops", "retry", load["id"])
    assert (retried["state"], retried["retry_of"]) == ("succeeded", load["id"])
    assert {step["engine"] for step in retried["steps"]} == set(stack.engines)
    assert all(f"{name}@1" in stack.held(engine) for engine in stack.engines)
    (deployment,) = stack.items(f"/v1/deployments?adapter={name}")
    assert deployment["versions"][0]["engines"] is None  # the whole pool is wanted, as it was asked for
    assert stack.refuse("POST", f"/v1/operations/{load['id']}/retry")["code"] == "operation_not_retryable"
