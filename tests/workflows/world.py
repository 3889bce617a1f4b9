"""A small world in memory that the workflows act on, with every activity of the interface and faults on demand.

Each activity really changes the world, so a test can say "as before" and mean all of it: engines, cards, caches, rows.
"""

import asyncio
import copy
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.interface import artifacts, batches, cards, collection, hosts, operations, reconcile, versions
from activities.interface.common import Done
from loradock.core.batches import BatchItem, EngineBatch
from loradock.core.models import (
    AdapterTraits,
    Manifest,
    ManifestFile,
    OperationKind,
    RunRef,
    StepReport,
    StepState,
    VersionRef,
)
from loradock.core.reconcile import (
    DriftKind,
    EngineObservation,
    HeldAdapter,
    Look,
    Looked,
    Made,
    Repair,
    Scanned,
)
from loradock.core.requests import (
    EngineTarget,
    LoadPlan,
    OperationResult,
    ReservedVersion,
    UnloadItem,
    UnloadPlan,
)

DIGEST = "sha256:" + "ab" * 32
REF = VersionRef(adapter="greeter", version=1, digest=DIGEST, int_id=7)


@dataclass
class Fault:
    """Makes an activity fail: before or after it has taken effect, so many times.

    Attributes:
        engine: only for this engine, None for any.
        served_name: only for this one, None for any; of loads and downloads alone.
        hang: instead of failing, wait until cancelled or `World.released`.
        swallow_cancel: go on as if nothing had happened when the cancel comes.
    """

    code: str = "engine_error"
    after_effect: bool = False
    times: int = 10_000
    engine: str | None = None
    served_name: str | None = None
    retryable: bool = False
    hang: bool = False
    swallow_cancel: bool = False


@dataclass
class State:
    """What tests compare. Engines map a served name to the operation that loaded it."""

    engines: dict[str, dict[str, str]] = field(default_factory=dict)
    draining: set[tuple[str, str]] = field(default_factory=set)
    pins: set[tuple[str, str]] = field(default_factory=set)
    cards: dict[tuple[str, str], str] = field(default_factory=dict)
    versions: dict[int, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)


class World:
    """All activities, over one `State`.

    Args:
        batch_size: the plan is a wide operation's, in batches of so many engines; 0: it travels whole.
        agents: how many hosts the engines stand on; each on one of its own when 0.
    """

    def __init__(
        self,
        engines: tuple[str, ...] = ("engine-1", "engine-2"),
        *,
        batch_size: int = 0,
        agents: int = 0,
    ) -> None:
        self.batch_size = batch_size
        self._agents = agents
        self.ready: set[str] = set()
        self.noted: tuple[StepReport, ...] = ()
        self.state = State(engines={name: {} for name in engines})
        self.faults: dict[str, Fault] = {}
        self.calls: list[str] = []
        self.reached: dict[str, asyncio.Event] = {}
        self.ended: list[operations.FinishInput] = []
        self.succeeded: list[RunRef] = []
        self.compensating = 0
        self.kind = OperationKind.LOAD
        self.collections: list[collection.RecordCollectionInput] = []
        self.wanted: dict[str, VersionRef] = {REF.served_name: REF}
        self.failed_repairs: list[reconcile.NoteFailedInput] = []
        self.ended_looks: list[reconcile.EndLookInput] = []
        self.removed_uploads: list[str] = []
        self.released = asyncio.Event()
        self._failed: Counter[str] = Counter()

    def snapshot(self) -> State:
        """The state now, to compare with later."""
        return copy.deepcopy(self.state)

    def fail(self, name: str, **fault: Any) -> None:
        """Let an activity fail from now on."""
        self.faults[name] = Fault(**fault)

    def hang(self, name: str, **fault: Any) -> asyncio.Event:
        """Let an activity wait for its cancel; the event is set when it got there."""
        self.faults[name] = Fault(hang=True, **fault)
        self.reached[name] = asyncio.Event()
        return self.reached[name]

    def targets(self) -> tuple[EngineTarget, ...]:
        """One target for each engine; each has an agent of its own queue, here all served by one worker."""
        return tuple(
            EngineTarget(engine=name, agent=self._agent(at, name), incarnation=f"life-of-{name}")
            for at, name in enumerate(self.state.engines)
        )

    def _agent(self, at: int, name: str) -> str:
        return f"agent-{at % self._agents}" if self._agents else f"agent-of-{name}"

    @property
    def _batches(self) -> int:
        return -(-len(self.state.engines) // self.batch_size) if self.batch_size else 0

    def serve(self, *names: str) -> None:
        """Let engines serve REF already, loaded by an earlier operation."""
        for name in names or tuple(self.state.engines):
            self.state.engines[name][REF.served_name] = "op-earlier"
            self.state.cards[(name, REF.served_name)] = "serving"
            self.state.pins.add((name, REF.served_name))

    async def _meet(
        self, spec_name: str, engine: str | None, *, after: bool, name: str | None = None
    ) -> None:
        fault = self.faults.get(spec_name)
        if fault is None or fault.after_effect != after or (fault.engine and fault.engine != engine):
            return
        if fault.served_name is not None and fault.served_name != name:
            return
        if self._failed[spec_name] >= fault.times:
            return
        self._failed[spec_name] += 1
        if fault.hang:
            await self._hang(spec_name, fault)
            return
        raise ApplicationError(
            f"{spec_name} fails",
            {"details": {"engine": engine or "none", "code": "inner", "message": "inner"}},
            type=fault.code,
            non_retryable=not fault.retryable,
        )

    async def _hang(self, spec_name: str, fault: Fault) -> None:
        self.reached[spec_name].set()
        try:
            while not self.released.is_set():
                activity.heartbeat()
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            if not fault.swallow_cancel:
                raise

    async def _do(self, spec_name: str, engine: str | None, effect: Any, name: str | None = None) -> Any:
        self.calls.append(f"{spec_name}:{engine}" if engine else spec_name)
        await self._meet(spec_name, engine, after=False, name=name)
        result = effect()
        await self._meet(spec_name, engine, after=True, name=name)
        return result

    # --- operations

    @activity.defn(name=operations.MARK_COMPENSATING.name)
    async def mark_compensating(self, given: operations.RunInput) -> Done:
        self.compensating += 1
        return await self._do("mark_compensating", None, Done)

    @activity.defn(name=operations.FINISH_OPERATION.name)
    async def finish(self, given: operations.FinishInput) -> Done:
        def effect() -> Done:
            self.ended.append(given)
            return Done()

        return await self._do("finish_operation", None, effect)

    @activity.defn(name=operations.TAKE_OVER.name)
    async def take_over(self, given: operations.TakeOverInput) -> operations.TakenOver:
        targets = [
            target
            for target in self.targets()
            if self.kind is not OperationKind.UNLOAD
            or self.state.cards.get((target.engine, REF.served_name)) == "draining"
        ]
        touched = tuple(operations.TouchedEngine(target=target, ref=REF) for target in targets)
        return operations.TakenOver(
            run=RunRef(operation=given.operation, run_id=given.run_id, epoch=99),
            kind=self.kind, actor="tester", adapter=REF.adapter, version=REF.version, pool="default",
            touched=() if self._batches else touched, batches=self._batches, still_active=True,
        )  # fmt: skip

    # --- versions

    @activity.defn(name=versions.BEGIN_PUBLISH.name)
    async def begin_publish(self, given: versions.BeginPublishInput) -> Done:
        return await self._do("begin_publish", None, Done)

    @activity.defn(name=versions.RESERVE_VERSION.name)
    async def reserve(self, given: versions.ReserveInput) -> ReservedVersion:
        def effect() -> ReservedVersion:
            known = self.state.versions.get(REF.version) == "ready"
            self.state.versions[REF.version] = "ready" if known else "publishing"
            return ReservedVersion(ref=REF, already_published=known)

        return await self._do("reserve_version", None, effect)

    @activity.defn(name=versions.REGISTER_VERSION.name)
    async def register(self, given: versions.RegisterInput) -> OperationResult:
        def effect() -> OperationResult:
            self.state.versions[REF.version] = "ready"
            self.succeeded.append(given.run)
            return OperationResult(version=REF.version, already_published=given.already_published)

        return await self._do("register_version", None, effect)

    @activity.defn(name=versions.FAIL_VERSION.name)
    async def fail_version(self, given: versions.FailVersionInput) -> Done:
        def effect() -> Done:
            if self.state.versions.get(REF.version) == "publishing":
                self.state.versions[REF.version] = "failed"
            return Done()

        return await self._do("fail_version", None, effect)

    # --- artifacts

    @activity.defn(name=artifacts.STAGE_SOURCE.name)
    async def stage_source(self, given: artifacts.StageInput) -> artifacts.StagedArtifact:
        def effect() -> artifacts.StagedArtifact:
            file = ManifestFile(path="adapter_model.safetensors", size=1, sha256="ab" * 32)
            traits = AdapterTraits(
                peft_base_model=None,
                rank=8,
                alpha=16,
                target_modules=("q_proj",),
                dtype="F32",
                tensors=2,
                parameters=9,
            )
            return artifacts.StagedArtifact(
                manifest=Manifest(digest=DIGEST, files=(file,)), traits=traits, step=_step("fetch")
            )

        return await self._do("stage_source", None, effect)

    @activity.defn(name=artifacts.UPLOAD_ARTIFACT.name)
    async def upload(self, given: artifacts.UploadInput) -> artifacts.UploadedArtifact:
        def effect() -> artifacts.UploadedArtifact:
            self.state.stored.add(given.ref.digest)
            return artifacts.UploadedArtifact(artifact_uri="s3://b/a", step=_step("upload"))

        return await self._do("upload_artifact", None, effect)

    # --- cards

    @activity.defn(name=cards.PLAN_LOAD.name)
    async def plan_load(self, given: cards.PlanLoadInput) -> LoadPlan:
        def effect() -> LoadPlan:
            targets = () if self._batches else self.targets()
            facts = {"batches": self._batches, "engines": len(self.state.engines)} if self._batches else {}
            return LoadPlan(ref=REF, pool="default", base_model="tiny", targets=targets, **facts)

        return await self._do("plan_load", None, effect)

    @activity.defn(name=cards.STAGE_CARD.name)
    async def stage_card(self, given: cards.CardInput) -> Done:
        def effect() -> Done:
            self.state.cards.setdefault((given.target.engine, given.ref.served_name), "staged")
            return Done()

        return await self._do("stage_card", given.target.engine, effect)

    @activity.defn(name=cards.RETRACT_CARD.name)
    async def retract_card(self, given: cards.CardInput) -> Done:
        def effect() -> Done:
            key = (given.target.engine, given.ref.served_name)
            if self.state.cards.get(key) == "staged":
                del self.state.cards[key]
            return Done()

        return await self._do("retract_card", given.target.engine, effect)

    @activity.defn(name=cards.COMMIT_LOAD.name)
    async def commit_load(self, given: cards.CommitLoadInput) -> OperationResult:
        def effect() -> OperationResult:
            engines = tuple(target.engine for target in given.ready)
            failed = given.failed
            if given.plan.batches:
                engines = tuple(name for name in self.state.engines if name in self.ready)
                failed = {name: "not_ready" for name in self.state.engines if name not in self.ready}
            for engine in engines:
                self.state.cards[(engine, given.plan.ref.served_name)] = "serving"
            self.succeeded.append(given.run)
            return OperationResult(version=1, engines=engines, failed_engines=failed)

        return await self._do("commit_load", None, effect)

    @activity.defn(name=cards.PLAN_UNLOAD.name)
    async def plan_unload(self, given: cards.PlanUnloadInput) -> UnloadPlan:
        def effect() -> UnloadPlan:
            items = () if self._batches else self._items()
            facts = {"batches": self._batches, "cards": len(self.state.engines)} if self._batches else {}
            return UnloadPlan(adapter=REF.adapter, pool="default", items=items, versions=(1,), **facts)

        return await self._do("plan_unload", None, effect)

    def _items(self) -> tuple[UnloadItem, ...]:
        return tuple(UnloadItem(target=target, ref=REF) for target in self.targets())

    @activity.defn(name=cards.WITHDRAW_CARDS.name)
    async def withdraw(self, given: cards.UnloadPlanInput) -> Done:
        def effect() -> Done:
            for item in self._items() if given.plan.batches else given.plan.items:
                self.state.cards[(item.target.engine, item.ref.served_name)] = "draining"
            return Done()

        return await self._do("withdraw_cards", None, effect)

    @activity.defn(name=cards.RESTORE_CARDS.name)
    async def restore(self, given: cards.UnloadPlanInput) -> Done:
        def effect() -> Done:
            for key, state in self.state.cards.items():
                if state == "draining":
                    self.state.cards[key] = "serving"
            return Done()

        return await self._do("restore_cards", None, effect)

    @activity.defn(name=cards.COMMIT_UNLOAD.name)
    async def commit_unload(self, given: cards.UnloadPlanInput) -> OperationResult:
        def effect() -> OperationResult:
            for item in self._items() if given.plan.batches else given.plan.items:
                self.state.cards.pop((item.target.engine, item.ref.served_name), None)
            self.succeeded.append(given.run)
            return OperationResult(version=1)

        return await self._do("commit_unload", None, effect)

    @activity.defn(name=cards.MARK_LOST.name)
    async def mark_lost(self, given: cards.MarkLostInput) -> Done:
        def effect() -> Done:
            self.state.cards[(given.target.engine, given.ref.served_name)] = "lost"
            return Done()

        return await self._do("mark_lost", given.target.engine, effect)

    # --- hosts

    @activity.defn(name=hosts.DOWNLOAD_ADAPTER.name)
    async def download(self, given: hosts.HostInput) -> hosts.DownloadedAdapter:
        def effect() -> hosts.DownloadedAdapter:
            self.state.pins.add((given.target.engine, given.ref.served_name))
            step = _step("download", given.target.engine)
            return hosts.DownloadedAdapter(path="/cache/x", outcome="downloaded", step=step)

        return await self._do("download_adapter", given.target.engine, effect, given.ref.served_name)

    @activity.defn(name=hosts.RELEASE_ADAPTER.name)
    async def release(self, given: hosts.HostInput) -> hosts.HostDone:
        def effect() -> hosts.HostDone:
            if given.ref.served_name not in self.state.engines[given.target.engine]:
                self.state.pins.discard((given.target.engine, given.ref.served_name))
            return hosts.HostDone(step=_step("release", given.target.engine))

        return await self._do("release_adapter", given.target.engine, effect)

    @activity.defn(name=hosts.LOAD_ADAPTER.name)
    async def load(self, given: hosts.LoadAdapterInput) -> hosts.LoadedAdapter:
        def effect() -> hosts.LoadedAdapter:
            held = self.state.engines[given.target.engine]
            known = given.ref.served_name in held
            held.setdefault(given.ref.served_name, given.run.operation)
            self.state.draining.discard((given.target.engine, given.ref.served_name))
            steps = (_step("load", given.target.engine), _step("verify", given.target.engine))
            return hosts.LoadedAdapter(outcome="already_loaded" if known else "loaded", steps=steps)

        return await self._do("load_adapter", given.target.engine, effect, given.ref.served_name)

    @activity.defn(name=hosts.UNLOAD_ADAPTER.name)
    async def unload(self, given: hosts.UnloadAdapterInput) -> hosts.UnloadedAdapter:
        name = given.ref.served_name

        def effect() -> hosts.UnloadedAdapter:
            held = self.state.engines[given.target.engine]
            steps = (_step("remove", given.target.engine),)
            if name not in held:
                return hosts.UnloadedAdapter(outcome="not_loaded", steps=steps)
            if given.own_only and held[name] != given.run.operation:
                return hosts.UnloadedAdapter(outcome="not_owned", steps=steps)
            del held[name]
            self.state.draining.discard((given.target.engine, name))
            return hosts.UnloadedAdapter(outcome="unloaded", steps=steps)

        if not given.own_only:
            self.state.draining.add((given.target.engine, name))
        return await self._do("unload_adapter", given.target.engine, effect)

    @activity.defn(name=hosts.RESUME_ADAPTER.name)
    async def resume(self, given: hosts.HostInput) -> hosts.HostDone:
        def effect() -> hosts.HostDone:
            self.state.draining.discard((given.target.engine, given.ref.served_name))
            return hosts.HostDone(step=_step("resume", given.target.engine))

        return await self._do("resume_adapter", given.target.engine, effect)

    @activity.defn(name=collection.RETIRE_VERSIONS.name)
    async def retire_versions(self, given: collection.RetireInput) -> collection.Retired:
        return await self._do("retire_versions", None, lambda: collection.Retired(versions=("greeter@1",)))

    @activity.defn(name=collection.FIND_GARBAGE.name)
    async def find_garbage(self, given: collection.FindGarbageInput) -> collection.FoundGarbage:
        def effect() -> collection.FoundGarbage:
            agents = tuple(target.agent for target in self.targets())
            return collection.FoundGarbage(
                digests=tuple(sorted(self.state.stored)), uploads=1, staged=0, agents=agents
            )

        return await self._do("find_garbage", None, effect)

    @activity.defn(name=collection.DELETE_ARTIFACT.name)
    async def delete_artifact(self, given: collection.DeleteArtifactInput) -> collection.DeletedArtifact:
        def effect() -> collection.DeletedArtifact:
            self.state.stored.discard(given.digest)
            return collection.DeletedArtifact(deleted=True, bytes=10)

        return await self._do("delete_artifact", None, effect)

    @activity.defn(name=collection.REMOVE_UPLOAD.name)
    async def remove_upload(self, given: collection.RemoveUploadInput) -> collection.RemovedUpload:
        def effect() -> collection.RemovedUpload:
            self.removed_uploads.append(given.session)
            return collection.RemovedUpload(removed=True, bytes=10)

        return await self._do("remove_upload", None, effect)

    @activity.defn(name=collection.COLLECT_CACHE.name)
    async def collect_cache(self, given: collection.CollectCacheInput) -> collection.CollectedCache:
        gone = collection.EvictedAdapter(served_name="greeter@1", digest=DIGEST, bytes=5, reason="age")
        found = collection.CollectedCache(agent=given.agent, evicted=(gone,), count=1, bytes=5)
        engine = given.agent.removeprefix("agent-of-")
        return await self._do("collect_cache", engine, lambda: found)

    @activity.defn(name=collection.RECORD_COLLECTION.name)
    async def record_collection(self, given: collection.RecordCollectionInput) -> Done:
        def effect() -> Done:
            self.collections.append(given)
            return Done()

        return await self._do("record_collection", None, effect)

    # --- reconcile

    @activity.defn(name=reconcile.BEGIN_LOOK.name)
    async def begin_look(self, given: reconcile.BeginLookInput) -> Look:
        def effect() -> Look:
            target = next((one for one in self.targets() if one.engine == given.engine), None)
            return Look(
                engine=given.engine, target=target, begun_at=datetime.now(UTC), requested=1, drain_seconds=1
            )

        return await self._do("begin_look", given.engine, effect)

    @activity.defn(name=reconcile.OBSERVE_ENGINE.name)
    async def observe(self, given: reconcile.ObserveInput) -> EngineObservation:
        def effect() -> EngineObservation:
            held = tuple(
                HeldAdapter(
                    adapter=name.partition("@")[0], version=1, digest=DIGEST, int_id=7,
                    serving=(given.target.engine, name) not in self.state.draining, operation=operation,
                )
                for name, operation in sorted(self.state.engines[given.target.engine].items())
            )  # fmt: skip
            return EngineObservation(incarnation=given.target.incarnation, held=held)

        return await self._do("observe_engine", given.target.engine, effect)

    @activity.defn(name=reconcile.COMPARE_ENGINE.name)
    async def compare(self, given: reconcile.CompareInput) -> Looked:
        def effect() -> Looked:
            assert given.look.target is not None
            held = {one.served_name: one.ref for one in given.seen.held}
            engine = given.look.engine
            missing = [
                ref for name, ref in self.wanted.items() if self.state.cards.get((engine, name)) != "serving"
            ]
            kinds = [
                *((DriftKind.MISSING, None, ref) for ref in missing),
                *((DriftKind.LEFTOVER, ref, None) for name, ref in held.items() if name not in self.wanted),
            ]
            begun = [
                Repair(
                    run=RunRef(operation=f"repair-{number}", run_id=given.run_id, epoch=100 + number),
                    kind=kind, target=given.look.target, pool="default", take_out=out, put_in=ref, attempt=1,
                )
                for number, (kind, out, ref) in enumerate(kinds)
            ]  # fmt: skip
            return Looked(repairs=tuple(one for one in begun if one.served_name not in given.under_way))

        return await self._do("compare_engine", given.look.engine, effect)

    @activity.defn(name=reconcile.MAKE_GOOD.name)
    async def make_good(self, given: reconcile.MakeGoodInput) -> Made:
        def effect() -> Made:
            unwanted = [
                one.served_name for one in given.repairs if one.put_in and one.served_name not in self.wanted
            ]
            good = [one for one in given.repairs if one.served_name not in unwanted]
            for one in good:
                if one.put_in:
                    self.state.cards[(one.target.engine, one.served_name)] = "serving"
            return Made(good=tuple(one.served_name for one in good), unwanted=tuple(unwanted))

        return await self._do("make_repairs_good", given.repairs[0].target.engine, effect)

    @activity.defn(name=reconcile.NOTE_FAILED.name)
    async def note_failed(self, given: reconcile.NoteFailedInput) -> Done:
        def effect() -> Done:
            self.failed_repairs.append(given)
            return Done()

        return await self._do("note_failed_repair", given.repair.target.engine, effect)

    @activity.defn(name=reconcile.END_LOOK.name)
    async def end_look(self, given: reconcile.EndLookInput) -> reconcile.EndedLook:
        def effect() -> reconcile.EndedLook:
            self.ended_looks.append(given)
            engine = given.look.engine
            serving = {
                name
                for (where, name), state in self.state.cards.items()
                if (where, state) == (engine, "serving")
            }
            as_wanted = set(self.wanted) == serving == set(self.state.engines[engine])
            return reconcile.EndedLook(as_wanted=as_wanted and given.failure is None)

        return await self._do("end_look", given.look.engine, effect)

    @activity.defn(name=reconcile.SCAN_FLEET.name)
    async def scan_fleet(self, given: reconcile.ScanInput) -> Scanned:
        names = sorted(name for name in self.state.engines if name > given.after)
        found = Scanned(engines=1, differing=tuple(names[:1]), next=names[0] if len(names) > 1 else None)
        return await self._do("scan_fleet", None, lambda: found)

    # --- batches of wide operations

    @activity.defn(name=batches.TAKE_BATCH.name)
    async def take_batch(self, given: batches.BatchInput) -> EngineBatch:
        return await self._do("take_batch", None, lambda: EngineBatch(items=self._batch(given.number)))

    def _batch(self, number: int) -> tuple[BatchItem, ...]:
        targets = self.targets()[number * self.batch_size : (number + 1) * self.batch_size]
        return tuple(BatchItem(target=target, ref=REF) for target in targets)

    @activity.defn(name=batches.STAGE_CARDS.name)
    async def stage_cards(self, given: batches.StageCardsInput) -> batches.StagedCards:
        def effect() -> batches.StagedCards:
            for engine in given.loaded:
                self.state.cards.setdefault((engine, REF.served_name), "staged")
                self.ready.add(engine)
            self.noted += given.steps
            return batches.StagedCards()

        return await self._do("stage_cards", None, effect)

    @activity.defn(name=batches.RETRACT_CARDS.name)
    async def retract_cards(self, given: batches.RetractCardsInput) -> Done:
        def effect() -> Done:
            for item in self._batch(given.number):
                key = (item.target.engine, REF.served_name)
                named = given.engines is None or item.target.engine in given.engines
                if named and self.state.cards.get(key) == "staged":
                    del self.state.cards[key]
                    self.ready.discard(item.target.engine)
            return Done()

        return await self._do("retract_cards", None, effect)

    @activity.defn(name=batches.MARK_CARDS_LOST.name)
    async def mark_cards_lost(self, given: batches.MarkCardsLostInput) -> Done:
        def effect() -> Done:
            for item in self._batch(given.number):
                if given.items is None or item.key in given.items:
                    self.state.cards[(item.target.engine, REF.served_name)] = "lost"
            return Done()

        return await self._do("mark_cards_lost", None, effect)

    @activity.defn(name=batches.NOTE_STEPS.name)
    async def note_steps(self, given: batches.NoteStepsInput) -> Done:
        def effect() -> Done:
            self.noted += given.steps
            return Done()

        return await self._do("note_steps", None, effect)

    @activity.defn(name=batches.LOAD_ON_ENGINE.name)
    async def load_on_engine(self, given: batches.LoadOnEngineWork) -> hosts.LoadedAdapter:
        host = hosts.HostInput(run=given.run, ref=given.ref, target=given.target)
        downloaded = await self.download(host)
        loaded = await self.load(hosts.LoadAdapterInput(**dict(host), path=downloaded.path, undo=given.undo))
        return hosts.LoadedAdapter(outcome=loaded.outcome, steps=(downloaded.step, *loaded.steps))

    @activity.defn(name=batches.UNLOAD_FROM_ENGINE.name)
    async def unload_from_engine(self, given: hosts.UnloadAdapterInput) -> hosts.UnloadedAdapter:
        unloaded = await self.unload(given)
        if unloaded.outcome != "not_owned":
            await self.release(hosts.HostInput(run=given.run, ref=given.ref, target=given.target))
        return unloaded

    def lifecycle_activities(self) -> list[Any]:
        """What an orchestrator does."""
        return [
            self.mark_compensating, self.finish, self.take_over, self.begin_publish, self.reserve, self.register,
            self.fail_version, self.plan_load, self.stage_card, self.retract_card,
            self.commit_load, self.plan_unload, self.withdraw, self.restore, self.commit_unload, self.mark_lost,
            self.take_batch, self.stage_cards, self.retract_cards, self.mark_cards_lost, self.note_steps,
            self.retire_versions, self.find_garbage, self.delete_artifact, self.record_collection,
            self.begin_look, self.compare, self.make_good, self.note_failed, self.end_look, self.scan_fleet,
            self.remove_upload,
        ]  # fmt: skip

    def transfer_activities(self) -> list[Any]:
        """What an orchestrator does on its queue for transfers."""
        return [self.stage_source, self.upload]

    def io_activities(self) -> list[Any]:
        """What a host's agent does on its io queue."""
        return [self.download, self.release, self.collect_cache]

    def engine_activities(self) -> list[Any]:
        """What a host's agent does on its engine queue."""
        return [
            self.load, self.unload, self.resume, self.observe, self.load_on_engine, self.unload_from_engine,
        ]  # fmt: skip


def _step(name: str, engine: str = "") -> StepReport:
    return StepReport(name=name, engine=engine, state=StepState.SUCCEEDED, attempt=1)
