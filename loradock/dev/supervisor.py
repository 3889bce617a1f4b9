"""Starts, watches, restarts and stops the stack's child processes."""

# ruff: noqa: ASYNC110 - a process and its readiness can only be asked, nothing tells

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loradock.core.errors import LoradockError
from loradock.dev.child import Child, ChildSpec, describe_exit
from loradock.dev.records import ProcessRecords

_POLL = 0.05
RESTART_DELAYS = (0.5, 2.0, 5.0, 15.0, 30.0)
"""Seconds before a crashed child is started again: the first time, the second time in a row, …; the last from then on."""
_CRASH_LINES = 6  # of its log on the screen
_STEADY = 60.0  # seconds after which an earlier crash is forgotten


class PartState(StrEnum):
    """What happened to a part of the stack."""

    READY = "ready"
    DONE = "done"
    CRASHED = "crashed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PartEvent:
    """One line of progress.

    Attributes:
        seconds: how long it took to get there.
        detail: more for people; for a crash the last log lines.
    """

    part: str
    state: PartState
    seconds: float
    detail: str = ""


OnEvent = Callable[[PartEvent], None]


class Supervisor:
    """The children of one stack. Used from one event loop, which runs in the main thread.

    Args:
        folder: logs go to `folder/logs`, process ids to `folder/processes.json`.
        on_event: told about every part that became ready, ended or was stopped.
        restart_crashed: start a child again that ended without being asked to.
        restart_delays: as `RESTART_DELAYS`.
    """

    def __init__(
        self,
        folder: Path,
        on_event: OnEvent,
        *,
        restart_crashed: bool = False,
        restart_delays: Sequence[float] = RESTART_DELAYS,
    ) -> None:
        self._logs = folder / "logs"
        self._on_event = on_event
        self._restart_crashed = restart_crashed
        self._restart_delays = restart_delays
        self._records = ProcessRecords(folder / "processes.json")
        self._children: dict[str, Child] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All children, in the order of their start."""
        return tuple(self._children)

    def child(self, name: str) -> Child:
        """A child by name.

        Raises:
            LoradockError: `stack_failed` when there is none.
        """
        if name not in self._children:
            raise LoradockError(
                "stack_failed", f"the stack has no part {name!r}, only {', '.join(self._children)}"
            )
        return self._children[name]

    def pid(self, name: str) -> int:
        """The process id of a child."""
        return self.child(name).pid

    async def start(self, spec: ChildSpec) -> Child:
        """Start a child and wait until it is ready.

        Raises:
            LoradockError: `stack_failed`, with the child's last log lines.
        """
        if spec.name in self._children and self._children[spec.name].running:
            raise LoradockError("stack_failed", f"{spec.name} is running already")
        child = self._children[spec.name] = Child(spec, self._logs / f"{spec.name}.log")
        await self._start(child)
        return child

    async def run(self, spec: ChildSpec) -> None:
        """Run a child to its end, which must be exit status 0 within the spec's timeout.

        Raises:
            LoradockError: `stack_failed`, with the child's last log lines.
        """
        child = Child(spec, self._logs / f"{spec.name}.log")
        child.start()
        self._records.add(spec.name, child.pid)
        try:
            while not child.has_ended():
                await asyncio.sleep(_POLL)
        finally:
            if child.running:
                await asyncio.to_thread(child.stop)
        self._on_event(PartEvent(spec.name, PartState.DONE, child.age))

    async def restart(self, name: str) -> Child:
        """Stop a child if it runs, start it again and wait until it is ready.

        Raises:
            LoradockError: `stack_failed`.
        """
        child = self.child(name)
        await self.stop_child(name)
        await self._start(child)
        return child

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a child. An end that comes of it counts as wanted: it is not started again by itself."""
        self.child(name).kill(number)

    async def stop_child(self, name: str) -> None:
        """End one child and wait for it."""
        child = self.child(name)
        child.expected_end = True
        if (watcher := self._watchers.pop(name, None)) is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        began = time.monotonic()
        if child.running:
            await asyncio.to_thread(child.stop)
            self._on_event(PartEvent(name, PartState.STOPPED, time.monotonic() - began))

    async def stop(self) -> None:
        """End all children: the highest `stop_order` first, equals together; never fails."""
        for child in self._children.values():
            child.expected_end = True
        for order in sorted({child.spec.stop_order for child in self._children.values()}, reverse=True):
            names = [name for name, child in self._children.items() if child.spec.stop_order == order]
            await asyncio.gather(*(self.stop_child(name) for name in names), return_exceptions=True)
        self._records.clear()

    def kill_all(self) -> None:
        """End all children at once, without asking."""
        for child in self._children.values():
            child.kill()

    def end_leftovers(self) -> list[str]:
        """End what a killed run left behind; returns the names."""
        return self._records.end_leftovers()

    async def _start(self, child: Child) -> None:
        await self._start_and_wait(child)
        name = child.spec.name
        self._watchers[name] = asyncio.create_task(self._watch(child), name=f"watch {name}")

    async def _start_and_wait(self, child: Child, note: str = "") -> None:
        child.start()
        self._records.add(child.spec.name, child.pid)
        while not await asyncio.to_thread(child.is_ready):
            await asyncio.sleep(_POLL)
        self._on_event(PartEvent(child.spec.name, PartState.READY, child.age, note))

    async def _watch(self, child: Child) -> None:
        """Tell when the child ends by itself and, if wanted, start it again, later and later."""
        crashes, why = 0, ""
        while True:
            while child.running:
                await asyncio.sleep(0.2)
            if child.expected_end:
                return
            crashes = 1 if not why and child.age > _STEADY else crashes + 1
            delay = self._restart_delays[min(crashes, len(self._restart_delays)) - 1]
            self._tell_crash(child, crashes, why, delay)
            if not self._restart_crashed:
                return
            child.end_group()  # what it started itself may hold its port
            await asyncio.sleep(delay)
            if child.expected_end:
                return
            why = await self._start_again(child)

    async def _start_again(self, child: Child) -> str:
        """Start a crashed child at the addresses that it had; returns why it did not become ready, else nothing."""
        try:
            await self._start_and_wait(child, "started again")
        except (LoradockError, OSError) as error:
            child.end_group()  # it may be there and hang: the watch goes on with a child that has ended
            what = error.message if isinstance(error, LoradockError) else f"cannot be run: {error}"
            return what.partition("; its last log lines")[0].removeprefix(f"{child.spec.name} ")
        return ""

    def _tell_crash(self, child: Child, crashes: int, why: str, delay: float) -> None:
        detail = why or describe_exit(child.returncode)
        if self._restart_crashed:
            often = "" if crashes == 1 else f", {crashes} times in a row"
            detail += f"{often}; it is started again in {delay:g} s; its log: {child.log}"
        if crashes == 1:
            detail += f"; its last log lines:\n{child.tail(_CRASH_LINES)}"
        self._on_event(PartEvent(child.spec.name, PartState.CRASHED, child.age, detail))
