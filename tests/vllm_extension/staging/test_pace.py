"""A staging thread rests while requests run, and stops when it is told to."""

import time

import pytest

from loradock_vllm.staging.pace import Pace, PacedDict, StagingCancelledError


def pace(*, busy: bool = True, deadline: float = 60.0, work: float = 0.0) -> Pace:
    return Pace(lambda: busy, work_seconds=work, rest_seconds=0.001, deadline=time.monotonic() + deadline)


def test_it_rests_while_requests_run_and_only_then() -> None:
    resting, idle = pace(), pace(busy=False)
    for work in (resting, idle):
        work.pause()
    assert resting.rested > 0
    assert idle.rested == 0


def test_what_is_only_queued_is_waited_for_before_a_rest() -> None:
    settled: list[bool] = []
    pace().pause(lambda: settled.append(True))
    pace(busy=False).pause(lambda: settled.append(False))
    assert settled == [True]


def test_time_spent_aside_is_no_work() -> None:
    work = pace(work=0.05)
    with work.aside():
        time.sleep(0.1)
    work.pause()
    assert work.rested == 0


def test_it_stops_when_it_is_called_off_or_late() -> None:
    cancelled = pace()
    cancelled.cancel()
    with pytest.raises(StagingCancelledError):
        cancelled.pause()
    with pytest.raises(StagingCancelledError):
        pace(deadline=-1).pause()


def test_a_walk_through_a_paced_dictionary_pauses_after_each_item() -> None:
    steps: list[str] = []
    values = PacedDict({"a": 1, "b": 2}, lambda: steps.append("pause"))
    for key, _ in values.items():
        steps.append(key)
    assert steps == ["a", "pause", "b", "pause"]
