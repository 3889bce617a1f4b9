"""The one saga helper: steps forward, and when one fails or a cancel comes, every undo, last first.

What it holds, each of which a published snippet loses:

- an undo is registered *before* its step, and must accept that the step never ran;
- a cancel counts wherever it lands: in a step, in a timer, or swallowed by a step that succeeded all the same;
- compensation runs in a task of its own, so a second cancel cannot cut it in the middle;
- an undo that fails does not keep the others from running; it is reported at the end;
- the undos of a fan-out are a group: they run beside each other, bounded, before those of what came earlier;
- the first error is the one that counts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
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


class Group:
    """The undos of steps that go on beside each other, as a fan-out's do: they run beside each other as well.

    Args:
        limit: how many at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
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

    async def undo_all(self) -> list[str]:
        """Run every undo, begun last first, and wait for all; one line for each that failed."""
        undos = [undo for undo in reversed(self._undos) if not undo.dropped]
        self._undos = []
        gate = asyncio.Semaphore(self._limit)

        async def one(undo: Undo) -> str | None:
            async with gate:
                return await _run(undo)

        tasks = [asyncio.create_task(one(undo)) for undo in undos]
        return [line for line in await asyncio.gather(*tasks) if line is not None]

    async def undo_now(
        self, undos: Sequence[Undo], permit: Callable[[], Awaitable[object]] | None = None
    ) -> list[str]:
        """Run some of the undos while the story goes on; as `Saga.compensate` for them alone.

        Args:
            permit: None where the undos ask for themselves.
        """
        some = Group(self._limit)
        some._undos = [undo for undo in self._undos if undo in undos]
        self._undos = [undo for undo in self._undos if undo not in undos]
        asked = some.undo_all if permit is None else lambda: _permitted(permit, some.undo_all)
        return await finish_despite_cancel(asked)


async def _permitted(
    permit: Callable[[], Awaitable[object]], undo_all: Callable[[], Awaitable[list[str]]]
) -> list[str]:
    try:
        await permit()
    except (asyncio.CancelledError, Exception) as error:
        failure = failure_of(error)
        workflow.logger.warning("nothing is put back: %s %s", failure.code, failure.message)
        return [f"not permitted: {failure.code}: {failure.message}"]
    return await undo_all()


async def _run(undo: Undo) -> str | None:
    try:
        await undo.run()
    except (asyncio.CancelledError, Exception) as error:
        failure = failure_of(error)
        workflow.logger.error("undo failed: %s: %s %s", undo.name, failure.code, failure.message)
        return f"{undo.name}: {failure.code}: {failure.message}"
    return None


class Saga:
    """The undos of one workflow run: groups of them, last first."""

    def __init__(self) -> None:
        self._groups: list[Group] = []

    @property
    def has_undos(self) -> bool:
        """Whether anything may have to be put back."""
        return any(group.has_undos for group in self._groups)

    def before(self, name: str, undo: Callable[[], Awaitable[object]]) -> Undo:
        """Register the undo of the step that comes next."""
        return self.group(1).before(name, undo)

    def group(self, limit: int) -> Group:
        """A group for the undos of the fan-out that comes next; at most so many run at once."""
        group = Group(limit)
        self._groups.append(group)
        return group

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
        return await finish_despite_cancel(lambda: _permitted(permit, self._undo_all))

    async def _undo_all(self) -> list[str]:
        failed: list[str] = []
        while self._groups:
            failed += await self._groups.pop().undo_all()
        return failed
