"""A fleet and its adapters, made through the registry's own functions: what agents and workflows would have written."""

import asyncio
import hashlib
import uuid

from loradock.core.ids import new_operation_id
from loradock.core.models import (
    AdapterTraits,
    Manifest,
    ManifestFile,
    OperationKind,
    OperationState,
    RunRef,
)
from loradock.core.requests import EngineReport, LeaseRenewal, LoadPlan, LoadRequest, OperationResult
from loradock.registry import agents, cards, loading, operations, placement, runs, versions
from loradock.registry.database import Database
from loradock.registry.views import OperationView

BASE_MODEL = "tiny-llama"


def manifest_of(content: str) -> Manifest:
    """A manifest that differs with its content."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    file = ManifestFile(path="adapter_model.safetensors", size=len(content), sha256=digest)
    return Manifest(digest=f"sha256:{digest}", files=(file,))


def traits_of(rank: int = 8) -> AdapterTraits:
    """What inspection would have found."""
    return AdapterTraits(
        peft_base_model="somewhere/tiny-llama",
        rank=rank,
        alpha=16.0,
        target_modules=("q_proj", "v_proj"),
        dtype="F32",
        tensors=8,
        parameters=4096,
        layers=2,
    )


def engine_report(engine: str, *, base_model: str = BASE_MODEL, max_rank: int = 16) -> EngineReport:
    """An engine as its agent sees it."""
    return EngineReport(
        engine=engine,
        url="http://127.0.0.1:9",
        kind="simulated",
        reachable=True,
        incarnation=f"{engine}-life-1",
        base_model=base_model,
        engine_version="0.0",
        max_loras=4,
        usable_slots=4,
        free_slots=4,
        max_lora_rank=max_rank,
    )


def renewal_of(agent: str, *reports: EngineReport, pool: str = "default") -> LeaseRenewal:
    """A renewal as an agent sends it."""
    return LeaseRenewal(
        agent=agent, instance=f"{agent}-process-1", pool=pool, agent_version="0.1.0", engines=reports
    )


class World:
    """Makes engines, versions and cards.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def engines(
        self, *names: str, pool: str = "default", base_model: str = BASE_MODEL, lease_seconds: float = 600
    ) -> None:
        """Engines that are alive, one agent each."""
        for name in names:
            renewal = renewal_of(f"agent-{name}", engine_report(name, base_model=base_model), pool=pool)
            async with self._database.transaction() as tx:
                await agents.renew_lease(tx, renewal, lease_seconds)

    async def version(
        self,
        adapter: str,
        content: str = "one",
        *,
        rank: int = 8,
        ready: bool = True,
        base_model: str = BASE_MODEL,
    ) -> int:
        """A version, ready or failed; its number."""
        operation = await self.operation(OperationKind.PUBLISH, adapter)
        run = await self.begun(operation)
        async with self._database.transaction() as tx:
            reserved = await versions.reserve(
                tx,
                run,
                adapter=adapter,
                manifest=manifest_of(content),
                traits=traits_of(rank),
                source_uri="file:///srv/adapters/one",
                base_model=base_model,
                labels={},
                actor="operator",
            )
            if ready:
                await versions.mark_ready(tx, run, reserved.ref, f"file:///store/{reserved.ref.digest[7:]}")
        await self.end(run, OperationState.SUCCEEDED if ready else OperationState.FAILED)
        return reserved.ref.version

    async def loaded(self, adapter: str, version: int, *, pool: str = "default") -> None:
        """The version served by every engine of the pool."""
        run, plan = await self.staged(adapter, version, pool=pool)
        async with self._database.transaction() as tx:
            await loading.commit_load(tx, run, plan, plan.targets, {})

    async def staged(self, adapter: str, version: int, *, pool: str = "default") -> tuple[RunRef, LoadPlan]:
        """A load that is about to be committed."""
        operation = await self.operation(OperationKind.LOAD, adapter, version=version, pool=pool)
        run = await self.begun(operation)
        request = LoadRequest(adapter=adapter, version=version, pool=pool)
        async with self._database.transaction() as tx:
            plan = await placement.plan_load(tx, run, request)
            for target in plan.targets:
                await cards.stage(tx, run, plan.ref, target, pool)
        return run, plan

    async def operation(
        self, kind: OperationKind, adapter: str, *, version: int | None = None, pool: str | None = None
    ) -> OperationView:
        """A pending operation that nobody starts."""
        lock = operations.placement_lock(adapter, pool) if pool else operations.publish_lock(adapter)
        request = {"adapter": adapter, "version": version, "pool": pool, "unlike": uuid.uuid4().hex}
        async with self._database.transaction() as tx:
            submitted = await operations.submit(
                tx,
                operations.NewOperation(
                    id=new_operation_id(),
                    kind=kind,
                    adapter=adapter,
                    version=version,
                    pool=pool,
                    lock_key=lock,
                    request=request,
                    request_hash=operations.request_hash(kind, request),
                    actor="operator",
                ),
            )
        return submitted.operation

    async def active_operation(self) -> OperationView:
        """The one that is active, as soon as there is one."""
        async with asyncio.timeout(8):
            while True:
                async with self._database.read() as tx:
                    found = (await operations.list_operations(tx)).items
                if active := [one for one in found if one.state.active]:
                    (operation,) = active
                    return operation
                await asyncio.sleep(0.01)

    async def begun(self, operation: OperationView) -> RunRef:
        """The operation taken up by a run."""
        run = RunRef(operation=operation.id, run_id=str(uuid.uuid4()), epoch=operation.epoch)
        async with self._database.transaction() as tx:
            await runs.begin(tx, run, [("download", "e0"), ("load", "e0")])
        return run

    async def end(self, run: RunRef, state: OperationState) -> OperationView:
        """The operation ended, as its workflow would."""
        async with self._database.transaction() as tx:
            return await runs.finish(tx, run, state, result=OperationResult())
