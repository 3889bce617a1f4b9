"""Children are started, restarted and stopped, and what happens to them is told."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from loradock.core.errors import LoradockError
from loradock.dev.child import ChildSpec
from loradock.dev.records import ProcessRecords, start_mark
from loradock.dev.supervisor import PartEvent, PartState, Supervisor
from tests.dev.processes import alive, ended, environment, python, wait_until

SLEEP = ChildSpec(
    name="a", command=python("import time; time.sleep(300)"), env=environment(), ready=lambda: True
)


class Watched:
    """A supervisor and what it told."""

    def __init__(
        self, folder: Path, *, restart_crashed: bool = False, delays: Sequence[float] = (0.05, 0.1, 0.15)
    ) -> None:
        self.events: list[PartEvent] = []
        self.supervisor = Supervisor(
            folder, self.events.append, restart_crashed=restart_crashed, restart_delays=delays
        )

    def crashes(self, part: str) -> list[str]:
        return [e.detail for e in self.events if (e.part, e.state) == (part, PartState.CRASHED)]

    def told(self, part: str, state: PartState) -> int:
        return sum(1 for event in self.events if (event.part, event.state) == (part, state))

    async def wait_told(self, part: str, state: PartState, times: int = 1) -> None:
        async with asyncio.timeout(15):
            while self.told(part, state) < times:
                await asyncio.sleep(0.02)


async def test_a_restarted_child_is_another_process(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    await watched.supervisor.start(SLEEP)
    first = watched.supervisor.pid("a")
    try:
        await watched.supervisor.restart("a")
        second = watched.supervisor.pid("a")
        assert first != second
        assert not alive(first)
        assert alive(second)
    finally:
        await watched.supervisor.stop()
    assert not alive(second)
    assert not (tmp_path / "processes.json").exists()


async def test_a_child_killed_on_purpose_stays_down_until_it_is_restarted(tmp_path: Path) -> None:
    watched = Watched(tmp_path, restart_crashed=True)
    await watched.supervisor.start(SLEEP)
    try:
        watched.supervisor.kill("a")
        pid = watched.supervisor.pid("a")
        assert await asyncio.to_thread(wait_until, lambda: not alive(pid))
        await watched.supervisor.restart("a")
        assert watched.told("a", PartState.CRASHED) == 0
        assert alive(watched.supervisor.pid("a"))
    finally:
        await watched.supervisor.stop()


async def test_a_child_killed_from_outside_is_told_and_started_again(tmp_path: Path) -> None:
    watched = Watched(tmp_path, restart_crashed=True)
    await watched.supervisor.start(SLEEP)
    try:
        os.kill(watched.supervisor.pid("a"), signal.SIGKILL)
        await watched.wait_told("a", PartState.READY, 2)
        assert watched.told("a", PartState.CRASHED) == 1
        (told,) = watched.crashes("a")
        assert "SIGKILL; it is started again in 0.05 s" in told
        assert str(tmp_path / "logs" / "a.log") in told
        assert alive(watched.supervisor.pid("a"))
        recorded = json.loads((tmp_path / "processes.json").read_text())
        assert recorded["a"]["pid"] == watched.supervisor.pid("a")
    finally:
        await watched.supervisor.stop()


async def test_a_child_that_keeps_dying_is_started_later_and_later_and_the_screen_says_so(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path, restart_crashed=True)
    marker = tmp_path / "well"
    marker.touch()
    log = tmp_path / "logs" / "a.log"
    code = (
        "import pathlib, time; print('so it goes', flush=True); "
        f"pathlib.Path({str(marker)!r}).exists() or exit(3); time.sleep(300)"
    )
    await watched.supervisor.start(
        replace(SLEEP, command=python(code), ready=lambda: marker.exists() and log.read_text() != "")
    )
    try:
        marker.unlink()
        os.kill(watched.supervisor.pid("a"), signal.SIGKILL)
        await watched.wait_told("a", PartState.CRASHED, 5)
        first, second, third, fourth, fifth = watched.crashes("a")[:5]
        assert "started again in 0.05 s" in first
        assert (
            "ended with status 3 before it was ready, 2 times in a row; it is started again in 0.1 s"
            in second
        )
        assert "3 times in a row; it is started again in 0.15 s" in third
        assert "4 times in a row; it is started again in 0.15 s" in fourth  # the longest there is
        assert all(str(log) in told for told in (second, third, fourth, fifth))
        assert "so it goes" in first
        assert "so it goes" not in second  # its log is not repeated on the screen each time
        marker.touch()
        await watched.wait_told("a", PartState.READY, 2)
        assert watched.supervisor.child("a").running
    finally:
        await watched.supervisor.stop()


async def test_a_child_that_hangs_when_it_is_started_again_is_ended_and_started_once_more(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path, restart_crashed=True)
    ready = [True]
    await watched.supervisor.start(replace(SLEEP, ready=lambda: ready[0], timeout=0.2))
    try:
        ready[0] = False
        os.kill(watched.supervisor.pid("a"), signal.SIGKILL)
        await watched.wait_told("a", PartState.CRASHED, 2)
        assert watched.crashes("a")[1].startswith("was not ready after 0.2 s")
        ready[0] = True
        await watched.wait_told("a", PartState.READY, 2)
    finally:
        await watched.supervisor.stop()


async def test_what_a_dead_child_has_started_itself_is_ended_before_it_is_started_again(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path, restart_crashed=True)
    code = (
        "import subprocess, time; print(subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
    )
    log = tmp_path / "logs" / "a.log"
    await watched.supervisor.start(replace(SLEEP, command=python(code), ready=lambda: log.read_text() != ""))
    helper = int(log.read_text().split()[0])
    with ended(helper):
        try:
            os.kill(watched.supervisor.pid("a"), signal.SIGKILL)
            await watched.wait_told("a", PartState.READY, 2)
            assert not alive(helper)
        finally:
            await watched.supervisor.stop()


async def test_a_stop_ends_a_child_that_waits_to_be_started_again(tmp_path: Path) -> None:
    watched = Watched(tmp_path, restart_crashed=True, delays=(300.0,))
    await watched.supervisor.start(SLEEP)
    pid = watched.supervisor.pid("a")
    os.kill(pid, signal.SIGKILL)
    await watched.wait_told("a", PartState.CRASHED)
    async with asyncio.timeout(10):
        await watched.supervisor.stop()
    assert (watched.supervisor.pid("a"), watched.told("a", PartState.READY)) == (pid, 1)


async def test_a_restart_by_hand_and_the_one_by_itself_never_leave_two(tmp_path: Path) -> None:
    watched = Watched(tmp_path, restart_crashed=True, delays=(0.01,))
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(300)"
    await watched.supervisor.start(replace(SLEEP, command=python(code)))
    try:
        for told in (0, 1, 1, 0):  # before and after the supervisor has seen the end
            crashes = watched.told("a", PartState.CRASHED)
            os.kill(watched.supervisor.pid("a"), signal.SIGKILL)
            await watched.wait_told("a", PartState.CRASHED, crashes + told)
            await watched.supervisor.restart("a")
        started = {int(line) for line in (tmp_path / "logs" / "a.log").read_text().split()}
        assert {pid for pid in started if alive(pid)} <= {watched.supervisor.pid("a")}
        assert alive(watched.supervisor.pid("a"))
    finally:
        await watched.supervisor.stop()


async def test_a_child_that_was_only_held_for_a_while_is_still_watched(tmp_path: Path) -> None:
    watched = Watched(tmp_path, restart_crashed=True)
    await watched.supervisor.start(SLEEP)
    try:
        watched.supervisor.kill("a", signal.SIGSTOP)
        watched.supervisor.kill("a", signal.SIGCONT)
        os.kill(watched.supervisor.pid("a"), signal.SIGKILL)
        await watched.wait_told("a", PartState.READY, 2)
    finally:
        await watched.supervisor.stop()


async def test_without_restarts_a_crash_is_only_told(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    await watched.supervisor.start(SLEEP)
    try:
        os.kill(watched.supervisor.pid("a"), signal.SIGKILL)
        await watched.wait_told("a", PartState.CRASHED)
        assert not watched.supervisor.child("a").running
    finally:
        await watched.supervisor.stop()


async def test_children_are_stopped_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for name, order in (("database", 0), ("api", 1), ("agent", 3), ("orchestrator", 2)):
        await watched.supervisor.start(replace(SLEEP, name=name, stop_order=order))
    await watched.supervisor.stop()
    stopped = [event.part for event in watched.events if event.state is PartState.STOPPED]
    assert stopped == ["agent", "orchestrator", "api", "database"]


async def test_a_child_that_does_not_start_is_stopped_with_the_rest(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    never = replace(SLEEP, name="b", ready=lambda: False, timeout=0.2)
    with pytest.raises(LoradockError, match="b was not ready"):
        await watched.supervisor.start(never)
    pid = watched.supervisor.pid("b")
    assert alive(pid)
    await watched.supervisor.stop()
    assert not alive(pid)


async def test_a_job_must_end_with_status_0(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    job = ChildSpec(name="job", command=python("print('no'); raise SystemExit(2)"), env=environment())
    with pytest.raises(LoradockError, match=r"status 2.*\nno"):
        await watched.supervisor.run(job)
    await watched.supervisor.run(replace(job, name="good", command=python("pass")))
    assert watched.told("good", PartState.DONE) == 1


def test_leftovers_of_a_killed_run_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    leftover, stranger = subprocess.Popen(["sleep", "300"]), subprocess.Popen(["sleep", "300"])
    try:
        records = ProcessRecords(tmp_path / "processes.json")
        records.add("ours", leftover.pid)
        text = (tmp_path / "processes.json").read_text()
        mark = start_mark(stranger.pid)
        assert mark is not None
        again = text.replace("}}", f'}},"reused": {{"pid": {stranger.pid}, "started": "{mark}0"}}}}')
        (tmp_path / "processes.json").write_text(again)
        assert ProcessRecords(tmp_path / "processes.json").end_leftovers() == ["ours"]
        assert leftover.wait(5) == -signal.SIGTERM
        assert alive(stranger.pid)
        assert not (tmp_path / "processes.json").exists()
    finally:
        for process in (leftover, stranger):
            process.kill()
            process.wait()
