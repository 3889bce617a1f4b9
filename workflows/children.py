"""The two workflows that work on one engine, as their parents call them. Each is the undo of the other."""

from temporalio import workflow
from temporalio.common import TypedSearchAttributes
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from loradock.core.ids import child_workflow_id
    from loradock.core.models import Failure, Model, StepReport
    from workflows import search_attributes
    from workflows.failures import root_cause
    from workflows.inputs import LoadOnEngineInput, UnloadFromEngineInput
    from workflows.operation import CHILD_TASK_TIMEOUT


class ChildSteps(Model):
    """What a child on one engine gives back, and what its failure carries.

    Attributes:
        clean: after a failure: all that it had done is undone.
        outcome: what became of the adapter.
    """

    steps: tuple[StepReport, ...] = ()
    clean: bool = True
    outcome: str = ""

    @staticmethod
    def left_nothing(error: BaseException) -> bool:
        """Whether a child's failure says that it left nothing behind."""
        carried = _carried(error)
        return carried is not None and carried.clean


def _carried(error: BaseException | None) -> ChildSteps | None:
    cause = root_cause(error) if error is not None else None
    if not isinstance(cause, ApplicationError) or not cause.details or not isinstance(cause.details[0], dict):
        return None
    child = cause.details[0].get("child")
    return ChildSteps.model_validate(child) if child else None


def steps_of_failure(error: BaseException | None) -> tuple[StepReport, ...]:
    """The steps that a failed child got to."""
    carried = _carried(error)
    return carried.steps if carried else ()


def child_failure(failure: Failure, carried: ChildSteps) -> ApplicationError:
    """The error that ends a child: its type is the code; its steps travel along."""
    return ApplicationError(
        failure.message,
        {"details": failure.details, "child": carried.model_dump(mode="json")},
        type=failure.code,
        non_retryable=True,
    )


async def load_on_engine(given: LoadOnEngineInput) -> ChildSteps:
    """Run LoadOnEngine for one engine of an operation."""
    step = "restore" if given.restore else "load"
    result: ChildSteps = await workflow.execute_child_workflow(
        "LoadOnEngine",
        given,
        result_type=ChildSteps,
        id=_child_id(given, step),
        search_attributes=_attributes(given, step),
        static_summary=f"{step} {given.ref.served_name} on {given.target.engine}",
        task_timeout=CHILD_TASK_TIMEOUT,
    )
    return result


async def unload_from_engine(given: UnloadFromEngineInput) -> ChildSteps:
    """Run UnloadFromEngine for one engine of an operation."""
    step = "undo" if given.own_only else "unload"
    result: ChildSteps = await workflow.execute_child_workflow(
        "UnloadFromEngine",
        given,
        result_type=ChildSteps,
        id=_child_id(given, step),
        search_attributes=_attributes(given, step),
        static_summary=f"{step} {given.ref.served_name} on {given.target.engine}",
        task_timeout=CHILD_TASK_TIMEOUT,
    )
    return result


def _child_id(given: LoadOnEngineInput | UnloadFromEngineInput, step: str) -> str:
    """One per operation, step, engine and version, and new when a Reset runs the child anew.

    Not from the run's id: a reset run replays what the earlier one had begun, with the ids that it had then.
    `workflow.uuid4` does just that: repeated in a replay, another one after the point of the Reset.
    """
    engine = child_workflow_id(given.run.operation, step, given.target.engine)
    return f"{engine}/{given.ref.version}/{workflow.uuid4().hex[:8]}"


def _attributes(given: LoadOnEngineInput | UnloadFromEngineInput, kind: str) -> TypedSearchAttributes:
    return search_attributes.typed(
        operation=given.run.operation,
        kind=f"{kind}-on-engine",
        adapter=given.ref.adapter,
        version=given.ref.version,
        pool=given.pool,
        engine=given.target.engine,
        actor=given.actor,
    )
