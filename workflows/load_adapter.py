"""LoadAdapter: one version onto the engines of a pool, all or nothing (or as many as asked for)."""

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.interface.cards import COMMIT_LOAD, PLAN_LOAD, CommitLoadInput, PlanLoadInput
    from loradock.core.errors import LoradockError
    from loradock.core.requests import EngineTarget, LoadPlan, LoadPolicy, OperationResult
    from workflows.calls import REGISTRY, call
    from workflows.children import ChildSteps, load_on_engine, steps_of_failure, unload_from_engine
    from workflows.failures import failure_of
    from workflows.fan_out import Outcome, fan_out, first_failure
    from workflows.inputs import LoadInput, LoadOnEngineInput, UnloadFromEngineInput
    from workflows.operation import Operation

ENGINES_AT_ONCE = 50

LoadOutcome = Outcome[EngineTarget, ChildSteps]


@workflow.defn(name="LoadAdapter")
class LoadAdapter:
    """choose engines → LoadOnEngine for each → make their cards routable together.

    Policy `all`: when one engine fails, every engine is put back. `best_effort`: those that became ready serve.
    """

    @workflow.init
    def __init__(self, given: LoadInput) -> None:
        self._request = given.request
        self._operation = Operation(given.start)
        self._saga = self._operation.saga

    @workflow.run
    async def run(self, given: LoadInput) -> OperationResult:
        """Load, or leave every engine as it was."""
        del given  # kept by __init__
        return await self._operation.tell_story(self._story)

    async def _story(self) -> OperationResult:
        plan = await self._choose_engines()
        outcomes = await self._load_everywhere(plan)
        self._judge(outcomes)
        return await self._commit(plan, outcomes)

    async def _choose_engines(self) -> LoadPlan:
        request = PlanLoadInput(run=self._operation.run, request=self._request)
        plan = await self._saga.checked(call(PLAN_LOAD, request, REGISTRY, summary="choose engines"))
        engines = ", ".join(target.engine for target in plan.targets)
        self._operation.tell("loading", f"loading `{plan.ref.served_name}` on {engines}")
        return plan

    async def _load_everywhere(self, plan: LoadPlan) -> list[LoadOutcome]:
        outcomes = await self._saga.checked(
            fan_out(
                plan.targets,
                lambda target: self._load_on(plan, target),
                limit=ENGINES_AT_ONCE,
                stop_at_first_failure=self._request.policy is LoadPolicy.ALL,
            )
        )
        for outcome in outcomes:
            reported = outcome.result.steps if outcome.result else steps_of_failure(outcome.error)
            self._operation.note_steps(*reported)
        return outcomes

    async def _load_on(self, plan: LoadPlan, target: EngineTarget) -> ChildSteps:
        undo = self._saga.before(f"unload from {target.engine}", lambda: self._take_off(plan, target))
        try:
            return await load_on_engine(
                LoadOnEngineInput(
                    run=self._operation.run,
                    actor=self._operation.actor,
                    target=target,
                    ref=plan.ref,
                    pool=plan.pool,
                )
            )
        except ChildWorkflowError as error:
            if ChildSteps.left_nothing(error):
                undo.drop()
            raise

    async def _take_off(self, plan: LoadPlan, target: EngineTarget) -> None:
        """The undo of one engine's load: its card goes first, so a host that never answers gets no traffic."""
        await unload_from_engine(
            UnloadFromEngineInput(
                run=self._operation.run,
                actor=self._operation.actor,
                target=target,
                ref=plan.ref,
                pool=plan.pool,
                own_only=True,
                cut_requests=True,
                bounded=True,
            )
        )

    def _judge(self, outcomes: list[LoadOutcome]) -> None:
        failed = first_failure(outcomes)
        if failed is None or failed.error is None:
            return
        why = failure_of(failed.error)
        where = f"{failed.item.engine}: {why.message}"
        if self._request.policy is LoadPolicy.ALL:
            raise LoradockError(why.code, where, **{**why.details, "engine": failed.item.engine})
        ready = sum(outcome.error is None for outcome in outcomes)
        if ready < self._request.min_ready:
            raise LoradockError(
                "not_enough_engines",
                f"{ready} of {len(outcomes)} engines became ready, {self._request.min_ready} were asked for; {where}",
                engines=_codes(outcomes),
            )

    async def _commit(self, plan: LoadPlan, outcomes: list[LoadOutcome]) -> OperationResult:
        ready = tuple(outcome.item for outcome in outcomes if outcome.error is None)
        commit = CommitLoadInput(
            run=self._operation.run,
            plan=plan,
            ready=ready,
            failed=_codes(outcomes),
            steps=self._operation.steps,
        )
        result = await self._saga.pivot(
            lambda: call(COMMIT_LOAD, commit, REGISTRY, summary=f"route {plan.ref.served_name}")
        )
        self._operation.tell("succeeded", f"**{plan.ref.served_name}** is served by {len(ready)} engines")
        return result


def _codes(outcomes: list[LoadOutcome]) -> dict[str, str]:
    return {
        outcome.item.engine: failure_of(outcome.error).code
        for outcome in outcomes
        if outcome.error is not None
    }
