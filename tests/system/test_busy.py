"""Two who want the same, and two who want different things, at the same time."""

import concurrent.futures
from typing import Any

import httpx
import pytest

from tests.system.conftest import MakeAdapter
from tests.system.running import Document, RunningStack, eventually, source

pytestmark = pytest.mark.slow


@pytest.fixture
def adapter(stack: RunningStack, make: MakeAdapter, name: str) -> str:
    """An adapter with two versions, in engines that take a while for a load."""
    stack.publish(name, make())
    stack.publish(name, make("second"))
    stack.faults(load_seconds=1.2)
    return name


def at_once(stack: RunningStack, path: str, bodies: list[Document], **headers: str) -> list[httpx.Response]:
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as threads:
        return list(threads.map(lambda body: stack.request("POST", path, body, headers=headers), bodies))


def test_identical_loads_at_once_are_one_operation(stack: RunningStack, adapter: str) -> None:
    answers = at_once(stack, f"/v1/adapters/{adapter}/load", [{"version": 1}] * 8)
    assert {answer.status_code for answer in answers} == {202}
    (operation,) = {answer.json()["id"] for answer in answers}
    assert stack.ended(operation)["state"] == "succeeded"
    assert len(stack.items(f"/v1/operations?adapter={adapter}&kind=load")) == 1
    assert [action for action, _ in stack.audited(operation)].count("operation.requested") == 1


def test_of_different_loads_at_once_one_is_taken_and_the_others_are_told_which(
    stack: RunningStack, adapter: str
) -> None:
    bodies: list[Document] = [{"version": 1 + number % 2} for number in range(8)]
    answers = at_once(stack, f"/v1/adapters/{adapter}/load", bodies)
    taken = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    refused = [answer.json() for answer in answers if answer.status_code != 202]
    (operation,) = taken
    assert len(refused) == 4
    assert {(one["status"], one["code"], one["operation"]) for one in refused} == {
        (409, "adapter_busy", operation)
    }
    assert stack.ended(operation)["state"] == "succeeded"


@pytest.mark.parametrize(
    ("call", "body"),
    [("load", {"version": 2}), ("unload", {}), ("load", {"version": 1, "policy": "best_effort"})],
)
def test_another_change_of_a_busy_adapter_is_refused_and_changes_nothing(
    stack: RunningStack, adapter: str, call: str, body: Any
) -> None:
    first = stack.begin(f"/v1/adapters/{adapter}/load", {"version": 1})["id"]
    problem = stack.refuse("POST", f"/v1/adapters/{adapter}/{call}", body)
    assert (problem["status"], problem["code"], problem["operation"]) == (409, "adapter_busy", first)
    assert stack.ended(first)["state"] == "succeeded"
    assert len(stack.items(f"/v1/operations?adapter={adapter}")) == 3


def test_a_publish_does_not_wait_for_a_load_of_the_same_adapter(
    stack: RunningStack, adapter: str, make: MakeAdapter
) -> None:
    load = stack.begin(f"/v1/adapters/{adapter}/load", {"version": 1})["id"]
    assert stack.publish(adapter, make("third"))["version"] == 3
    assert stack.get(f"/v1/operations/{load}")["ended_at"] is None
    assert stack.ended(load)["state"] == "succeeded"


def test_two_adapters_load_beside_each_other(stack: RunningStack, adapter: str, make: MakeAdapter) -> None:
    other = f"{adapter}-other"
    stack.publish(other, make("other"))
    begun = [stack.begin(f"/v1/adapters/{one}/load", {"version": 1})["id"] for one in (adapter, other)]
    assert [stack.ended(one)["state"] for one in begun] == ["succeeded", "succeeded"]


def test_different_publishes_at_once(stack: RunningStack, name: str, make: MakeAdapter) -> None:
    bodies = [{"source": source(make(f"v{number}"))} for number in range(4)]
    answers = at_once(stack, f"/v1/adapters/{name}/versions", bodies)
    codes = sorted(answer.status_code for answer in answers)
    assert set(codes) <= {202, 409}
    assert 202 in codes
    taken = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"adapter_busy"}
    assert {stack.ended(one)["state"] for one in taken} == {"succeeded"}
    versions = [one["version"] for one in stack.items(f"/v1/adapters/{name}/versions")]
    assert versions == list(range(len(taken), 0, -1))


def test_a_key_gives_its_operation_again_even_after_its_end(stack: RunningStack, adapter: str) -> None:
    path, body = f"/v1/adapters/{adapter}/load", {"version": 1}
    key = {"Idempotency-Key": f"key-of-{adapter}"}
    answers = at_once(stack, path, [body] * 5, **key)
    (operation,) = {answer.json()["id"] for answer in answers}
    assert stack.ended(operation)["state"] == "succeeded"
    again = stack.request("POST", path, body, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, operation)
    # Without the key it is a new wish, met at once: the version is loaded.
    assert stack.succeed(path, body)["id"] != operation


def test_a_key_is_not_good_for_another_request(stack: RunningStack, adapter: str) -> None:
    key = {"Idempotency-Key": f"key-of-{adapter}"}
    first = stack.begin(f"/v1/adapters/{adapter}/load", {"version": 1}, **key)["id"]
    for path, body in ((f"{adapter}/load", {"version": 2}), (f"{adapter}/unload", {})):
        problem = stack.refuse("POST", f"/v1/adapters/{path}", body, headers=key)
        assert (problem["status"], problem["code"], problem["operation"]) == (
            422, "idempotency_key_reused", first,
        )  # fmt: skip
    assert stack.ended(first)["state"] == "succeeded"


def test_the_end_can_be_waited_for(stack: RunningStack, adapter: str) -> None:
    path, body = f"/v1/adapters/{adapter}/load", {"version": 1}
    done = stack.request("POST", path, body, headers={"Prefer": "wait=30"})
    assert (done.status_code, done.json()["state"]) == (200, "succeeded")
    assert done.headers["preference-applied"] == "wait=30"


def test_a_version_with_traffic_is_not_unloaded_while_another_is_loaded(
    stack: RunningStack, adapter: str
) -> None:
    stack.load(adapter, 1)
    stack.load(adapter, 2)
    before = stack.snapshot()
    problem = stack.refuse("POST", f"/v1/adapters/{adapter}/unload", {"version": 1})
    assert (problem["status"], problem["code"]) == (409, "version_has_weight")
    assert stack.snapshot() == before
    stack.succeed(f"/v1/adapters/{adapter}/unload", {"version": 2})
    stack.succeed(f"/v1/adapters/{adapter}/unload", {"version": 1})


def test_a_drain_that_takes_too_long_leaves_the_version_serving(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.load(name)
    before = stack.snapshot()
    stack.faults(token_seconds=0.05)
    with stack.streaming("engine-1", f"{name}@1", tokens=300) as stream:
        done = stack.run(f"/v1/adapters/{name}/unload", {"drain": "500ms"})
        assert (done["state"], done["error"]["code"]) == ("failed", "drain_timeout")
        after = stack.snapshot()
        assert (after.engines, after.cards) == (before.engines, before.cards)
        assert stack.complete("engine-1", f"{name}@1", "Hi").status_code == 200
        stack.faults()
        stream.wait()
        assert stream.complete


def test_force_cuts_what_outlasts_the_drain(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    stack.publish(name, make())
    stack.load(name)
    stack.faults(token_seconds=0.05)
    with stack.streaming("engine-1", f"{name}@1", tokens=600) as stream:
        stack.succeed(f"/v1/adapters/{name}/unload", {"drain": "500ms", "force": True})
        stream.wait()
        assert not stream.complete
    eventually(lambda: not stack.held("engine-1"), "it is still there")
