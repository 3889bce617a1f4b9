"""LoadAdapter: one version onto the engines of a pool, all or nothing (or as many as asked for)."""

from dataclasses import dataclass, field
from itertools import chain, islice

from temporalio import workflow
from temporalio.exceptions import ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.interface.cards import COMMIT_LOAD, PLAN_LOAD, CommitLoadInput, PlanLoadInput
    from loradock.core.errors import LoradockError
    from loradock.core.models import Failure
    from loradock.core.requests import EngineTarget, LoadPlan, LoadPolicy, OperationResult
    from workflows.batches import BATCHES_AT_ONCE, TOLD, BatchResult, load_on_engines, unload_from_engines
    from workflows.calls import REGISTRY, call
    from workflows.children import ChildSteps, load_on_engine, steps_of_failure, unload_from_engine
    from workflows.failures import failure_of, is_cancel
    from workflows.fan_out import Outcome, fan_out, first_failure
    from workflows.inputs import (
        LoadInput,
        LoadOnEngineInput,
        LoadOnEnginesInput,
        UnloadFromEngineInput,
        UnloadFromEnginesInput,
    )
    from workflows.operation import Operation
    from workflows.saga import Group

ENGINES_AT_ONCE = 50

LoadOutcome = Outcome[EngineTarget, ChildSteps]


@dataclass(frozen=True)
class Loaded:
    """How far a load came on its engines.

    Attributes:
        asked: engines of the plan.
        ready: engines that became ready; `targets` are those of a narrow load, a wide one's stand in the registry.
        codes: of the others; of a wide load only the first.
        why: what the first of them said.
    """

    asked: int
    ready: int
    targets: tuple[EngineTarget, ...] = ()
    codes: dict[str, str] = field(default_factory=dict)
    why: LoradockError | None = None

    @classmethod
    def of(cls, outcomes: list[LoadOutcome]) -> "Loaded":
        """From a child for each engine."""
        failed = first_failure(outcomes)
        targets = tuple(outcome.item for outcome in outcomes if outcome.error is None)
        errors = [(outcome.item.engine, outcome.error) for outcome in outcomes if outcome.error is not None]
        return cls(
            asked=len(outcomes),
            ready=len(targets),
            targets=targets,
            codes={engine: failure_of(error).code for engine, error in errors},
            why=_on(failed.item.engine, failure_of(failed.error)) if failed and failed.error else None,
        )

    @classmethod
    def of_batches(cls, plan: LoadPlan, outcomes: list[Outcome[int, BatchResult]]) -> "Loaded":
        """From a child for each batch."""
        results = [outcome.result for outcome in outcomes if outcome.result is not None]
        failed = first_failure(outcomes)
        whys = [failure_of(failed.error)] if failed and failed.error else []
        whys += [result.first for result in results if result.first is not None]
        return cls(
            asked=plan.engines,
            ready=sum(result.done for result in results),
            codes=dict(islice(chain.from_iterable(result.codes.items() for result in results), TOLD)),
            why=LoradockError(whys[0].code, whys[0].message, **whys[0].details) if whys else None,
        )


def _on(engine: str, failure: Failure) -> LoradockError:
    return LoradockError(
        failure.code, f"{engine}: {failure.message}", **{**failure.details, "engine": engine}
    )


@workflow.defn(name="LoadAdapter")
class LoadAdapter:
    """choose engines → LoadOnEngine for each (of many: LoadOnEngines for each batch) → make their cards routable together.

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
        if plan.batches:
            loaded = await self._load_in_batches(plan)
        else:
            loaded = await self._load_everywhere(plan)
        self._judge(loaded)
        return await self._commit(plan, loaded)

    async def _choose_engines(self) -> LoadPlan:
        request = PlanLoadInput(run=self._operation.run, request=self._request)
        plan = await self._saga.checked(call(PLAN_LOAD, request, REGISTRY, summary="choose engines"))
        engines = ", ".join(target.engine for target in plan.targets)
        where = f"{plan.engines} engines, in {plan.batches} batches" if plan.batches else engines
        self._operation.tell("loading", f"loading `{plan.ref.served_name}` on {where}")
        return plan

    async def _load_everywhere(self, plan: LoadPlan) -> Loaded:
        group = self._saga.group(ENGINES_AT_ONCE)
        outcomes = await self._saga.checked(
            fan_out(
                plan.targets,
                lambda target: self._load_on(group, plan, target),
                limit=ENGINES_AT_ONCE,
                stop_at_first_failure=self._request.policy is LoadPolicy.ALL,
            )
        )
        for outcome in outcomes:
            reported = outcome.result.steps if outcome.result else steps_of_failure(outcome.error)
            self._operation.note_steps(*reported)
        return Loaded.of(outcomes)

    async def _load_on(self, group: Group, plan: LoadPlan, target: EngineTarget) -> ChildSteps:
        undo = group.before(f"unload from {target.engine}", lambda: self._take_off(plan, target))
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

    async def _load_in_batches(self, plan: LoadPlan) -> Loaded:
        """The same for many engines: a child for each batch, and the engines' fates kept in the registry."""
        group = self._saga.group(BATCHES_AT_ONCE)
        outcomes = await self._saga.checked(
            fan_out(
                range(plan.batches),
                lambda number: self._load_batch(group, plan, number),
                limit=BATCHES_AT_ONCE,
                stop_at_first_failure=self._request.policy is LoadPolicy.ALL,
            )
        )
        return Loaded.of_batches(plan, outcomes)

    async def _load_batch(self, group: Group, plan: LoadPlan, number: int) -> BatchResult:
        undo = group.before(f"unload batch {number}", lambda: self._take_off_batch(plan, number))
        try:
            return await load_on_engines(
                LoadOnEnginesInput(
                    run=self._operation.run,
                    actor=self._operation.actor,
                    number=number,
                    adapter=plan.ref.adapter,
                    what=plan.ref.served_name,
                    pool=plan.pool,
                    all_or_nothing=self._request.policy is LoadPolicy.ALL,
                )
            )
        except ChildWorkflowError as error:
            if ChildSteps.left_nothing(error):
                undo.drop()
            elif self._request.policy is LoadPolicy.BEST_EFFORT and not is_cancel(error):
                # The others go on and are served: what this one left must not stay beside them.
                await group.undo_now([undo])
            raise

    async def _take_off_batch(self, plan: LoadPlan, number: int) -> None:
        await unload_from_engines(
            UnloadFromEnginesInput(
                run=self._operation.run,
                actor=self._operation.actor,
                number=number,
                adapter=plan.ref.adapter,
                what=plan.ref.served_name,
                pool=plan.pool,
                own_only=True,
                cut_requests=True,
                bounded=True,
            )
        )

    def _judge(self, loaded: Loaded) -> None:
        if loaded.why is None:
            return
        if self._request.policy is LoadPolicy.ALL:
            raise loaded.why
        if loaded.ready < self._request.min_ready:
            raise LoradockError(
                "not_enough_engines",
                f"{loaded.ready} of {loaded.asked} engines became ready, {self._request.min_ready} were asked for;"
                f" {loaded.why.message}",
                engines=loaded.codes,
            )

    async def _commit(self, plan: LoadPlan, loaded: Loaded) -> OperationResult:
        commit = CommitLoadInput(
            run=self._operation.run,
            plan=plan,
            ready=loaded.targets,
            failed={} if plan.batches else loaded.codes,
            steps=self._operation.steps,
        )
        result = await self._saga.pivot(
            lambda: call(COMMIT_LOAD, commit, REGISTRY, summary=f"route {plan.ref.served_name}")
        )
        served = f"**{plan.ref.served_name}** is served by {len(result.engines)} engines"
        self._operation.tell("succeeded", served)
        return result
