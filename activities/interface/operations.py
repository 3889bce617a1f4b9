"""Activities on the operation as a whole."""

from typing import Final

from activities.interface.common import ActivitySpec, Done
from loradock.core.models import (
    Failure,
    Model,
    OperationKind,
    OperationState,
    RunRef,
    StepReport,
    VersionRef,
)
from loradock.core.requests import (
    EngineTarget,
)


class RunInput(Model):
    """Any call about the operation as a whole."""

    run: RunRef


class FinishInput(Model):
    """Ends an operation that did not succeed (success is written with the change itself).

    Attributes:
        repairs_pending: an undo was left to the reconciler.
    """

    run: RunRef
    state: OperationState
    failure: Failure
    steps: tuple[StepReport, ...] = ()
    repairs_pending: bool = False


class TakeOverInput(Model):
    """Takes an operation over whose own workflow is gone.

    Attributes:
        run_id: of the run that takes over.
    """

    operation: str
    run_id: str


class TouchedEngine(Model):
    """An engine on which an operation may have left something."""

    target: EngineTarget
    ref: VersionRef


class TakenOver(Model):
    """An operation under a new epoch: its late activities are refused from now on.

    Attributes:
        batches: when so many engines were touched that they stay in the registry in batches: `touched` is empty then.
        still_active: False when the operation had ended by itself: nothing is to be done.
    """

    run: RunRef
    kind: OperationKind
    actor: str
    adapter: str
    version: int | None
    pool: str | None
    touched: tuple[TouchedEngine, ...]
    batches: int = 0
    still_active: bool


MARK_COMPENSATING: Final = ActivitySpec("mark_compensating", RunInput, Done)
FINISH_OPERATION: Final = ActivitySpec("finish_operation", FinishInput, Done)
TAKE_OVER: Final = ActivitySpec("take_over_operation", TakeOverInput, TakenOver)
