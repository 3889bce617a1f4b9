import asyncio

import pytest

from loradock_vllm import in_flight
from loradock_vllm.in_flight import InFlight


async def test_requests_are_counted_by_name() -> None:
    counts = InFlight()
    first, second = counts.enter("a@1"), counts.enter("a@1")
    counts.enter("b@1")
    assert (counts.count("a@1"), counts.count("b@1"), counts.count("c@1")) == (2, 1, 0)
    counts.leave(first)
    counts.leave(first)
    assert counts.count("a@1") == 1
    counts.leave(second)
    assert counts.count("a@1") == 0


async def test_waiting_ends_with_the_last_request() -> None:
    counts = InFlight()
    tickets = [counts.enter("a@1"), counts.enter("a@1")]
    waiters = [asyncio.create_task(counts.wait_idle("a@1", 30)) for _ in range(2)]
    await asyncio.sleep(0)
    counts.leave(tickets[0])
    await asyncio.sleep(0)
    assert not any(waiter.done() for waiter in waiters)
    counts.leave(tickets[1])
    assert await asyncio.gather(*waiters) == [True, True]


async def test_waiting_has_a_limit() -> None:
    counts = InFlight()
    counts.enter("a@1")
    assert not await counts.wait_idle("a@1", 0)
    assert not await counts.wait_idle("a@1", 0.01)
    assert await counts.wait_idle("b@1", 0)


async def test_a_waiter_that_was_cancelled_is_forgotten() -> None:
    counts = InFlight()
    ticket = counts.enter("a@1")
    waiter = asyncio.create_task(counts.wait_idle("a@1", 30))
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    counts.leave(ticket)
    assert waiter.cancelled()


async def test_an_abort_asks_first_and_cancels_what_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "GRACE_SECONDS", 0.02)
    counts, ends = InFlight(), []
    asked = asyncio.Event()

    async def request(listens: bool) -> None:
        ticket = counts.enter("a@1")
        if listens:
            ticket.on_abort(asked.set)
        try:
            await (asked.wait() if listens else asyncio.sleep(60))
            ends.append("asked")
        except asyncio.CancelledError:
            ends.append("cancelled")
        finally:
            counts.leave(ticket)

    tasks = [asyncio.create_task(request(listens)) for listens in (True, False)]
    await asyncio.sleep(0)
    await counts.abort_own("a@1")
    assert await counts.wait_idle("a@1", 30)
    await asyncio.gather(*tasks)
    assert ends == ["asked", "cancelled"]
