"""The fleet heals: what an engine serves is what is wanted of it again, without a hand, or no traffic goes there."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from loradock.engines.simulated.answers import simulated_text
from tests.system.checks import check_whole, wait_quiet
from tests.system.conftest import MakeAdapter
from tests.system.running import Document, RunningStack, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def card(stack: RunningStack, served_name: str, engine: str) -> Document:
    found = stack.items(f"/v1/cards?engine={engine}&adapter={served_name.partition('@')[0]}")
    return next((one for one in found if one["served_name"] == served_name), {"state": "none"})


def serving_now(stack: RunningStack, served_name: str, engine: str) -> Document | None:
    """The card when it serves, in the life that the engine has."""
    found = card(stack, served_name, engine)
    return found if found["state"] == "serving" else None


def wait_serving(stack: RunningStack, served_name: str, engine: str) -> Document:
    return eventually(
        lambda: serving_now(stack, served_name, engine),
        f"{served_name} is not served by {engine}",
        lambda: str(stack.get(f"/v1/engines/{engine}")),
    )


def drift(stack: RunningStack, engine: str) -> dict[str, Document]:
    return {one["served_name"]: one for one in stack.get(f"/v1/engines/{engine}")["drift"]}


def call_engine(stack: RunningStack, engine: str, verb: str, **body: Any) -> Document:
    """A call past the service, by somebody who has the engine's token."""
    state = stack.engine_state(engine)
    common = {
        "incarnation": state["incarnation"], "operation": "op-of-a-stranger", "run_id": "by-hand", "epoch": 10**6,
    }  # fmt: skip
    answer = httpx.post(
        f"{stack.engine_url(engine)}/loradock/v1/{verb}",
        json={**common, **body},
        headers={"Authorization": f"Bearer {stack.secret('engine-token')}"},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    found: Document = answer.json()
    return found


def put_in_by_hand(
    stack: RunningStack, engine: str, served_name: str, folder: Path, *, int_id: int, epoch: int
) -> str:
    """Load weights past the service; their digest, as the path says."""
    digest = "sha256:" + "5a" * 32
    place = folder.parent / f"sha256-{'5a' * 32}"
    shutil.copytree(folder, place, dirs_exist_ok=True)
    call_engine(
        stack,
        engine,
        "load",
        served_name=served_name,
        int_id=int_id,
        path=str(place),
        digest=digest,
        epoch=epoch,
    )
    return digest


def highest_epoch(stack: RunningStack) -> int:
    ((value,),) = stack.rows("SELECT last_value FROM fencing_epoch")
    return int(value)


def test_a_killed_engine_serves_the_same_again_when_it_is_back(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    digests = [stack.publish(name, make(f"v{number}"))["result"]["digest"] for number in (1, 2)]
    stack.load(name, 1)
    stack.load(name, 2)
    before = card(stack, f"{name}@1", "engine-1")
    stack.kill("engine-1")
    eventually(lambda: not stack.items("/v1/cards?engine=engine-1&state=serving"), "it has traffic")
    assert {one["state"] for one in stack.items("/v1/cards?engine=engine-2")} == {"serving"}
    stack.restart("engine-1")
    for number, digest in enumerate(digests, start=1):
        found = wait_serving(stack, f"{name}@{number}", "engine-1")
        assert found["digest"] == digest
        assert found["incarnation"] == stack.engine_state("engine-1")["incarnation"] != before["incarnation"]
        assert found["repair"].startswith("repair-")
        assert stack.answer("engine-1", f"{name}@{number}", "Hi") == simulated_text(digest, "Hi")
    check_whole(stack)
    engine = stack.get("/v1/engines/engine-1")
    assert engine["drift"] == []
    assert engine["reconcile"]["last_converge_seconds"] > 0
    events = stack.items(f"/v1/audit?operation={found['repair']}")
    assert [(one["action"], one["actor"], one["engine"]) for one in events] == [
        ("card.repaired", "loradock", "engine-1")
    ]


def test_what_best_effort_left_out_comes_later(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    stack.publish(name, make())
    other = f"{name}-other"
    stack.publish(other, make("other"))
    stack.faults("engine-2", load_error="the simulated engine was told to fail")
    done = stack.load(name, 1, policy="best_effort")
    assert done["result"]["engines"] == ["engine-1"]
    shown = eventually(lambda: drift(stack, "engine-2").get(f"{name}@1"), "no drift is shown")
    assert shown["kind"] == "missing"
    eventually(
        lambda: (drift(stack, "engine-2").get(f"{name}@1") or {}).get("attempts", 0) >= 2,
        "it is not tried again",
    )
    assert drift(stack, "engine-2")[f"{name}@1"]["error"]["code"] == "engine_error"
    stack.faults("engine-2")
    wait_serving(stack, f"{name}@1", "engine-2")


def test_an_operation_meanwhile_is_not_disturbed(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    stack.publish(name, make())
    stack.publish(name, make("second"))
    stack.load(name, 1)
    stack.faults("engine-2", load_seconds=2.0)
    load = stack.begin(f"/v1/adapters/{name}/load", {"version": 2})["id"]
    eventually(lambda: stack.step_runs(load, "load", "engine-2"), "the load does not begin")
    stack.rows("UPDATE cards SET state = 'lost' WHERE engine = 'engine-2' RETURNING engine")
    assert stack.ended(load)["state"] == "succeeded"
    for number in (1, 2):
        wait_serving(stack, f"{name}@{number}", "engine-2")
    assert all(outcome == "ok" for _, outcome in stack.audited(load))


def test_other_weights_under_a_served_name_lose_the_traffic_and_are_replaced(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.load(name, 1)
    right = wait_serving(stack, f"{name}@1", "engine-1")
    int_id = stack.engine_adapters("engine-1")[0]["int_id"]
    epoch = highest_epoch(stack)
    call_engine(stack, "engine-1", "unload", served_name=f"{name}@1", epoch=epoch, on_timeout="abort")
    wrong = put_in_by_hand(stack, "engine-1", f"{name}@1", make("wrong"), int_id=int_id, epoch=epoch)
    assert stack.answer("engine-1", f"{name}@1", "Hi") == simulated_text(wrong, "Hi")
    eventually(
        lambda: [one["digest"] for one in stack.engine_adapters("engine-1")] == [right["digest"]],
        "the wrong weights stay",
        lambda: str(stack.get("/v1/engines/engine-1")),
    )
    found = wait_serving(stack, f"{name}@1", "engine-1")
    assert (found["digest"], found["operation"]) == (right["digest"], None)
    assert stack.answer("engine-1", f"{name}@1", "Hi") == simulated_text(right["digest"], "Hi")
    assert "card.lost" in [
        one["action"] for one in stack.items(f"/v1/audit?adapter={name}")
    ] or "engine.drifted" in [one["action"] for one in stack.items("/v1/audit")]


def test_a_foreign_adapter_is_reported_and_left_alone(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    digest = put_in_by_hand(stack, "engine-2", f"{name}@7", make(), int_id=9_000_001, epoch=1)
    shown = eventually(lambda: drift(stack, "engine-2").get(f"{name}@7"), "nobody sees it")
    assert (shown["kind"], shown["digest"], shown["next_try_at"]) == ("foreign", digest, None)
    wait_quiet(stack)
    assert stack.held("engine-2") == {f"{name}@7"}
    call_engine(stack, "engine-2", "unload", served_name=f"{name}@7", epoch=1, on_timeout="abort")
    eventually(lambda: not drift(stack, "engine-2"), "it is still shown")


@pytest.mark.parametrize("victim", ["orchestrator", "agent-1", "engine-1"])
def test_a_kill_in_the_middle_of_a_repair_heals_too(
    stack: RunningStack, make: MakeAdapter, name: str, victim: str
) -> None:
    digest = stack.publish(name, make())["result"]["digest"]
    stack.load(name, 1)
    stack.kill("engine-1")
    stack.restart("engine-1")
    stack.faults("engine-1", load_seconds=2.0)
    eventually(lambda: (drift(stack, "engine-1").get(f"{name}@1") or {}).get("repair"), "no repair begins")
    stack.kill(victim)
    stack.restart(victim)
    found = wait_serving(stack, f"{name}@1", "engine-1")
    assert found["incarnation"] == stack.engine_state("engine-1")["incarnation"]
    assert stack.answer("engine-1", f"{name}@1", "Hi") == simulated_text(digest, "Hi")
