"""Short ways to the states that tests begin with, each through the registry's own functions."""

import hashlib
from typing import Any

from loradock.core.ids import new_operation_id
from loradock.core.models import (
    AdapterTraits,
    Manifest,
    ManifestFile,
    OperationKind,
    OperationState,
    RunRef,
    VersionRef,
)
from loradock.core.requests import (
    EngineReport,
    EngineTarget,
    LeaseRenewal,
    LoadPlan,
    LoadRequest,
    OperationResult,
    UnloadPlan,
    UnloadRequest,
)
from loradock.registry import agents, audit, cards, loading, operations, placement, runs, unloading, versions
from loradock.registry.database import Database
from loradock.registry.idempotency import KeyUse
from loradock.registry.operations import NewOperation
from loradock.registry.views import CardView, LeaseGranted, OperationView

BASE = "tiny-base"
SOURCE = "s3://bucket/greeter"


def digest(seed: str) -> str:
    return "sha256:" + hashlib.sha256(seed.encode()).hexdigest()


def manifest(seed: str) -> Manifest:
    file = ManifestFile(
        path="adapter_model.safetensors", size=10, sha256=digest(seed).removeprefix("sha256:")
    )
    return Manifest(digest=digest(seed), files=(file,))


def traits(rank: int = 8) -> AdapterTraits:
    return AdapterTraits(
        peft_base_model="somewhere/base",
        rank=rank,
        alpha=16,
        target_modules=("k_proj", "q_proj"),
        dtype="F32",
        tensors=4,
        parameters=100,
        layers=1,
    )


def with_key(new: NewOperation, key: str | None) -> NewOperation:
    """The request as it comes with an Idempotency-Key, sent as it is settled."""
    use = None if key is None else KeyUse(actor=new.actor, key=key, sent_hash=new.request_hash)
    return new.model_copy(update={"key_use": use})


def new_publish(
    adapter: str = "greeter", actor: str = "alice", key: str | None = None, **request: Any
) -> NewOperation:
    request = {"adapter": adapter, "uri": SOURCE, **request}
    return with_key(
        NewOperation(
            id=new_operation_id(),
            kind=OperationKind.PUBLISH,
            adapter=adapter,
            lock_key=operations.publish_lock(adapter),
            request=request,
            request_hash=operations.request_hash(OperationKind.PUBLISH, request),
            actor=actor,
        ),
        key,
    )


def new_placement(
    request: LoadRequest | UnloadRequest, actor: str = "alice", key: str | None = None
) -> NewOperation:
    kind = OperationKind.LOAD if isinstance(request, LoadRequest) else OperationKind.UNLOAD
    content = request.model_dump(mode="json")
    return with_key(
        NewOperation(
            id=new_operation_id(),
            kind=kind,
            adapter=request.adapter,
            version=request.version,
            pool=request.pool,
            lock_key=operations.placement_lock(request.adapter, request.pool),
            request=content,
            request_hash=operations.request_hash(kind, content),
            actor=actor,
        ),
        key,
    )


def report(engine: str, incarnation: str = "life-1", **facts: Any) -> EngineReport:
    defaults: dict[str, Any] = {
        "url": f"http://127.0.0.1/{engine}",
        "kind": "simulated",
        "reachable": True,
        "base_model": BASE,
        "engine_version": "1",
        "max_loras": 4,
        "usable_slots": 4,
        "free_slots": 4,
        "max_lora_rank": 16,
    }
    return EngineReport(engine=engine, incarnation=incarnation, **(defaults | facts))


def renewal(
    *reports: EngineReport, agent: str = "host-1", instance: str = "instance-1", pool: str = "default"
) -> LeaseRenewal:
    return LeaseRenewal(agent=agent, instance=instance, pool=pool, agent_version="0.1", engines=reports)


def run_of(operation: OperationView, run_id: str = "run-1") -> RunRef:
    return RunRef(operation=operation.id, run_id=run_id, epoch=operation.epoch)


class World:
    """A database and what tests do with it."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def submit(self, new: NewOperation) -> OperationView:
        async with self.database.transaction() as tx:
            return (await operations.submit(tx, new)).operation

    async def start(self, new: NewOperation, run_id: str = "run-1") -> RunRef:
        run = run_of(await self.submit(new), run_id)
        async with self.database.transaction() as tx:
            await runs.begin(tx, run, [])
        return run

    async def finish(self, run: RunRef, state: OperationState = OperationState.FAILED) -> None:
        async with self.database.transaction() as tx:
            await runs.finish(tx, run, state)

    async def operation(self, operation: str) -> OperationView:
        async with self.database.read() as tx:
            return await operations.get_operation(tx, operation)

    async def publish(
        self, adapter: str = "greeter", seed: str = "one", rank: int = 8, base_model: str | None = BASE
    ) -> VersionRef:
        run = await self.start(new_publish(adapter, seed=seed))
        async with self.database.transaction() as tx:
            reserved = await versions.reserve(
                tx,
                run,
                adapter=adapter,
                manifest=manifest(seed),
                traits=traits(rank),
                source_uri=SOURCE,
                base_model=base_model,
                labels={},
                actor="alice",
            )
        async with self.database.transaction() as tx:
            await versions.mark_ready(tx, run, reserved.ref, f"s3://store/{seed}")
        async with self.database.transaction() as tx:
            result = OperationResult(version=reserved.ref.version)
            await runs.finish(tx, run, OperationState.SUCCEEDED, result=result)
        return reserved.ref

    async def renew(self, *reports: EngineReport, seconds: float = 60, **names: str) -> LeaseGranted:
        async with self.database.transaction() as tx:
            return await agents.renew_lease(tx, renewal(*reports, **names), seconds)

    async def engines(self, *names: str) -> None:
        await self.renew(*(report(name) for name in names))

    async def plan_load(self, request: LoadRequest, run_id: str = "run-1") -> tuple[RunRef, LoadPlan]:
        run = await self.start(new_placement(request), run_id)
        async with self.database.transaction() as tx:
            return run, await placement.plan_load(tx, run, request)

    async def stage(self, run: RunRef, plan: LoadPlan, *targets: EngineTarget) -> None:
        for target in targets or plan.targets:
            async with self.database.transaction() as tx:
                await cards.stage(tx, run, plan.ref, target, plan.pool)

    async def staged(self, ref: VersionRef, **facts: Any) -> tuple[RunRef, LoadPlan]:
        request = LoadRequest(adapter=ref.adapter, version=ref.version, pool="default", **facts)
        run, plan = await self.plan_load(request)
        await self.stage(run, plan)
        return run, plan

    async def load(self, ref: VersionRef, **facts: Any) -> RunRef:
        run, plan = await self.staged(ref, **facts)
        async with self.database.transaction() as tx:
            await loading.commit_load(tx, run, plan, plan.targets, {})
        return run

    async def plan_unload(self, adapter: str = "greeter", **facts: Any) -> tuple[RunRef, UnloadPlan]:
        request = UnloadRequest(adapter=adapter, pool="default", **facts)
        run = await self.start(new_placement(request))
        async with self.database.transaction() as tx:
            return run, await unloading.plan_unload(tx, run, request)

    async def cards(self, **wanted: Any) -> list[CardView]:
        async with self.database.read() as tx:
            return list((await cards.list_cards(tx, **{"staged": True, **wanted})).items)

    async def states(self) -> dict[str, str]:
        return {f"{card.served_name} on {card.engine}": str(card.state) for card in await self.cards()}

    async def actions(self) -> list[str]:

        async with self.database.read() as tx:
            events = (await audit.list_events(tx, limit=1000)).items
        return [event.action for event in reversed(events)]
