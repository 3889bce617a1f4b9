"""The same work on many engines at once, bounded, in an order that a replay repeats."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows.failures import is_cancel

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or the error that stopped it."""

    item: Item
    result: Result | None = None
    error: BaseException | None = None


async def fan_out(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    *,
    limit: int,
    stop_at_first_failure: bool,
) -> list[Outcome[Item, Result]]:
    """Run `work` for every item, at most `limit` at once, and wait for all of them to end.

    With `stop_at_first_failure` the others are cancelled when one fails; they, too, are awaited. A cancel from outside
    reaches all of them and is raised again when the last has ended. (A TaskGroup keeps its tasks in a set: the order in
    which it cancels is not the same in a replay.)
    """
    gate = asyncio.Semaphore(limit)
    tasks: list[asyncio.Task[Outcome[Item, Result]]] = []

    async def one(item: Item) -> Outcome[Item, Result]:
        try:
            async with gate:
                return Outcome(item, result=await work(item))
        except (asyncio.CancelledError, Exception) as error:
            if stop_at_first_failure and not is_cancel(error):
                for task in tasks:
                    if task is not asyncio.current_task():
                        task.cancel()
            return Outcome(item, error=error)

    tasks.extend(asyncio.create_task(one(item)) for item in items)
    return list(await asyncio.gather(*tasks))


def first_failure(outcomes: Sequence[Outcome[Item, Result]]) -> Outcome[Item, Result] | None:
    """The outcome that tells why: the first real error, else the first cancel, else None."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    real = [outcome for outcome in failed if outcome.error is not None and not is_cancel(outcome.error)]
    return next(iter(real or failed), None)
