"""Runs a stack in the foreground: start, story, stop, and signals that end it cleanly. `loradock dev` has no story."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

from rich.console import Console

from loradock.core.errors import LoradockError
from loradock.dev.console import Printer
from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.stack import Stack

Story = Callable[[Stack, Printer], Awaitable[int]]
"""What to do with the running stack; returns the exit code."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_dev(options: StackOptions, console: Console) -> int:
    """Keep a stack up until a signal ends it; returns the exit code: 0 after a clean stop.

    Raises:
        LoradockError: the stack did not start.
    """

    async def stay(stack: Stack, printer: Printer) -> int:
        printer.addresses(stack.info)
        printer.line("Ctrl-C stops it.")
        await asyncio.Event().wait()
        return 0

    return run_stack(options, stay, console, code_after_signal=0)


def run_stack(
    options: StackOptions, story: Story, console: Console, *, code_after_signal: int | None = None
) -> int:
    """Start a stack, run the story on it and stop the stack, whatever happens. Call it in the main thread.

    The first signal (Ctrl-C, SIGTERM, SIGHUP) interrupts and stops cleanly, a second one kills all parts at once.

    Args:
        code_after_signal: exit code when a signal came; None is 128 and the signal's number, as shells do it.

    Raises:
        LoradockError: the stack did not start, or the story failed; everything is stopped by then.
    """
    return asyncio.run(_Foreground(options, story, console).run(code_after_signal))


class _Foreground:
    def __init__(self, options: StackOptions, story: Story, console: Console) -> None:
        simulated = options.engine_kind is EngineKind.SIMULATED and not options.settings.engines
        self._printer = Printer(console, simulated=simulated)
        self._stack = Stack(options, self._printer.event)
        self._story = story
        self._signal: signal.Signals | None = None

    async def run(self, code_after_signal: int | None) -> int:
        work = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._interrupt, number, work)
        code = 1
        try:
            code = await work
        except asyncio.CancelledError:
            if self._signal is None:
                raise
        except LoradockError:
            if self._signal is None:
                raise
        finally:
            # Not awaited directly: whatever comes meanwhile, the stop goes on to its end.
            await _to_the_end(asyncio.create_task(self._stack.stop()))
        if self._signal is None:
            return code
        return 128 + self._signal if code_after_signal is None else code_after_signal

    async def _work(self) -> int:
        await self._stack.start()
        return await self._story(self._stack, self._printer)

    def _interrupt(self, number: signal.Signals, work: asyncio.Task[int]) -> None:
        if self._signal is None:
            self._signal = number
            self._printer.line(f"{number.name}: stopping")
            work.cancel()
        else:
            self._stack.kill_all()


async def _to_the_end(task: asyncio.Task[None]) -> None:
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
