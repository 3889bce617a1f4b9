"""The two workflows that work on a batch of a wide operation's engines, as their parents call them."""

import asyncio

from pydantic import Field
from temporalio import workflow
from temporalio.common import TypedSearchAttributes

with workflow.unsafe.imports_passed_through():
    from activities.interface.batches import MARK_CARDS_LOST, MarkCardsLostInput
    from loradock.core.batches import BatchItem
    from loradock.core.errors import LoradockError
    from loradock.core.ids import child_workflow_id
    from loradock.core.models import Failure, Model, StepReport, StepState
    from workflows import search_attributes
    from workflows.calls import REGISTRY, call
    from workflows.failures import failure_of
    from workflows.inputs import LoadOnEnginesInput, UnloadFromEnginesInput
    from workflows.operation import CHILD_TASK_TIMEOUT, step_now

BATCHES_AT_ONCE = 5
ENGINES_AT_ONCE = 20
"""Of one batch. Both together are what is under way at once: more only waits in Temporal, and a wait for too long looks like
a host that does not answer."""

TOLD = 20
"""Engines that are named one by one where people read; the operation's steps have all."""


class BatchResult(Model):
    """What became of a batch; each engine's own fate stands in the registry.

    Attributes:
        done: engines on which it went well.
        failed: how many others; `codes` has the first ones, `first` says why the first of them did.
    """

    done: int
    failed: int = 0
    codes: dict[str, str] = Field(default_factory=dict)
    first: Failure | None = None


async def load_on_engines(given: LoadOnEnginesInput) -> BatchResult:
    """Run LoadOnEngines for one batch of an operation."""
    step = "restore" if given.restore else "load"
    result: BatchResult = await workflow.execute_child_workflow(
        "LoadOnEngines",
        given,
        result_type=BatchResult,
        id=_child_id(given, step),
        search_attributes=_attributes(given, step),
        static_summary=f"{step} {given.what}, batch {given.number}",
        task_timeout=CHILD_TASK_TIMEOUT,
    )
    return result


async def unload_from_engines(given: UnloadFromEnginesInput) -> BatchResult:
    """Run UnloadFromEngines for one batch of an operation."""
    step = "undo" if given.own_only else "unload"
    result: BatchResult = await workflow.execute_child_workflow(
        "UnloadFromEngines",
        given,
        result_type=BatchResult,
        id=_child_id(given, step),
        search_attributes=_attributes(given, step),
        static_summary=f"{step} {given.what}, batch {given.number}",
        task_timeout=CHILD_TASK_TIMEOUT,
    )
    return result


async def restore_batch(given: LoadOnEnginesInput) -> None:
    """Bring a batch back that an unload took away; cards of engines where that fails are lost, and it is told.

    Raises:
        LoradockError: the first engine's reason.
    """
    try:
        result = await load_on_engines(given)
    except (asyncio.CancelledError, Exception) as error:
        lost = MarkCardsLostInput(run=given.run, number=given.number, reason=failure_of(error).code)
        await call(MARK_CARDS_LOST, lost, REGISTRY, summary=f"batch {given.number} could not be put back")
        raise
    if result.first is not None:
        why = result.first
        raise LoradockError(why.code, f"{result.failed} engines; {why.message}", **why.details)


def failed_step(item: BatchItem, failure: Failure, otherwise: str) -> StepReport:
    """The step of a combined activity that failed, as its host says; `otherwise` where none said anything."""
    told = failure.details.get("step")
    engine = item.target.engine
    if isinstance(told, dict):
        return StepReport.model_validate({**told, "engine": engine}).model_copy(update={"error": failure})
    return step_now(otherwise, StepState.FAILED, started_at=workflow.now(), engine=engine, error=failure)


def _child_id(given: LoadOnEnginesInput | UnloadFromEnginesInput, step: str) -> str:
    """New when a Reset runs the child anew: see `workflows.children`."""
    batch = child_workflow_id(given.run.operation, step, f"batch-{given.number}")
    return f"{batch}/{workflow.uuid4().hex[:8]}"


def _attributes(given: LoadOnEnginesInput | UnloadFromEnginesInput, kind: str) -> TypedSearchAttributes:
    return search_attributes.typed(
        operation=given.run.operation,
        kind=f"{kind}-on-engines",
        adapter=given.adapter,
        pool=given.pool,
        actor=given.actor,
    )
