"""The steps of one repair on its host: through the same activities as every operation, with an epoch of its own."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.hosts import (
        DOWNLOAD_ADAPTER,
        LOAD_ADAPTER,
        RELEASE_ADAPTER,
        UNLOAD_ADAPTER,
        HostInput,
        LoadAdapterInput,
        UnloadAdapterInput,
    )
    from loradock.core.ids import host_engine_queue, host_io_queue
    from loradock.core.models import VersionRef
    from loradock.core.reconcile import Repair
    from workflows.calls import HOST_DOWNLOAD, HOST_ENGINE, HOST_UNDO, call, lasting
    from workflows.failures import failure_of


class RepairSteps:
    """take out what is wrong there → download → add_lora and verify."""

    def __init__(self, repair: Repair, drain_seconds: float) -> None:
        self._repair = repair
        self._drain_seconds = drain_seconds
        self._name = repair.served_name
        self._io = host_io_queue(repair.target.agent)
        self._calls = host_engine_queue(repair.target.agent)

    async def do(self) -> None:
        """Do it; a failure leaves what `take_back` or the next look sees to."""
        if self._repair.take_out is not None:
            await self._take_out(self._repair.take_out)
        if self._repair.put_in is not None:
            await self._put_in(self._repair.put_in)

    async def take_back(self) -> None:
        """Leave nothing on the host of what this repair loaded itself. What cannot be done now the next look will see."""
        if self._repair.put_in is None:
            return
        unload = self._unload(self._repair.put_in, drain_seconds=0, own_only=True)
        steps = (
            lambda: call(
                UNLOAD_ADAPTER, unload, HOST_UNDO, queue=self._calls, summary=f"take {self._name} out again"
            ),
            lambda: self._release(self._host(unload.ref)),
        )
        for step in steps:
            try:
                await step()
            except (asyncio.CancelledError, Exception) as error:
                workflow.logger.warning("%s is not taken back: %s", self._name, failure_of(error).code)
                return

    async def _take_out(self, held: VersionRef) -> None:
        unload = self._unload(held, drain_seconds=self._drain_seconds)
        policy = lasting(HOST_ENGINE, self._drain_seconds)
        summary = f"drain and remove {self._name}"
        await call(UNLOAD_ADAPTER, unload, policy, queue=self._calls, summary=summary)
        await self._release(self._host(held))

    async def _put_in(self, ref: VersionRef) -> None:
        downloaded = await call(
            DOWNLOAD_ADAPTER, self._host(ref), HOST_DOWNLOAD, queue=self._io, summary=f"download {self._name}"
        )
        load = LoadAdapterInput(
            run=self._repair.run, ref=ref, target=self._repair.target, path=downloaded.path
        )
        await call(
            LOAD_ADAPTER, load, HOST_ENGINE, queue=self._calls, summary=f"add_lora, verify {self._name}"
        )

    def _host(self, ref: VersionRef) -> HostInput:
        return HostInput(run=self._repair.run, ref=ref, target=self._repair.target)

    def _unload(self, ref: VersionRef, *, drain_seconds: float, own_only: bool = False) -> UnloadAdapterInput:
        return UnloadAdapterInput(
            run=self._repair.run,
            ref=ref,
            target=self._repair.target,
            drain_seconds=drain_seconds,
            own_only=own_only,
            cut_requests=True,
        )

    async def _release(self, host: HostInput) -> None:
        await call(RELEASE_ADAPTER, host, HOST_UNDO, queue=self._io, summary=f"release {self._name}")
