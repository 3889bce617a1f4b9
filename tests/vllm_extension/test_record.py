"""The two records keep one contract; what only a shared one can do is tested with a second process's part in it."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loradock_vllm.errors import ExtensionError
from loradock_vllm.ledger import AdapterState, Ledger
from loradock_vllm.record import LocalRecord, Record
from loradock_vllm.shared_record import SharedRecord
from tests.vllm_extension.test_ledger import load

ADAPTERS = 4


def shared(folder: Path) -> SharedRecord:
    return SharedRecord(folder, processes=2, adapters=ADAPTERS)


@pytest.fixture(params=["local", "shared"])
def record(request: pytest.FixtureRequest, tmp_path: Path) -> Record:
    return LocalRecord() if request.param == "local" else shared(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[SharedRecord, SharedRecord]:
    """What two processes of one engine have."""
    return shared(tmp_path), shared(tmp_path)


def hold(record: Record, name: str = "greeter@1", int_id: int = 1) -> None:
    command = load(name, int_id)
    with record.change(command) as ledger:
        ledger.add(command)


# The contract


async def test_a_change_is_seen_when_its_block_ends(record: Record) -> None:
    assert record.ledger.get("greeter@1") is None
    hold(record)
    held = record.ledger.get("greeter@1")
    assert held is not None
    assert (held.digest, held.epoch, held.state) == (load().digest, 1, AdapterState.SERVING)
    with record.change() as ledger:
        ledger.start_drain("greeter@1")
    assert record.ledger.require("greeter@1").state is AdapterState.DRAINING


async def test_a_late_call_changes_nothing_and_a_fence_outlives_its_adapter(record: Record) -> None:
    hold(record)
    with record.change(load(epoch=7)) as ledger:
        ledger.discard(ledger.require("greeter@1"))
    with pytest.raises(ExtensionError) as caught, record.change(load(epoch=6)) as ledger:
        pytest.fail("the block of a late call must not run")
    assert caught.value.code == "stale_epoch"


async def test_a_fence_stands_although_the_call_fails(record: Record) -> None:
    with pytest.raises(ExtensionError), record.change(load(epoch=7)) as ledger:
        ledger.start_drain("greeter@1")
    with pytest.raises(ExtensionError) as caught, record.change(load(epoch=6)):
        pass
    assert caught.value.code == "stale_epoch"


async def test_who_watches_is_told_of_every_change(record: Record) -> None:
    told: list[list[str]] = []
    record.watch(lambda ledger: told.append([adapter.served_name for adapter in ledger.adapters()]))
    hold(record)
    hold(record, "b@1", 2)
    assert told[-2:] == [["greeter@1"], ["b@1", "greeter@1"]]


async def test_requests_are_counted_and_waited_for(record: Record) -> None:
    hold(record)
    hold(record, "b@1", 2)
    record.in_flight.enter_base()
    first, second = record.in_flight.enter("greeter@1"), record.in_flight.enter("greeter@1")
    other = record.in_flight.enter("b@1")
    assert [record.in_flight.count(name) for name in ("greeter@1", "b@1")] == [2, 1]
    assert record.in_flight.base == 1
    record.in_flight.leave(first)
    assert not await record.in_flight.wait_idle("greeter@1", 0)
    waiter = asyncio.create_task(record.in_flight.wait_idle("greeter@1", 30))
    await asyncio.sleep(0)
    record.in_flight.leave(second)
    assert await waiter
    assert record.is_current()
    record.in_flight.leave(other)
    record.in_flight.leave_base()
    assert (record.in_flight.count("b@1"), record.in_flight.base) == (0, 0)


async def test_one_at_a_time_has_the_engine(record: Record) -> None:
    assert not record.engine_lock.locked()
    await record.engine_lock.acquire()
    assert record.engine_lock.locked()
    second = asyncio.create_task(record.engine_lock.acquire())
    third = asyncio.create_task(record.engine_lock.acquire())
    await asyncio.sleep(0.01)
    assert not second.done()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    record.engine_lock.release()
    assert await third
    record.engine_lock.release()
    assert not record.engine_lock.locked()


# Two processes


async def test_both_tell_one_incarnation_and_one_ledger(pair: tuple[SharedRecord, SharedRecord]) -> None:
    one, other = pair
    assert one.incarnation == other.incarnation
    hold(one)
    assert other.ledger.require("greeter@1") == one.ledger.require("greeter@1")
    with pytest.raises(ExtensionError) as caught, other.change(load(epoch=0)):
        pass
    assert caught.value.code == "stale_epoch"


async def test_a_process_that_nobody_asks_anything_hears_of_a_change_all_the_same(
    pair: tuple[SharedRecord, SharedRecord],
) -> None:
    one, other = pair
    heard = asyncio.Event()

    def changed(ledger: Ledger) -> None:
        if ledger.get("greeter@1") is not None:
            heard.set()

    other.watch(changed)
    hold(one)
    await heard.wait()


async def test_a_count_taken_after_a_sibling_s_change_is_known_to_be_late(
    pair: tuple[SharedRecord, SharedRecord],
) -> None:
    one, other = pair
    hold(one)
    assert one.ledger.get("greeter@1") is not None
    with other.change() as ledger:
        ledger.start_drain("greeter@1")
    ticket = one.in_flight.enter("greeter@1")
    assert not one.is_current()
    assert other.in_flight.count("greeter@1") == 1
    one.in_flight.leave(ticket)
    assert other.in_flight.count("greeter@1") == 0


async def test_one_waits_for_the_other_s_requests(pair: tuple[SharedRecord, SharedRecord]) -> None:
    one, other = pair
    hold(one)
    assert other.ledger.get("greeter@1") is not None
    ticket = other.in_flight.enter("greeter@1")
    other.in_flight.enter_base()
    assert (one.in_flight.count("greeter@1"), one.in_flight.base) == (1, 1)
    assert not await one.in_flight.wait_idle("greeter@1", 0.02)
    waiter = asyncio.create_task(one.in_flight.wait_idle("greeter@1", 30))
    await asyncio.sleep(0)
    other.in_flight.leave(ticket)
    assert await waiter


async def test_one_has_the_engine_at_a_time_of_all_processes(pair: tuple[SharedRecord, SharedRecord]) -> None:
    one, other = pair
    await one.engine_lock.acquire()
    assert other.engine_lock.locked()
    waiter = asyncio.create_task(other.engine_lock.acquire())
    await asyncio.sleep(0.02)
    assert not waiter.done()
    one.engine_lock.release()
    await waiter
    other.engine_lock.release()


def test_a_record_that_cannot_be_read_serves_nothing(
    pair: tuple[SharedRecord, SharedRecord], tmp_path: Path
) -> None:
    one, other = pair
    hold(one)
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(ExtensionError) as caught:
        _ = other.ledger
    assert caught.value.code == "engine_error"
    with pytest.raises(ExtensionError), one.change():
        pass


def test_a_record_of_another_shape_is_refused(tmp_path: Path) -> None:
    shared(tmp_path)
    with pytest.raises(ValueError, match="size"):
        SharedRecord(tmp_path, processes=2, adapters=ADAPTERS + 1)


def test_more_processes_than_the_engine_may_have_are_refused(tmp_path: Path) -> None:
    kept = [shared(tmp_path) for _ in range(4)]
    with pytest.raises(ValueError, match="4 processes"):
        shared(tmp_path)
    assert len({record.incarnation for record in kept}) == 1


# Processes that die. Each is a real one, killed with -9.

_MEMBER = """
import asyncio, sys
from pathlib import Path
from loradock_vllm.shared_record import SharedRecord
from tests.vllm_extension.test_record import ADAPTERS, hold

async def main() -> None:
    record = SharedRecord(Path(sys.argv[1]), processes=2, adapters=ADAPTERS)
    if record.ledger.get("greeter@1") is None:
        hold(record)
    record.in_flight.enter("greeter@1")
    record.in_flight.enter_base()
    await record.engine_lock.acquire()
    if sys.argv[2] == "writing":
        with record.change() as ledger:
            ledger.start_drain("greeter@1")
            (Path(sys.argv[1]) / "ledger.new").write_text("{")
            print(record.incarnation, flush=True)
            sys.stdin.read()
    print(record.incarnation, flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@contextmanager
def member(folder: Path, doing: str = "serving") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has joined, holds `greeter@1` with one request each, and the engine; with its incarnation."""
    process = subprocess.Popen(
        [sys.executable, "-c", _MEMBER, str(folder), doing],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


async def test_the_requests_and_the_lock_of_a_process_that_was_killed_hold_nobody_up(tmp_path: Path) -> None:
    record = shared(tmp_path)
    with member(tmp_path) as (process, incarnation):
        assert incarnation == record.incarnation
        assert record.ledger.get("greeter@1") is not None
        assert (record.in_flight.count("greeter@1"), record.in_flight.base) == (1, 1)
        assert record.engine_lock.locked()
        drain = asyncio.create_task(record.in_flight.wait_idle("greeter@1", 30))
        engine = asyncio.create_task(record.engine_lock.acquire())
        await asyncio.sleep(0.02)
        assert not drain.done()
        assert not engine.done()
        kill(process)
        assert await drain
        await engine
        assert record.in_flight.base == 0


async def test_a_process_killed_while_it_writes_leaves_what_was_there(tmp_path: Path) -> None:
    record = shared(tmp_path)
    with member(tmp_path, "writing") as (process, _):
        kill(process)
    assert record.ledger.require("greeter@1").state is AdapterState.SERVING
    with record.change() as ledger:
        ledger.start_drain("greeter@1")
    assert record.ledger.require("greeter@1").state is AdapterState.DRAINING


async def test_a_process_that_takes_a_dead_one_s_place_keeps_the_incarnation_while_another_lives(
    tmp_path: Path,
) -> None:
    record = shared(tmp_path)
    for _ in range(4):
        with member(tmp_path) as (process, incarnation):
            assert incarnation == record.incarnation
            kill(process)
    assert record.in_flight.count("greeter@1") == 0


async def test_when_all_processes_are_gone_the_next_one_begins_anew(tmp_path: Path) -> None:
    with member(tmp_path) as (process, first):
        kill(process)
    record = shared(tmp_path)
    assert record.incarnation != first
    assert record.ledger.adapters() == []
    assert record.in_flight.base == 0
    # Fences as well: operations of the life before are told apart by their incarnation.
    with record.change(load(epoch=0)):
        pass
