"""Deployment cards in the registry: what is served where, and what is being taken away."""

from temporalio import activity

from activities.interface.cards import (
    COMMIT_LOAD,
    COMMIT_UNLOAD,
    MARK_LOST,
    PLAN_LOAD,
    PLAN_UNLOAD,
    RESTORE_CARDS,
    RETRACT_CARD,
    STAGE_CARD,
    WITHDRAW_CARDS,
    CardInput,
    CommitLoadInput,
    MarkLostInput,
    PlanLoadInput,
    PlanUnloadInput,
    UnloadPlanInput,
)
from activities.interface.common import Done
from loradock.core.batches import batches_of
from loradock.core.errors import CATALOG
from loradock.core.models import Failure, StepReport, StepState
from loradock.core.requests import EngineTarget, LoadPlan, OperationResult, UnloadItem, UnloadPlan
from loradock.core.signatures import SignatureRules
from loradock.registry import (
    cards,
    loading,
    operation_steps,
    placement,
    runs,
    signatures,
    targets,
    unloading,
)
from loradock.registry.database import Database, Reader

LOAD_STEPS = ("download", "load", "verify")
UNLOAD_STEPS = ("drain", "remove", "release")


class CardActivities:
    """Activities on cards; needs the registry's database.

    Args:
        signatures: which versions may be loaded.
    """

    def __init__(self, database: Database, signatures: SignatureRules | None = None) -> None:
        self._database = database
        self._signatures = signatures or SignatureRules()

    @activity.defn(name=PLAN_LOAD.name)
    async def plan_load(self, given: PlanLoadInput) -> LoadPlan:
        """Choose the engines; the operation is running from here on.

        Raises:
            LoradockError: `signature_required` for a version that the policy does not trust; what stands against the load.
        """
        rule = self._signatures.rule_for(given.request.adapter)
        async with self._database.transaction() as tx:
            plan = await placement.plan_load(tx, given.run, given.request)
            await signatures.check_admitted(tx, plan.ref, rule)
            await runs.begin(tx, given.run, _steps(LOAD_STEPS, plan.targets))
            await operation_steps.record_steps(tx, given.run.operation, _left_out(plan))
            if not batches_of(len(plan.targets)):
                return plan
            items = [UnloadItem(target=target, ref=plan.ref) for target in plan.targets]
            engines = await targets.keep(tx, given.run, items)
        return plan.model_copy(update={"targets": (), "batches": batches_of(engines), "engines": engines})

    @activity.defn(name=STAGE_CARD.name)
    async def stage(self, given: CardInput) -> Done:
        """Write the card of a verified load; not routable yet."""
        async with self._database.transaction() as tx:
            await cards.stage(tx, given.run, given.ref, given.target, given.pool)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
        return Done()

    @activity.defn(name=RETRACT_CARD.name)
    async def retract(self, given: CardInput) -> Done:
        """Take back the card that this operation staged, if it did."""
        async with self._database.transaction() as tx:
            await cards.retract_staged(tx, given.run, given.ref, given.target.engine)
        return Done()

    @activity.defn(name=COMMIT_LOAD.name)
    async def commit_load(self, given: CommitLoadInput) -> OperationResult:
        """Make the staged cards routable together and end the operation."""
        async with self._database.transaction() as tx:
            ready, failed = given.ready, given.failed
            if given.plan.batches:
                ready, failed = await targets.outcome(tx, given.run)
            await runs.claim(tx, given.run)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
            return await loading.commit_load(tx, given.run, given.plan, ready, failed)

    @activity.defn(name=PLAN_UNLOAD.name)
    async def plan_unload(self, given: PlanUnloadInput) -> UnloadPlan:
        """Choose the cards; the operation is running from here on."""
        async with self._database.transaction() as tx:
            plan = await unloading.plan_unload(tx, given.run, given.request)
            await runs.begin(tx, given.run, _steps(UNLOAD_STEPS, [item.target for item in plan.items]))
            if not batches_of(len(plan.items)):
                return plan
            cards_kept = await targets.keep(tx, given.run, plan.items)
        batches = batches_of(cards_kept)
        return plan.model_copy(update={"items": (), "batches": batches, "cards": cards_kept})

    @activity.defn(name=WITHDRAW_CARDS.name)
    async def withdraw(self, given: UnloadPlanInput) -> Done:
        """Stop traffic to all cards of the plan at once."""
        async with self._database.transaction() as tx:
            await unloading.withdraw(tx, given.run, await _whole(tx, given))
        return Done()

    @activity.defn(name=RESTORE_CARDS.name)
    async def restore(self, given: UnloadPlanInput) -> Done:
        """Let traffic follow the plan's cards again, where the engine still lives."""
        async with self._database.transaction() as tx:
            await unloading.restore(tx, given.run, await _whole(tx, given))
        return Done()

    @activity.defn(name=COMMIT_UNLOAD.name)
    async def commit_unload(self, given: UnloadPlanInput) -> OperationResult:
        """Forget the plan's cards and end the operation."""
        async with self._database.transaction() as tx:
            await runs.claim(tx, given.run)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
            return await unloading.commit_unload(tx, given.run, await _whole(tx, given))

    @activity.defn(name=MARK_LOST.name)
    async def mark_lost(self, given: MarkLostInput) -> Done:
        """Declare one card lost, which could not be put back: no traffic follows it."""
        async with self._database.transaction() as tx:
            await cards.mark_card_lost(tx, given.run, given.ref, given.target, given.reason)
        return Done()


def _left_out(plan: LoadPlan) -> list[StepReport]:
    """Engines that were asked for and cannot take the version are seen in the operation, too."""
    return [
        StepReport(
            name="place",
            engine=engine,
            state=StepState.SKIPPED,
            error=Failure(code=code, message=CATALOG[code].title if code in CATALOG else code),
        )
        for engine, code in plan.left_out.items()
    ]


async def _whole(tx: Reader, given: UnloadPlanInput) -> UnloadPlan:
    """The plan with its items, wherever they are kept."""
    if not given.plan.batches:
        return given.plan
    return given.plan.model_copy(update={"items": await targets.whole(tx, given.run)})


def _steps(
    names: tuple[str, ...], targets: "list[EngineTarget] | tuple[EngineTarget, ...]"
) -> list[tuple[str, str]]:
    return [(name, target.engine) for target in targets for name in names]
