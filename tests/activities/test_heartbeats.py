"""Every activity that workflows call with a heartbeat timeout heartbeats, whatever it waits for.

Which those are is read from the recorded histories of all workflows. Each is run on real parts, and each call that may take
long is held up until heartbeats have come.
"""

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from activities import heartbeats, progress
from activities.artifacts import ArtifactActivities
from activities.batches import BatchActivities
from activities.cards import CardActivities
from activities.collection import CollectionActivities
from activities.engines import EngineActivities
from activities.host_cache import CacheActivities
from activities.host_work import HostWorkActivities
from activities.interface.artifacts import StageInput, UploadInput
from activities.interface.batches import LoadOnEngineWork
from activities.interface.collection import (
    CollectCacheInput,
    CollectionRules,
    DeleteArtifactInput,
    FindGarbageInput,
    RemoveUploadInput,
    RetireInput,
)
from activities.interface.hosts import HostInput, LoadAdapterInput, UnloadAdapterInput
from activities.operations import OperationActivities
from activities.progress import TransferSlots
from activities.reconcile import ReconcileActivities
from activities.versions import VersionActivities
from loradock.artifacts.cache import HostCache
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.uploads.area import UploadArea
from loradock.core.ids import new_upload_id
from loradock.core.models import VersionRef
from loradock.registry import retirement, tombstones, uploads
from loradock.registry.database import Database
from tests.activities.conftest import Running
from tests.activities.parts import RUN, Bench, Reports, ref_of, target
from tests.artifacts.helpers import manifest_of
from tests.registry.world import World, new_publish
from workflows.calls import DEATH_SHOWS

HISTORIES = Path(__file__).parents[1] / "workflows" / "histories"
BEATS = 3
RULES = CollectionRules(keep_versions=1, grace_seconds=0, leftovers_seconds=0)


def heartbeat_timeouts() -> dict[str, set[str]]:
    """The heartbeat timeouts with which workflows scheduled each activity."""
    found: dict[str, set[str]] = {}
    for file in HISTORIES.glob("*.json"):
        for event in json.loads(file.read_text())["events"]:
            if scheduled := event.get("activityTaskScheduledEventAttributes"):
                timeouts = found.setdefault(scheduled["activityType"]["name"], set())
                timeouts.add(scheduled["heartbeatTimeout"])
    return found


@dataclass
class Rig:
    """All activities that touch more than the registry, on real parts."""

    world: World
    store: ArtifactStore
    staging: Staging
    cache: HostCache
    engine: Running
    executor: ThreadPoolExecutor
    folder: Path

    def __post_init__(self) -> None:
        slots, engines, reports = TransferSlots(2), {"e1": self.engine.driver}, Reports()
        self.on_artifacts = ArtifactActivities(self.staging, self.store, slots)
        self.on_cache = CacheActivities(self.cache, engines, reports, slots)
        self.on_engines = EngineActivities(engines, reports)
        self.on_both = HostWorkActivities(self.on_cache, self.on_engines, self.executor)
        self.on_garbage = CollectionActivities(self.world.database, self.store, self.staging)

    @property
    def ref(self) -> VersionRef:
        return ref_of(manifest_of(self.folder).digest)

    async def words(self) -> dict[str, Any]:
        return {"run": RUN, "ref": self.ref, "target": target("e1", await self.engine.life())}

    async def ready(self, name: str) -> tuple[Callable[[Any], Any], Any]:
        """The activity, and an input with which it has everything to do."""
        made: tuple[Callable[[Any], Any], Any] = await getattr(self, f"_{name}")()
        return made

    async def _stage_source(self) -> Any:
        given = StageInput(operation="op-1", adapter="greeter", uri=self.folder.as_uri())
        return self.on_artifacts.stage, given

    async def _upload_artifact(self) -> Any:
        stage, given = await self._stage_source()
        await asyncio.to_thread(Bench().run, stage, given)
        uploaded = UploadInput(operation="op-1", uri=self.folder.as_uri(), ref=self.ref)
        return self.on_artifacts.upload, uploaded

    async def _download_adapter(self) -> Any:
        self.store.upload(self.folder, manifest_of(self.folder))
        return self.on_cache.download, HostInput(**await self.words())

    async def _downloaded(self) -> str:
        download, given = await self._download_adapter()
        downloaded = await asyncio.to_thread(Bench().run, download, given)
        return str(downloaded.path)

    async def _release_adapter(self) -> Any:
        await self._downloaded()
        return self.on_cache.release, HostInput(**await self.words())

    async def _collect_cache(self) -> Any:
        return self.on_cache.collect, CollectCacheInput(agent="host-1", rules=RULES)

    async def _load_adapter(self) -> Any:
        path = await self._downloaded()
        return self.on_engines.load, LoadAdapterInput(**await self.words(), path=path)

    async def _loaded(self) -> None:
        load, given = await self._load_adapter()
        await Bench().run(load, given)

    async def _unload_adapter(self) -> Any:
        await self._loaded()
        return self.on_engines.unload, UnloadAdapterInput(**await self.words(), drain_seconds=0)

    async def _resume_adapter(self) -> Any:
        await self._loaded()
        return self.on_engines.resume, HostInput(**await self.words())

    async def _load_on_engine(self) -> Any:
        await self._download_adapter()
        return self.on_both.load, LoadOnEngineWork(**await self.words())

    async def _unload_from_engine(self) -> Any:
        _, given = await self._unload_adapter()
        return self.on_both.unload, given

    async def _retire_versions(self) -> Any:
        for seed in ("one", "two"):
            await self.world.publish(seed=seed)
        return self.on_garbage.retire, RetireInput(rules=RULES)

    async def _find_garbage(self) -> Any:
        FolderStore(self.folder.parents[1] / "store").put_if_absent(f"uploads/{new_upload_id()}/x", b"x")
        return self.on_garbage.find, FindGarbageInput(rules=RULES)

    async def _delete_artifact(self) -> Any:
        manifest = manifest_of(self.folder)
        self.store.upload(self.folder, manifest)
        async with self.world.database.transaction() as tx:
            await tombstones.mark(tx, {manifest.digest}, 0)
        return self.on_garbage.delete, DeleteArtifactInput(digest=manifest.digest)

    async def _remove_upload(self) -> Any:
        run = await self.world.start(new_publish())
        manifest = manifest_of(self.folder)
        new = uploads.NewUpload(
            id=new_upload_id(), actor="alice", adapter="greeter", digest=manifest.digest, files=manifest.files,
            seconds=600,
        )  # fmt: skip
        async with self.world.database.transaction() as tx:
            await uploads.open_session(tx, new)
            await uploads.mark_complete(tx, new.id, "alice")
            await uploads.bind(tx, new.id, run.operation)
        await self.world.finish(run)
        return self.on_garbage.remove_upload, RemoveUploadInput(session=new.id)


CALLS: dict[str, list[Callable[[Rig], tuple[Any, str]]]] = {
    "stage_source": [lambda rig: (rig.staging, "stage")],
    "upload_artifact": [
        lambda rig: (rig.staging, "hold"),
        lambda rig: (rig.store, "upload"),
        lambda rig: (rig.store, "publish_pointer"),
        lambda rig: (rig.staging, "discard"),
    ],
    "download_adapter": [lambda rig: (rig.cache, "pin"), lambda rig: (rig.cache, "ensure")],
    "release_adapter": [lambda rig: (rig.engine.driver, "state"), lambda rig: (rig.cache, "release")],
    "collect_cache": [lambda rig: (rig.cache, "collect")],
    "load_adapter": [lambda rig: (rig.engine.driver, "load"), lambda rig: (rig.engine.driver, "probe")],
    "unload_adapter": [lambda rig: (rig.engine.driver, "drain"), lambda rig: (rig.engine.driver, "unload")],
    "resume_adapter": [lambda rig: (rig.engine.driver, "resume")],
    "load_on_engine": [
        lambda rig: (rig.cache, "pin"),
        lambda rig: (rig.cache, "ensure"),
        lambda rig: (rig.engine.driver, "load"),
        lambda rig: (rig.engine.driver, "probe"),
    ],
    "unload_from_engine": [
        lambda rig: (rig.engine.driver, "drain"),
        lambda rig: (rig.engine.driver, "unload"),
        lambda rig: (rig.engine.driver, "state"),
        lambda rig: (rig.cache, "release"),
    ],
    "retire_versions": [lambda _: (retirement, "with_more_than"), lambda _: (retirement, "retire_expired")],
    "find_garbage": [
        lambda rig: (rig.store, "digests"),
        lambda _: (tombstones, "mark"),
        lambda rig: (rig.store, "sweep"),
        lambda _: (UploadArea, "sessions"),
        lambda _: (uploads, "end_useless"),
        lambda _: (UploadArea, "remove"),
        lambda rig: (rig.staging, "sweep"),
    ],
    "delete_artifact": [
        lambda _: (tombstones, "begin_delete"),
        lambda rig: (rig.store, "delete"),
        lambda _: (tombstones, "end_delete"),
    ],
    "remove_upload": [lambda _: (uploads, "end_published"), lambda _: (UploadArea, "remove")],
}
"""Of each activity, the calls that can take long."""


class Held:
    """Holds a call up until the activity has heartbeaten a few times more; then it goes on."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.outcome = "never called"

    def put(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        async def awaited(*args: Any, **named: Any) -> Any:
            await asyncio.to_thread(self.wait)
            return await original(*args, **named)

        @functools.wraps(original)
        def called(*args: Any, **named: Any) -> Any:
            self.wait()
            return original(*args, **named)

        patch.setattr(owner, name, awaited if asyncio.iscoroutinefunction(original) else called)

    def wait(self) -> None:
        wanted, until = len(self._bench.beats) + BEATS, time.monotonic() + 8
        while len(self._bench.beats) < wanted:
            if time.monotonic() > until:
                self.outcome = "silent"
                return
            time.sleep(0.01)
        self.outcome = "heartbeats"


@pytest.fixture
async def rig(database: Database, engine: Running, folder: Path, tmp_path: Path) -> AsyncIterator[Rig]:
    store = ArtifactStore(FolderStore(tmp_path / "store"), "store://x")
    staging = Staging(tmp_path / "staging", FileSource([folder.parent]), max_bytes=2**30)
    with ThreadPoolExecutor(1) as executor:
        yield Rig(
            World(database), store, staging, HostCache(tmp_path / "cache", store), engine, executor, folder
        )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Quick heartbeats: what is silent for seconds is silent for ever."""
    monkeypatch.setattr(heartbeats, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(progress, "PULSE_SECONDS", 0.02)
    return Bench()


async def run(bench: Bench, work: Callable[[Any], Any], given: Any) -> None:
    if asyncio.iscoroutinefunction(work):
        await bench.run(work, given)
    else:
        await asyncio.to_thread(bench.run, work, given)


@pytest.mark.parametrize("name", CALLS)
async def test_an_activity_heartbeats_while_any_call_of_it_takes_long(
    rig: Rig, bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    work, given = await rig.ready(name)
    held: dict[str, Held] = {}
    for owner, call in (place(rig) for place in CALLS[name]):
        held[call] = Held(bench)
        held[call].put(monkeypatch, owner, call)
    await run(bench, work, given)
    assert {call: one.outcome for call, one in held.items()} == dict.fromkeys(held, "heartbeats")


async def test_a_load_heartbeats_while_it_waits_for_a_thread(rig: Rig, bench: Bench) -> None:
    work, given = await rig.ready("load_on_engine")
    held = Held(bench)
    rig.executor.submit(held.wait)
    await run(bench, work, given)
    assert held.outcome == "heartbeats"


def names_of(*classes: type) -> set[str]:
    """The activities of these classes."""
    made = [getattr(one, "__temporal_activity_definition", None) for c in classes for one in vars(c).values()]
    return {one.name for one in made if one is not None}


def test_every_activity_that_has_to_heartbeat_is_looked_at_here() -> None:
    timeouts = heartbeat_timeouts()
    on_registry = names_of(
        OperationActivities, VersionActivities, CardActivities, BatchActivities, ReconcileActivities
    ) | {"record_collection"}
    # The lifecycle worker heartbeats for these, by just this timeout: test_liveness.py.
    by_worker = {"0s", f"{DEATH_SHOWS.total_seconds():.0f}s"}
    assert {name for name in on_registry & timeouts.keys() if not timeouts[name] <= by_worker} == set()
    assert {name for name, found in timeouts.items() if found != {"0s"}} - on_registry == set(CALLS)
    others = names_of(
        ArtifactActivities, CacheActivities, EngineActivities, HostWorkActivities, CollectionActivities
    )
    assert others - on_registry - set(CALLS) == {"observe_engine"}
    assert timeouts["observe_engine"] == {"0s"}
