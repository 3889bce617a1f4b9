"""Any part dies, or stands still, in the middle of a publish, a load and an unload at once."""

import httpx
import pytest

from loradock.engines.simulated.answers import simulated_text
from tests.system.checks import check_whole
from tests.system.conftest import MakeAdapter
from tests.system.middle import Middle, in_the_middle
from tests.system.running import RunningStack, eventually, source

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def check_answers(stack: RunningStack, adapter: str, version: int) -> None:
    """Every engine answers with exactly these weights."""
    digest = stack.get(f"/v1/adapters/{adapter}/versions/{version}")["digest"]
    for engine in stack.engines:
        assert stack.answer(engine, f"{adapter}@{version}", "Hi") == simulated_text(digest, "Hi")


def check_succeeded(stack: RunningStack, middle: Middle) -> None:
    for operation in middle.operations:
        done = stack.ended(operation)
        assert done["state"] == "succeeded", (done["kind"], done["error"])
    assert middle.stream.complete, "a request that was running was cut"


def check_new_work(stack: RunningStack, middle: Middle, make: MakeAdapter) -> None:
    """The locks are free and everything works again, on the very adapters that were hit."""
    stack.load(middle.loading, 2)
    check_answers(stack, middle.loading, 1)
    check_answers(stack, middle.loading, 2)
    stack.publish(middle.unloading, make("after"))
    stack.load(middle.unloading, 2)
    check_answers(stack, middle.unloading, 2)
    stack.load(middle.publishing, 1)
    check_answers(stack, middle.publishing, 1)


@pytest.mark.parametrize(
    "victims", [("orchestrator",), ("agent-1",), ("postgres",), ("temporal",), ("api", "seaweedfs")], ids=str
)
def test_a_part_of_the_service_is_killed_and_everything_comes_to_its_good_end(
    stack: RunningStack, make: MakeAdapter, name: str, victims: tuple[str, ...]
) -> None:
    with in_the_middle(stack, make, name) as middle:
        for victim in victims:
            stack.kill(victim)
        for victim in victims:
            stack.restart(victim)
    check_succeeded(stack, middle)
    check_whole(stack)
    assert stack.held("engine-1") == {f"{middle.loading}@1", f"{middle.loading}@2"}
    assert stack.snapshot().staged == frozenset()
    check_new_work(stack, middle, make)


def test_an_engine_is_killed_and_the_load_is_put_back(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    with in_the_middle(stack, make, name) as middle:
        stack.kill("engine-1")
        failed = stack.ended(middle.load)
        assert failed["state"] == "failed"
        assert failed["error"]["code"] in {
            "engine_unreachable",
            "engine_restarted",
            "incarnation_mismatch",
            "engine_lost",
        }
        assert "engine-1" in failed["error"]["message"]
        assert stack.held("engine-2") == {f"{middle.loading}@1"}
        # Nobody is sent to the dead engine.
        eventually(lambda: not routed(stack, "engine-1"), "engine-1 has serving cards")
        stack.restart("engine-1")
    assert stack.ended(middle.publish)["state"] == "succeeded"
    assert stack.ended(middle.unload)["state"] == "succeeded"
    # What it served before comes back without a hand; what was put back does not.
    served = {f"{middle.loading}@1"}
    eventually(lambda: stack.held("engine-1") == served or None, "engine-1 is not healed", stack.describe)
    check_whole(stack)
    check_new_work(stack, middle, make)


def routed(stack: RunningStack, engine: str) -> list[str]:
    return [one["served_name"] for one in stack.items(f"/v1/cards?engine={engine}&state=serving")]


def test_an_engine_that_stands_still_for_a_while_loses_its_traffic_and_gets_it_back(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    with in_the_middle(stack, make, name) as middle:
        before = stack.engine_state("engine-1")["incarnation"]
        with stack.frozen("engine-1"):
            eventually(lambda: not routed(stack, "engine-1"), "engine-1 has serving cards")
            (card,) = stack.items(f"/v1/cards?engine=engine-1&adapter={middle.loading}")
            assert card["state"] == "lost"
    assert stack.ended(middle.publish)["state"] == "succeeded"
    assert {stack.ended(one)["state"] for one in middle.operations} <= {"succeeded", "failed"}
    assert stack.engine_state("engine-1")["incarnation"] == before
    eventually(lambda: f"{middle.loading}@1" in routed(stack, "engine-1"), "its traffic does not come back")
    check_whole(stack)
    check_new_work(stack, middle, make)


def test_all_that_keeps_anything_is_killed_at_once(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    parts = ["api", "temporal", "postgres", "seaweedfs"]
    with in_the_middle(stack, make, name) as middle:
        for part in parts:
            stack.kill(part)
        # The engines answer on: nothing of the service is in the way of a prompt.
        for engine in stack.engines:
            assert stack.complete(engine, f"{middle.loading}@1", "Hi").status_code == 200
        for part in reversed(parts):
            stack.restart(part)
    check_succeeded(stack, middle)
    check_whole(stack)
    check_new_work(stack, middle, make)


def test_what_is_asked_for_while_temporal_is_away_is_kept_and_done_later(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    folder = make()
    stack.kill("temporal")
    operation = stack.begin(f"/v1/adapters/{name}/versions", {"source": source(folder)})
    assert operation["state"] == "pending"
    assert stack.get("/readyz")["status"] == "degraded"
    stack.restart("temporal")
    assert stack.ended(operation["id"])["state"] == "succeeded"


def test_what_is_asked_for_while_postgres_is_away_is_refused_and_leaves_nothing(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    before = stack.snapshot()
    body = {"source": source(make())}
    stack.kill("postgres")
    problem = stack.refuse("POST", f"/v1/adapters/{name}/versions", body)
    assert (problem["status"], problem["code"]) == (503, "database_unavailable")
    assert stack.refuse("GET", "/readyz")["status"] == 503
    assert stack.request("GET", "/healthz").status_code == 200
    stack.restart("postgres")
    eventually(lambda: stack.request("GET", "/readyz").status_code == 200, "the API does not recover")
    assert stack.snapshot() == before
    assert stack.publish(name, make("again"))["version"] == 1


def test_nobody_can_be_reached_while_the_api_is_away_and_the_engines_serve_on(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    stack.load(name)
    cards = stack.rows("SELECT engine, served_name, state FROM cards ORDER BY engine")
    stack.kill("api")
    with pytest.raises(httpx.TransportError):
        stack.get("/healthz")
    check_engines = [stack.complete(engine, f"{name}@1", "Hi").status_code for engine in stack.engines]
    assert check_engines == [200, 200]
    stack.restart("api")
    assert stack.rows("SELECT engine, served_name, state FROM cards ORDER BY engine") == cards
