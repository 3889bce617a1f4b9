"""Reading from what stalls and breaks off."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.sources.steady import ASK_SECONDS, Patience, steady_reader
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import Cancelled, Counting, read_all, refused

DATA = bytes(index % 251 for index in range(3_333_333))
HASTY = Patience(stall_seconds=0.5, attempts=3, base_seconds=0.01, cap_seconds=0.02)


class Content:
    """Opens the data from an offset; `until` decides how far an opening gets before it fails so."""

    def __init__(self, until: Callable[[int], int], fail: Callable[[], None]) -> None:
        self.opened: list[int] = []
        self.closed = 0
        self._until, self._fail = until, fail

    def open_at(self, offset: int) -> AbstractContextManager["Opened"]:
        return self._open(offset)

    @contextmanager
    def _open(self, offset: int) -> Iterator["Opened"]:
        self.opened.append(offset)
        yield Opened(offset, self._until(len(self.opened)), self._fail)
        self.closed += 1


class Opened:
    def __init__(self, at: int, until: int, fail: Callable[[], None]) -> None:
        self._at, self._until, self._fail = at, until, fail

    def readinto(self, buffer: memoryview, /) -> int:
        if self._at >= self._until < len(DATA):
            self._fail()
        data = DATA[self._at : min(self._until, self._at + len(buffer), self._at + 70_001)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def breaks() -> None:
    raise LoradockError("source_unavailable", "it broke off")


def steady(content: Content, patience: Patience = HASTY, size: int | None = len(DATA)) -> bytes:
    return read_all(steady_reader(content.open_at, size, "x", patience))


def test_every_opening_but_the_first_is_told_as_a_retry() -> None:
    told: list[str] = []
    content = Content(lambda opening: opening * 900_000, breaks)
    assert steady(content, replace(HASTY, on_retry=told.append)) == DATA
    assert told == ["source_unavailable"] * (len(content.opened) - 1) != []


def test_what_breaks_off_goes_on_where_it_was() -> None:
    chance = random.Random(3)
    content = Content(lambda opening: opening * 400_000 + chance.randrange(100_000), breaks)
    assert steady(content) == DATA
    assert content.opened == sorted(content.opened)
    assert content.opened[0] == 0 < content.opened[-1]


def test_so_many_tries_without_getting_further_end_it() -> None:
    content = Content(lambda _: 0, breaks)
    with refused("source_unavailable"):
        steady(content)
    assert content.opened == [0, 0, 0]


def test_getting_further_begins_the_count_anew() -> None:
    content = Content(lambda opening: opening * 300_000, breaks)
    assert steady(content) == DATA
    assert len(content.opened) > HASTY.attempts


@pytest.mark.parametrize("code", ["source_denied", "source_not_found", "source_changed"])
def test_what_cannot_heal_is_told_at_once(code: str) -> None:
    def refuse() -> None:
        raise LoradockError(code, "no")

    content = Content(lambda _: 100_000, refuse)
    with refused(code):
        steady(content)
    assert content.opened == [0]


def test_a_stall_is_noticed_and_tried_again() -> None:
    free = threading.Event()
    content = Content(lambda opening: len(DATA) if opening > 1 else 500_000, lambda: free.wait(30) and None)
    begin = time.monotonic()
    assert steady(content) == DATA
    assert HASTY.stall_seconds <= time.monotonic() - begin < 10
    free.set()


def test_a_short_end_is_a_break_and_a_long_one_a_change() -> None:
    with refused("source_unavailable"):
        steady(Content(lambda _: len(DATA), breaks), size=len(DATA) + 1)
    with refused("source_changed"):
        steady(Content(lambda _: len(DATA), breaks), size=len(DATA) - 1)


def test_without_a_size_an_end_is_an_end() -> None:
    assert steady(Content(lambda _: len(DATA), breaks), size=None) == DATA


def test_a_cancel_while_it_is_opened_is_heard() -> None:
    free = threading.Event()

    def cancel(_: int) -> None:
        raise Cancelled

    content = Content(lambda _: 0, lambda: free.wait(30) and None)
    begin = time.monotonic()
    with (
        pytest.raises(Cancelled),
        steady_reader(content.open_at, 10, "x", Patience(stall_seconds=20), Counting(cancel)),
    ):
        pass
    assert time.monotonic() - begin < 1
    free.set()


def test_a_cancel_from_another_thread_ends_a_read_that_waits() -> None:
    free = threading.Event()
    content = Content(lambda _: 1_500_000, lambda: free.wait(30) and None)
    with steady_reader(content.open_at, len(DATA), "x", Patience(stall_seconds=20)) as reader:
        timer = threading.Timer(0.2, reader.cancel)  # type: ignore[attr-defined]
        timer.start()
        begin = time.monotonic()
        buffer = memoryview(bytearray(2**20))
        with refused("operation_cancelled"):
            while reader.readinto(buffer):
                pass
        assert time.monotonic() - begin < 0.2 + 4 * ASK_SECONDS
    free.set()


def test_every_opening_is_closed() -> None:
    content = Content(lambda opening: len(DATA) if opening > 2 else 1_200_000, breaks)
    assert steady(content) == DATA
    until = time.monotonic() + 5
    while content.closed < 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert content.closed >= 1
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("source") and _busy(thread)
    ]


def _busy(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()


def test_pauses_are_random_up_to_a_growing_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: asked.append((low, high)) or 0)
    patience = Patience(base_seconds=0.5, cap_seconds=3)
    for failures in range(1, 6):
        patience.pause(failures, Counting())
    assert asked == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 3), (0, 3)]


def test_reading_keeps_a_limit() -> None:
    content = Content(lambda opening: len(DATA), breaks)
    begin = time.monotonic()
    assert steady(content, Patience(bandwidth=Bandwidth(5_000_000))) == DATA
    assert time.monotonic() - begin > 0.5


def test_a_read_that_waits_for_its_share_of_a_limit_can_be_broken_off() -> None:
    content = Content(lambda opening: len(DATA), breaks)
    limited = Patience(bandwidth=Bandwidth(1))
    with steady_reader(content.open_at, len(DATA), "x", limited) as reader:
        waiting = threading.Thread(target=reader.readinto, args=(memoryview(bytearray(1000)),))
        waiting.start()
        reader.cancel()  # type: ignore[attr-defined]
        waiting.join(10)
        assert not waiting.is_alive()
