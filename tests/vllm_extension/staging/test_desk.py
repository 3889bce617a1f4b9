"""A worker stages one adapter at a time, and keeps nothing of what came to nothing."""

import time
from typing import Any

import pytest

from loradock_vllm.staging.desk import StagingDesk
from tests.vllm_extension.staging.workers import FakeLoras


@pytest.fixture
def loras() -> FakeLoras:
    return FakeLoras()


@pytest.fixture
def desk(loras: FakeLoras) -> StagingDesk:
    return StagingDesk(loras, 0)


def order(token: str = "one", int_id: int = 1, **changes: Any) -> dict[str, Any]:
    given = {"token": token, "int_id": int_id, "name": f"{token}@1", "path": f"/{token}", "seconds": 30}
    return {**given, "max_bytes": 1, "work_seconds": 0.0, "rest_seconds": 0.001, "notify": "", **changes}


def until(desk: StagingDesk, token: str, state: str) -> dict[str, Any]:
    end = time.monotonic() + 10
    while (report := desk.staged(token))["state"] != state:
        assert time.monotonic() < end, report
        time.sleep(0.001)
    return report


def gone(desk: StagingDesk, token: str = "one") -> None:
    end = time.monotonic() + 10
    while desk.discard(token)["state"] != "gone":
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_step_loop_never_waits_for_the_thread(desk: StagingDesk, loras: FakeLoras) -> None:
    loras.hold.clear()
    assert desk.stage(order())["state"] == "staging"
    assert desk.staged("one")["state"] == "staging"
    assert desk.commit("one")["state"] == "refused"
    assert desk.discard("one")["state"] in ("ending", "gone")
    gone(desk)
    assert loras.empty


def test_the_same_order_again_is_the_same_staging(desk: StagingDesk, loras: FakeLoras) -> None:
    desk.stage(order())
    until(desk, "one", "ready")
    assert desk.stage(order())["state"] == "ready"
    assert desk.commit("one")["state"] == "committed"
    assert desk.commit("one")["state"] == "committed"
    assert loras.resident == {1: "one@1 from /one"}


@pytest.mark.parametrize("int_id", [1, 2])
def test_a_second_staging_is_refused_while_one_is_under_way(
    desk: StagingDesk, loras: FakeLoras, int_id: int
) -> None:
    desk.stage(order())
    until(desk, "one", "ready")
    assert desk.stage(order("two", int_id))["state"] == "refused"
    assert loras.reserved == {1}
    assert desk.commit("two")["state"] == "refused"
    assert desk.discard("two")["state"] == "gone"
    assert desk.commit("one")["state"] == "committed"


def test_a_staging_after_a_commit_leaves_the_committed_one_alone(desk: StagingDesk, loras: FakeLoras) -> None:
    desk.stage(order())
    until(desk, "one", "ready")
    desk.commit("one")
    desk.stage(order("two", 2))
    assert desk.discard("one")["state"] == "gone"
    gone(desk, "two")
    assert set(loras.resident) == {1}


def test_a_committed_adapter_is_taken_out_again_by_its_own_token(desk: StagingDesk, loras: FakeLoras) -> None:
    desk.stage(order())
    until(desk, "one", "ready")
    desk.commit("one")
    assert desk.discard("another")["state"] == "gone"
    assert set(loras.resident) == {1}
    assert desk.discard("one")["state"] == "gone"
    assert loras.empty


def test_nobody_comes_for_it_and_its_weights_go_by_themselves(desk: StagingDesk, loras: FakeLoras) -> None:
    desk.stage(order(seconds=0.02))
    report = until(desk, "one", "failed")
    assert "in time" in report["error"]
    assert desk.commit("one")["state"] == "refused"
    assert desk.stage(order("two", 2))["state"] in ("staging", "ready")
    assert loras.reserved == {2}


def test_a_failed_staging_keeps_its_words_until_it_is_discarded(desk: StagingDesk, loras: FakeLoras) -> None:
    loras.failure = RuntimeError("the file ends early")
    desk.stage(order())
    assert until(desk, "one", "failed")["error"] == "the file ends early"
    gone(desk)
    assert desk.staged("one")["state"] == "unknown"
    assert loras.empty


def test_a_thread_that_cannot_be_started_leaves_the_slot_free(
    desk: StagingDesk, loras: FakeLoras, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", start)
    with pytest.raises(RuntimeError):
        desk.stage(order())
    assert loras.empty
