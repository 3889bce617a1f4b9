"""Activities on deployment cards: what is served where."""

from typing import Final

from pydantic import Field

from activities.interface.common import ActivitySpec, Done
from loradock.core.models import (
    Model,
    RunRef,
    StepReport,
    VersionRef,
)
from loradock.core.requests import (
    EngineTarget,
    LoadPlan,
    LoadRequest,
    OperationResult,
    UnloadPlan,
    UnloadRequest,
)


class PlanLoadInput(Model):
    """Chooses the engines of a load and marks the operation running."""

    run: RunRef
    request: LoadRequest


class CardInput(Model):
    """One card of one engine."""

    run: RunRef
    ref: VersionRef
    target: EngineTarget
    pool: str
    steps: tuple[StepReport, ...] = ()


class CommitLoadInput(Model):
    """Makes the staged cards routable together and ends the operation, in one transaction.

    Attributes:
        failed: engines that did not become ready, with the code of each (`best_effort` only).
    """

    run: RunRef
    plan: LoadPlan
    ready: tuple[EngineTarget, ...]
    failed: dict[str, str] = Field(default_factory=dict)
    steps: tuple[StepReport, ...] = ()


class PlanUnloadInput(Model):
    """Chooses the cards of an unload and marks the operation running."""

    run: RunRef
    request: UnloadRequest


class UnloadPlanInput(Model):
    """All cards of an unload at once."""

    run: RunRef
    plan: UnloadPlan
    steps: tuple[StepReport, ...] = ()


class MarkLostInput(Model):
    """Declares what an engine served as lost, because it could not be put back or be reached."""

    run: RunRef
    target: EngineTarget
    ref: VersionRef
    reason: str


PLAN_LOAD: Final = ActivitySpec("plan_load", PlanLoadInput, LoadPlan)
STAGE_CARD: Final = ActivitySpec("stage_card", CardInput, Done)
RETRACT_CARD: Final = ActivitySpec("retract_card", CardInput, Done)
COMMIT_LOAD: Final = ActivitySpec("commit_load", CommitLoadInput, OperationResult)
PLAN_UNLOAD: Final = ActivitySpec("plan_unload", PlanUnloadInput, UnloadPlan)
WITHDRAW_CARDS: Final = ActivitySpec("withdraw_cards", UnloadPlanInput, Done)
RESTORE_CARDS: Final = ActivitySpec("restore_cards", UnloadPlanInput, Done)
COMMIT_UNLOAD: Final = ActivitySpec("commit_unload", UnloadPlanInput, OperationResult)
MARK_LOST: Final = ActivitySpec("mark_lost", MarkLostInput, Done)
