"""Heartbeats that go on while nothing moves, and transfers that wait for their turn."""

import asyncio
import threading
import time

import pytest
from temporalio.exceptions import CancelledError

from activities import progress as progress_module
from activities.progress import PatientReporter, StepClock, TransferProgress, TransferSlots
from loradock.artifacts.protocol import expect_total
from loradock.core.models import StepReport, StepState
from tests.activities.parts import Bench, Reports


def test_a_transfer_heartbeats_while_a_single_call_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "PULSE_SECONDS", 0.05)
    bench = Bench()

    def activity(_: object) -> None:
        with TransferProgress(lambda _: None) as progress:
            progress.advance(7)
            time.sleep(0.5)  # as fsync of a large file does

    bench.run(activity, None)
    assert len(bench.beats) >= 4
    assert set(bench.bytes) == {7}


def test_heartbeats_end_with_the_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "PULSE_SECONDS", 0.01)
    bench = Bench()

    def activity(_: object) -> None:
        with pytest.raises(ValueError, match="broken"), TransferProgress(lambda _: None):
            raise ValueError("broken")

    bench.run(activity, None)
    assert [thread for thread in threading.enumerate() if thread.name == "heartbeats"] == []


def test_no_more_transfers_run_than_there_are_slots() -> None:
    slots, running, most = TransferSlots(2), [0], [0]
    lock = threading.Lock()

    def activity(_: object) -> None:
        with TransferProgress(lambda _: None) as progress, slots.take(progress):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.1)
            with lock:
                running[0] -= 1

    for done in [Bench().begin(activity, None) for _ in range(6)]:
        done.result(20)
    assert most == [2]


def test_slots_tell_how_many_run_and_how_many_wait() -> None:
    slots, go_on, ran = TransferSlots(1), threading.Event(), list[int]()

    def activity(number: int) -> None:
        with TransferProgress(lambda _: None) as progress, slots.take(progress):
            ran.append(number)
            go_on.wait(20)

    def come_to(running: int, waiting: int) -> None:
        until = time.monotonic() + 20
        while (slots.running, slots.waiting) != (running, waiting):
            assert time.monotonic() < until
            time.sleep(0.005)

    benches = [Bench() for _ in range(3)]
    done = [bench.begin(activity, number) for number, bench in enumerate(benches)]
    come_to(1, 2)
    waits = next(number for number in range(3) if number not in ran)
    benches[waits].cancel()
    come_to(1, 1)
    go_on.set()
    assert [number for number in range(3) if isinstance(done[number].exception(20), CancelledError)] == [
        waits
    ]
    come_to(0, 0)


def test_a_transfer_that_fails_gives_its_slot_back() -> None:
    slots = TransferSlots(1)

    def activity(fails: object) -> str:
        with TransferProgress(lambda _: None) as progress, slots.take(progress):
            if fails:
                raise ValueError("broken")
            return "done"

    with pytest.raises(ValueError, match="broken"):
        Bench().run(activity, True)
    assert Bench().begin(activity, False).result(5) == "done"


def test_a_step_tells_its_attempt_and_its_times() -> None:
    def activity(_: object) -> StepClock:
        return StepClock("download", "e1")

    bench = Bench(attempt=4)
    clock = bench.run(activity, None)
    running = bench.run(lambda _: clock.running(bytes=3), None)
    ended = bench.run(lambda _: clock.succeeded(bytes=5), None)
    assert (running.state, running.ended_at, running.detail) == (StepState.RUNNING, None, {"bytes": 3})
    assert (ended.state, ended.attempt, ended.engine) == (StepState.SUCCEEDED, 4, "e1")
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert running.started_at == ended.started_at <= ended.ended_at


def test_a_transfer_tells_its_total_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "TELL_EVERY_SECONDS", 0.0)
    told: list[dict[str, int]] = []

    def activity(_: object) -> None:
        with TransferProgress(told.append) as progress:
            progress.advance(1)
            expect_total(progress, 10)
            progress.advance(4)

    bench = Bench()
    bench.run(activity, None)
    assert [(one["bytes"], one.get("total_bytes")) for one in told] == [(1, None), (5, 10)]
    assert bench.beats[-1][0]["total_bytes"] == 10


async def test_only_what_takes_long_is_passed_on_and_then_its_end_as_well() -> None:
    reports = Reports()
    patient = PatientReporter(reports, after_seconds=0.05)

    def step(engine: str, state: StepState, done: int = 0) -> StepReport:
        return StepReport(name="load", engine=engine, state=state, detail={"bytes": done})

    def tell(*steps: StepReport) -> None:
        for one in steps:
            patient.report("op-1", one)

    unended = step("unended", StepState.RUNNING)
    quick = [step("quick", StepState.RUNNING), step("quick", StepState.SUCCEEDED)]
    slow = [step("slow", StepState.RUNNING), step("slow", StepState.RUNNING, 5)]
    await asyncio.to_thread(tell, *quick, unended, *slow)
    await asyncio.sleep(0)
    patient.over("op-1", "unended")  # as its activity does, which says how it ended by its result
    async with asyncio.timeout(10):
        while not reports.seen:
            await asyncio.sleep(0.01)
    tell(step("slow", StepState.RUNNING, 9), step("slow", StepState.SUCCEEDED))
    await asyncio.sleep(0)
    told = [(one.engine, one.state, one.detail["bytes"]) for _, one in reports.seen]
    assert told == [
        ("slow", StepState.RUNNING, 5),
        ("slow", StepState.RUNNING, 9),
        ("slow", StepState.SUCCEEDED, 0),
    ]
