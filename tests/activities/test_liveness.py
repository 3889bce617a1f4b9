"""The registry's activities heartbeat, and are not broken off by what a heartbeat brings back."""

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities import liveness
from activities.liveness import LivenessInterceptor
from tests.activities.parts import Bench

SHORT, LONG = timedelta(seconds=8), timedelta(seconds=30)


class _Transaction(ActivityInboundInterceptor):
    """An activity that is done when it is told so."""

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.whole = False

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        del input
        self.begun.set()
        await self.may_end.wait()
        self.whole = True
        return "done"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.02)
    bench = Bench()
    bench.info = dataclasses.replace(bench.info, heartbeat_timeout=SHORT)
    return bench


@pytest.fixture
async def transaction() -> _Transaction:
    return _Transaction()


def _begin(bench: Bench, transaction: _Transaction) -> "asyncio.Task[Any]":
    watched = LivenessInterceptor(SHORT).intercept_activity(transaction)
    given: Any = None
    return asyncio.create_task(bench.run(watched.execute_activity, given))


async def test_an_activity_that_takes_long_heartbeats(bench: Bench, transaction: _Transaction) -> None:
    running = _begin(bench, transaction)
    while len(bench.beats) < 3:
        await asyncio.sleep(0.01)
    transaction.may_end.set()
    assert await running == "done"
    told = len(bench.beats)
    await asyncio.sleep(0.1)
    assert len(bench.beats) == told


async def test_one_with_another_timeout_is_left_to_itself(bench: Bench, transaction: _Transaction) -> None:
    bench.info = dataclasses.replace(bench.info, heartbeat_timeout=LONG)
    running = _begin(bench, transaction)
    await transaction.begun.wait()
    await asyncio.sleep(0.1)
    transaction.may_end.set()
    assert await running == "done"
    assert bench.beats == []


async def test_a_cancel_does_not_break_it_off(bench: Bench, transaction: _Transaction) -> None:
    running = _begin(bench, transaction)
    await transaction.begun.wait()
    bench.cancel()
    await asyncio.sleep(0.05)
    assert not running.done()
    transaction.may_end.set()
    assert await running == "done"


async def test_the_worker_s_end_does(bench: Bench, transaction: _Transaction) -> None:
    running = _begin(bench, transaction)
    await transaction.begun.wait()
    bench.worker_shutdown()
    bench.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not transaction.whole
