"""LoadOnEngine: one version onto one engine. A child of its own, so each engine is seen and retried by itself."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.cards import RETRACT_CARD, STAGE_CARD, CardInput
    from activities.interface.hosts import (
        DOWNLOAD_ADAPTER,
        LOAD_ADAPTER,
        RELEASE_ADAPTER,
        UNLOAD_ADAPTER,
        DownloadedAdapter,
        HostInput,
        LoadAdapterInput,
        UnloadAdapterInput,
    )
    from loradock.core.ids import host_engine_queue, host_io_queue
    from loradock.core.models import Failure, StepReport, StepState
    from workflows.calls import HOST_DOWNLOAD, HOST_ENGINE, HOST_UNDO, REGISTRY, call
    from workflows.children import ChildSteps, child_failure
    from workflows.failures import failure_of, is_cancel
    from workflows.inputs import LoadOnEngineInput
    from workflows.operation import mark_compensating, step_now
    from workflows.saga import Saga


@workflow.defn(name="LoadOnEngine")
class LoadOnEngine:
    """download → add_lora and verify → stage the card. Undone in reverse when one of them fails.

    What happens when add_lora fails: `_load`'s undo finds nothing of this operation on the engine, `_download`'s undo
    releases the cache, the child fails with the engine's own reason, and the parent (LoadAdapter) decides by its policy.
    """

    @workflow.init
    def __init__(self, given: LoadOnEngineInput) -> None:
        self._given = given
        self._host = HostInput(run=given.run, ref=given.ref, target=given.target)
        self._saga = Saga()
        self._steps: list[StepReport] = []
        self._begin_step("download")

    @workflow.run
    async def run(self, given: LoadOnEngineInput) -> ChildSteps:
        """Load, or leave the engine as it was."""
        del given  # kept by __init__
        try:
            return await self._story()
        except (asyncio.CancelledError, Exception) as error:
            failure = failure_of(error)
            not_undone = await self._saga.compensate(self._may_be_undone)
            if is_cancel(error):
                raise
            engine = self._given.target.engine
            failed = step_now(
                self._step, StepState.FAILED, started_at=self._step_began, engine=engine, error=failure
            )
            raise self._failure(failure, failed, clean=not not_undone) from error

    def _begin_step(self, name: str) -> None:
        self._step = name
        self._step_began = workflow.now()

    def _failure(self, failure: Failure, failed: StepReport, *, clean: bool) -> Exception:
        undone = [step.model_copy(update={"state": StepState.UNDONE}) for step in self._steps]
        return child_failure(failure, ChildSteps(steps=(*undone, failed), clean=clean))

    async def _story(self) -> ChildSteps:
        downloaded = await self._download()
        outcome = await self._load(downloaded)
        if not self._given.restore:
            await self._stage_card()
        return ChildSteps(steps=tuple(self._steps), outcome=outcome)

    async def _download(self) -> DownloadedAdapter:
        queue = host_io_queue(self._given.target.agent)
        self._saga.before(
            "release the cache",
            lambda: call(RELEASE_ADAPTER, self._host, HOST_UNDO, queue=queue, summary="release the cache"),
        )
        downloaded = await self._saga.checked(
            call(DOWNLOAD_ADAPTER, self._host, HOST_DOWNLOAD, queue=queue, summary="download to the cache")
        )
        self._steps.append(downloaded.step)
        return downloaded

    async def _load(self, downloaded: DownloadedAdapter) -> str:
        self._begin_step("load")
        queue = host_engine_queue(self._given.target.agent)
        undo = UnloadAdapterInput(
            run=self._given.run,
            ref=self._given.ref,
            target=self._given.target,
            drain_seconds=0,
            own_only=True,
            cut_requests=True,
        )
        self._saga.before(
            "remove_lora",
            lambda: call(UNLOAD_ADAPTER, undo, HOST_UNDO, queue=queue, summary="remove_lora (own load only)"),
        )
        load = LoadAdapterInput(
            run=self._given.run,
            ref=self._given.ref,
            target=self._given.target,
            path=downloaded.path,
            undo=self._given.restore,
        )
        loaded = await self._saga.checked(
            call(LOAD_ADAPTER, load, HOST_ENGINE, queue=queue, summary="add_lora, verify")
        )
        self._steps.extend(loaded.steps)
        return loaded.outcome

    async def _may_be_undone(self) -> None:
        """The registry's word comes before any undo. For a load it is also the undo of `_stage_card`."""
        if self._given.restore:
            await mark_compensating(self._given.run)
        else:
            await call(RETRACT_CARD, self._card(), REGISTRY, summary="retract the card")

    def _card(self) -> CardInput:
        return CardInput(
            run=self._given.run,
            ref=self._given.ref,
            target=self._given.target,
            pool=self._given.pool,
            steps=tuple(self._steps),
        )

    async def _stage_card(self) -> None:
        self._begin_step("card")
        await self._saga.checked(call(STAGE_CARD, self._card(), REGISTRY, summary="stage the card"))
