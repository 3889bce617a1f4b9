"""The collector's activities on a real registry and a real store: what is named stays, the rest goes."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from temporalio.testing import ActivityEnvironment

from activities.collection import CollectionActivities
from activities.interface.collection import (
    CollectionRules,
    DeleteArtifactInput,
    FindGarbageInput,
    FoundGarbage,
    RemoveUploadInput,
    RetireInput,
)
from loradock.artifacts.sources.registry import SourceSet
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.uploads.folder import FolderUploads
from loradock.core.ids import new_upload_id
from loradock.core.models import Manifest, ManifestFile
from loradock.registry import retirement, uploads, versions
from loradock.registry.database import Database
from tests.artifacts.helpers import manifest_of, refused
from tests.artifacts.samples import make_adapter
from tests.registry import world as registry_world
from tests.registry.world import World

RULES = CollectionRules(grace_seconds=0, leftovers_seconds=0)


class Place:
    """A registry and a store with the same artifacts."""

    def __init__(self, database: Database, tmp_path: Path) -> None:
        self.world = World(database)
        self.tmp_path = tmp_path
        self.store = ArtifactStore(FolderStore(tmp_path / "store"))
        staging = Staging(tmp_path / "staging", SourceSet({}), max_bytes=2**40)
        self.activities = CollectionActivities(database, self.store, staging)
        self.environment = ActivityEnvironment()

    async def publish(self, adapter: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> Manifest:
        folder = self.tmp_path / f"adapter-{seed}"
        if not folder.exists():
            make_adapter(folder, seed=seed)
        manifest = manifest_of(folder)
        with monkeypatch.context() as patch:
            patch.setattr(registry_world, "manifest", lambda _: manifest)
            await self.world.publish(adapter, seed=str(seed))
        self.store.upload(folder, manifest)
        return manifest

    async def retire(self, adapter: str, version: int) -> None:
        async with self.world.database.transaction() as tx:
            await retirement.retire(tx, adapter, version, "alice")

    async def find(self) -> FoundGarbage:
        return await self.environment.run(self.activities.find, FindGarbageInput(rules=RULES))

    async def collect(self) -> list[str]:
        deleted = []
        for digest in (await self.find()).digests:
            done = await self.environment.run(self.activities.delete, DeleteArtifactInput(digest=digest))
            if done.deleted:
                deleted.append(digest)
        return deleted


@pytest.fixture
async def place(database: Database, tmp_path: Path) -> AsyncIterator[Place]:
    yield Place(database, tmp_path)


async def test_the_same_weights_are_stored_once_and_go_with_the_last_who_points_to_them(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await place.publish("greeter", 1, monkeypatch)
    assert await place.publish("other", 1, monkeypatch) == one
    two = await place.publish("greeter", 2, monkeypatch)
    assert place.store.digests() == {one.digest, two.digest}
    await place.retire("greeter", 1)
    assert await place.collect() == []
    await place.retire("other", 1)
    assert await place.collect() == [one.digest]
    assert place.store.digests() == {two.digest}
    assert not place.store.has(one.digest)
    assert await place.collect() == []
    async with place.world.database.read() as tx:
        kept = await versions.get_version(tx, "greeter", 1)
    assert (kept.state, kept.digest) == ("retired", one.digest)
    assert (await place.world.actions()).count("artifact.deleted") == 1
    again = await place.publish("greeter", 1, monkeypatch)
    assert place.store.manifest(again.digest) == one
    assert await place.collect() == []


async def test_a_deletion_that_was_found_due_is_not_done_when_a_publish_came(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await place.publish("greeter", 1, monkeypatch)
    await place.retire("greeter", 1)
    assert (await place.find()).digests == (one.digest,)
    await place.publish("greeter", 1, monkeypatch)
    done = await place.environment.run(place.activities.delete, DeleteArtifactInput(digest=one.digest))
    assert not done.deleted
    assert place.store.has(one.digest)


async def test_a_deletion_that_died_in_the_middle_is_gone_on_with(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await place.publish("greeter", 1, monkeypatch)
    await place.retire("greeter", 1)
    (due,) = (await place.find()).digests

    def die(digest: str, progress: object) -> int:
        raise RuntimeError

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(place.store, "delete", die)
        await place.environment.run(place.activities.delete, DeleteArtifactInput(digest=due))
    with refused("store_unavailable"):  # no publish counts on half deleted bytes
        await place.publish("other", 1, monkeypatch)
    assert await place.collect() == [one.digest]


async def test_retention_leaves_the_newest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2, 3):
        await place.publish("greeter", seed, monkeypatch)
    given = RetireInput(rules=CollectionRules(keep_versions=2))
    assert (await place.environment.run(place.activities.retire, given)).versions == ("greeter@1",)
    assert (await place.environment.run(place.activities.retire, RetireInput(rules=RULES))).versions == ()


async def _session(
    place: Place, seconds: float = 600, *, files: int = 2, complete: bool = True, adapter: str = "greeter"
) -> str:
    """A session with bytes in the store, begun so that it lasts for so long."""
    uploads_place = FolderUploads(FolderStore(place.tmp_path / "store"), max_bytes=1000)
    content = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
    declared = [
        ManifestFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in content.items()
    ]
    new = uploads.NewUpload(
        id=new_upload_id(), actor="alice", adapter=adapter, digest=uploads_place.check(declared).digest,
        files=tuple(declared), seconds=seconds,
    )  # fmt: skip
    async with place.world.database.transaction() as tx:
        await uploads.open_session(tx, new)
    for file in declared[:files]:
        with uploads_place.writer(new.id, file, 0) as writer:
            writer.write(content[file.path] if complete else content[file.path][:-1])
            writer.finish()
    if complete:
        async with place.world.database.transaction() as tx:
            await uploads.mark_complete(tx, new.id, "alice")
    return new.id


async def test_uploads_go_when_nobody_counts_on_them_and_nothing_of_a_killed_one_stays(place: Place) -> None:
    area = place.store.uploads
    open_yet, whole = await _session(place, complete=False), await _session(place, adapter="other")
    run = await place.world.start(registry_world.new_publish("third"))
    published = await _session(place, adapter="third")
    async with place.world.database.transaction() as tx:
        await uploads.bind(tx, published, run.operation)
    # Killed: after its time, in the middle of a removal, and before a row knew of it.
    expired = await _session(place, 600, adapter="late", complete=False)
    async with place.world.database.transaction() as tx:
        await tx.session.execute(text("UPDATE uploads SET expires_at = now() WHERE adapter = 'late'"))
    half = await _session(place, adapter="half")
    async with place.world.database.transaction() as tx:
        await tx.session.execute(
            text("UPDATE uploads SET state = 'ended', ended_at = now() WHERE adapter = 'half'")
        )
    unknown = new_upload_id()
    FolderStore(place.tmp_path / "store").put_if_absent(f"uploads/{unknown}/README.md", b"x")

    assert area.sessions() == {open_yet, whole, published, expired, half, unknown}
    assert (await place.find()).uploads == 3
    assert area.sessions() == {open_yet, whole, published}
    assert (await place.find()).uploads == 0

    given = RemoveUploadInput(session=published)
    assert not (await place.environment.run(place.activities.remove_upload, given)).removed
    await place.world.finish(run)
    for _ in range(2):  # tried again: the answer was lost, not the work
        assert (await place.environment.run(place.activities.remove_upload, given)).removed
    assert area.sessions() == {open_yet, whole}
    ended = [action for action in await place.world.actions() if action == "upload.ended"]
    assert len(ended) == 2
