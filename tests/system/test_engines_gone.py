"""A pool in which nobody is alive."""

import pytest

from tests.system.checks import check_whole
from tests.system.conftest import MakeAdapter
from tests.system.running import RunningStack, eventually

pytestmark = pytest.mark.slow


def statuses(stack: RunningStack) -> set[str]:
    return {one["status"] for one in stack.items("/v1/engines")}


def cards(stack: RunningStack) -> set[str]:
    return {one["state"] for one in stack.items("/v1/cards")}


@pytest.mark.parametrize(
    ("parts", "status"), [(("engine-1", "engine-2"), "unreachable"), (("agent-1", "agent-2"), "lost")]
)
def test_no_engine_alive(
    stack: RunningStack, make: MakeAdapter, name: str, parts: tuple[str, ...], status: str
) -> None:
    stack.publish(name, make())
    stack.publish(name, make("second"))
    stack.load(name, 1)
    for part in parts:
        stack.kill(part)
    eventually(lambda: statuses(stack) == {status}, "the engines are still alive")
    eventually(lambda: cards(stack) == {"lost"}, "their cards are not lost")
    operations = stack.rows("SELECT count(*) FROM operations")
    problem = stack.refuse("POST", f"/v1/adapters/{name}/load", {"version": 2})
    assert (problem["status"], problem["code"]) == (503, "no_engine_alive")
    body = {"version": 2, "engines": ["engine-1"]}
    assert stack.refuse("POST", f"/v1/adapters/{name}/load", body)["code"] == "engine_lost"
    assert stack.rows("SELECT count(*) FROM operations") == operations
    # Publishing needs no engine.
    assert stack.publish(name, make("third"))["version"] == 3

    for part in parts:
        stack.restart(part)
    stack.wait_alive(*stack.engines)
    if status == "lost":  # the engines lived on, and their traffic comes back to them
        assert cards(stack) == {"serving"}
    stack.load(name, 1)
    stack.load(name, 2)
    check_whole(stack)
    assert stack.held("engine-1") == {f"{name}@1", f"{name}@2"}


def test_one_dead_engine_does_not_keep_the_others_from_loading(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.kill("engine-2")
    eventually(lambda: statuses(stack) == {"alive", "unreachable"}, "engine-2 is still alive")
    assert stack.load(name, 1)["result"]["engines"] == ["engine-1"]
    stack.restart("engine-2")
    stack.wait_alive("engine-2")
    assert stack.load(name, 1)["result"]["engines"] == ["engine-1", "engine-2"]


def test_a_lost_version_can_be_unloaded_while_its_engine_is_away(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.load(name, 1)
    stack.kill("engine-2")
    eventually(lambda: statuses(stack) == {"alive", "unreachable"}, "engine-2 is still alive")
    stack.succeed(f"/v1/adapters/{name}/unload", {"drain": "1s"})
    assert stack.held("engine-1") == set()
    assert stack.items("/v1/cards") == []


def test_a_host_that_is_gone_holds_up_no_unload_and_gives_back_what_it_held(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.load(name, 1)
    stack.kill("agent-2")
    eventually(lambda: statuses(stack) == {"alive", "lost"}, "agent-2's lease still holds")
    eventually(lambda: cards(stack) == {"serving", "lost"}, "the card on engine-2 is not lost")
    done = stack.succeed(f"/v1/adapters/{name}/unload", {"drain": "1s"})
    assert done["result"]["details"]["not_asked"] == ["engine-2"]
    assert stack.items("/v1/cards") == []
    assert (stack.held("engine-1"), stack.held("engine-2")) == (set(), {f"{name}@1"})
    stack.restart("agent-2")
    stack.wait_alive("engine-2")
    eventually(lambda: stack.held("engine-2") == set(), "engine-2 still holds what was unloaded")
    check_whole(stack)


def test_an_engine_that_fails_puts_the_others_back(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    stack.publish(name, make())
    before = stack.snapshot()
    stack.faults("engine-2", load_error="the simulated engine was told to fail", leave_half_loaded=True)
    done = stack.run(f"/v1/adapters/{name}/load", {"version": 1})
    assert (done["state"], done["error"]["code"]) == ("failed", "engine_error")
    assert "engine-2" in done["error"]["message"]
    after = stack.snapshot()
    assert (after.engines, after.cards) == (before.engines, before.cards)
    stack.faults("engine-2", load_error="LoRA rank 8 is greater than max_lora_rank 4.")
    best = stack.succeed(f"/v1/adapters/{name}/load", {"version": 1, "policy": "best_effort"})
    assert best["result"]["engines"] == ["engine-1"]
    assert best["result"]["failed_engines"] == {"engine-2": "rank_too_high"}


def test_an_engine_that_lists_the_adapter_and_does_not_answer_for_it_is_put_back(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    before = stack.snapshot()
    stack.faults("engine-2", silent=True)
    done = stack.run(f"/v1/adapters/{name}/load", {"version": 1})
    assert (done["state"], done["error"]["code"]) == ("failed", "engine_not_verified")
    after = stack.snapshot()
    assert (after.engines, after.cards) == (before.engines, before.cards)


def test_an_engine_that_does_not_let_go_fails_the_unload_loudly(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.load(name, 1)
    stack.faults("engine-2", ignored_removals=6)  # more than the extension tries by itself
    done = stack.succeed(f"/v1/adapters/{name}/unload", {"drain": 0})
    removals = [step for step in done["steps"] if (step["name"], step["engine"]) == ("remove", "engine-2")]
    assert removals[0]["attempt"] == 2, "the removal that did nothing was believed"
    assert stack.held("engine-2") == set()
