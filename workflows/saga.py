"""The one saga helper: steps forward, and when one fails or a cancel comes, every undo, last first.

What it holds, each of which a published snippet loses:

- an undo is registered *before* its step, and must accept that the step never ran;
- a cancel counts wherever it lands: in a step, in a timer, or swallowed by a step that succeeded all the same;
- compensation runs in a task of its own, so a second cancel cannot cut it in the middle;
- an undo that fails does not keep the others from running; it is reported at the end;
- the first error is the one that counts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows.failures import failure_of

T = TypeVar("T")


@dataclass(eq=False)
class Undo:
    """One registered undo."""

    name: str
    run: Callable[[], Awaitable[object]]
    dropped: bool = False

    def drop(self) -> None:
        """Forget it: what it would undo is known not to be there."""
        self.dropped = True


async def finish_despite_cancel(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` in a task of its own to its end, however often the workflow is cancelled meanwhile."""
    task: asyncio.Future[T] = asyncio.ensure_future(work())
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


class Saga:
    """The undos of one workflow run."""

    def __init__(self) -> None:
        self._undos: list[Undo] = []

    @property
    def has_undos(self) -> bool:
        """Whether anything may have to be put back."""
        return any(not undo.dropped for undo in self._undos)

    def before(self, name: str, undo: Callable[[], Awaitable[object]]) -> Undo:
        """Register the undo of the step that comes next."""
        registered = Undo(name, undo)
        self._undos.append(registered)
        return registered

    @staticmethod
    async def checked(step: Awaitable[T]) -> T:
        """Await a step, then look whether a cancel came that the step has swallowed."""
        result = await step
        if workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError("cancelled during the last step")
        return result

    @staticmethod
    async def pivot(step: Callable[[], Awaitable[T]]) -> T:
        """The point of no return: once begun, its own outcome decides, and a cancel that comes now is too late."""
        return await finish_despite_cancel(step)

    async def compensate(self, permit: Callable[[], Awaitable[object]]) -> list[str]:
        """Run every undo, last first, to the end.

        Args:
            permit: asks the registry first. Where it fails nothing is undone: the work is another run's, or is done
                and relied on (a Reset in the Temporal UI of an operation that has succeeded).

        Returns:
            One line for each undo that failed.
        """
        return await finish_despite_cancel(lambda: self._undo_all(permit))

    async def _undo_all(self, permit: Callable[[], Awaitable[object]]) -> list[str]:
        try:
            await permit()
        except (asyncio.CancelledError, Exception) as error:
            failure = failure_of(error)
            workflow.logger.warning("nothing is put back: %s %s", failure.code, failure.message)
            return [f"not permitted: {failure.code}: {failure.message}"]
        failed: list[str] = []
        while self._undos:
            undo = self._undos.pop()
            if undo.dropped:
                continue
            try:
                await undo.run()
            except (asyncio.CancelledError, Exception) as error:
                failure = failure_of(error)
                workflow.logger.error("undo failed: %s: %s %s", undo.name, failure.code, failure.message)
                failed.append(f"{undo.name}: {failure.code}: {failure.message}")
        return failed
