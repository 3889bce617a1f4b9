"""Fetching and uploading: real staging, each kind of object store, and sources that change or take their time."""

import shutil
import threading
from pathlib import Path

import pytest
from temporalio.exceptions import CancelledError

from activities.artifacts import ArtifactActivities
from activities.interface.artifacts import StagedArtifact, StageInput, UploadInput
from activities.progress import TransferSlots
from loradock.artifacts.protocol import ObjectStore, Source
from loradock.artifacts.signatures.policy import open_signature_checks
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.core.settings import load_settings
from tests.activities.parts import Bench, Meter, SlowObjects, ref_of, refused
from tests.artifacts.samples import make_adapter
from tests.artifacts.signers import make_key, sign

LIMIT = 2**30


@pytest.fixture
def source(folder: Path) -> FileSource:
    return FileSource([folder.parent])


@pytest.fixture
def staging_root(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def activities(
    staging_root: Path, source: FileSource, objects: ObjectStore, slots: TransferSlots
) -> ArtifactActivities:
    staging = Staging(staging_root, source, max_bytes=LIMIT)
    return ArtifactActivities(staging, ArtifactStore(objects, "store://artifacts"), slots)


def staged_copies(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("sha256-*") if path.is_dir())


def upload_of(activities: ArtifactActivities, folder: Path, version: int = 1) -> UploadInput:
    """What the workflow would ask for after staging."""
    staged = Bench().run(
        activities.stage, StageInput(operation="op-1", adapter="greeter", uri=folder.as_uri())
    )
    return UploadInput(
        operation="op-1", uri=folder.as_uri(), ref=ref_of(staged.manifest.digest, version=version)
    )


def test_staging_twice_is_staging_once(
    activities: ArtifactActivities, folder: Path, staging_root: Path
) -> None:
    given = StageInput(operation="op-1", adapter="greeter", uri=folder.as_uri())
    first, second = (Bench().run(activities.stage, given) for _ in range(2))
    assert (first.manifest, first.traits) == (second.manifest, second.traits)
    assert len(staged_copies(staging_root)) == 1
    assert first.step.detail["bytes"] == first.manifest.total_size


def test_uploading_twice_is_uploading_once(
    activities: ArtifactActivities, folder: Path, objects: ObjectStore
) -> None:
    given = upload_of(activities, folder)
    first = Bench().run(activities.upload, given)
    before = [(info.key, info.size) for info in objects.list("")]
    second = Bench().run(activities.upload, given)
    assert first.artifact_uri == second.artifact_uri
    assert first.step.detail["bytes"] > 0
    assert second.step.detail["bytes"] == 0
    assert [(info.key, info.size) for info in objects.list("")] == before
    assert ArtifactStore(objects).pointer("greeter", 1) == given.ref.digest


def test_an_upload_leaves_no_staged_copy(
    activities: ArtifactActivities, folder: Path, staging_root: Path
) -> None:
    given = upload_of(activities, folder)
    Bench().run(activities.upload, given)
    assert staged_copies(staging_root) == []


def test_an_upload_whose_staged_copy_is_lost_fetches_again(
    activities: ArtifactActivities, folder: Path, staging_root: Path, objects: ObjectStore
) -> None:
    given = upload_of(activities, folder)
    shutil.rmtree(staging_root)
    uploaded = Bench().run(activities.upload, given)
    assert uploaded.step.detail["bytes"] > 0
    assert ArtifactStore(objects).has(given.ref.digest)


def test_an_upload_that_would_fetch_other_weights_is_refused(
    activities: ArtifactActivities, folder: Path, staging_root: Path, objects: ObjectStore
) -> None:
    given = upload_of(activities, folder)
    shutil.rmtree(staging_root)
    make_adapter(folder, rank=16, seed=2)
    with refused("source_changed"):
        Bench().run(activities.upload, given)
    assert list(objects.list("")) == []
    assert staged_copies(staging_root) == []


def test_another_digest_than_expected_is_refused_and_leaves_nothing(
    activities: ArtifactActivities, folder: Path, staging_root: Path
) -> None:
    given = StageInput(
        operation="op-1", adapter="greeter", uri=folder.as_uri(), expect_digest="sha256:" + "0" * 64
    )
    with refused("digest_mismatch"):
        Bench().run(activities.stage, given)
    assert staged_copies(staging_root) == []


def test_a_refused_digest_takes_nothing_from_an_upload_of_the_same_weights(
    activities: ArtifactActivities, folder: Path, objects: ObjectStore
) -> None:
    given = upload_of(activities, folder)
    other = StageInput(
        operation="op-2", adapter="greeter", uri=folder.as_uri(), expect_digest="sha256:" + "0" * 64
    )
    with refused("digest_mismatch"):
        Bench().run(activities.stage, other)
    Bench().run(activities.upload, given)
    assert ArtifactStore(objects).has(given.ref.digest)


def test_two_operations_with_the_same_weights_at_once_both_succeed(
    activities: ArtifactActivities, folder: Path, objects: ObjectStore, staging_root: Path
) -> None:
    def publish(version: int) -> UploadInput:
        given = upload_of(activities, folder, version)
        Bench().run(activities.upload, given)
        return given

    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def work(version: int) -> None:
        barrier.wait()
        try:
            publish(version)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(version,)) for version in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store = ArtifactStore(objects)
    assert len({store.pointer("greeter", version) for version in range(1, 5)}) == 1
    assert staged_copies(staging_root) == []


@pytest.fixture
def slow_source(folder: Path) -> Source:
    """The adapter behind a slow line: some seconds for all of it."""

    class SlowSource(FileSource):
        def fetch(self, uri: str, file: object, progress: object = None) -> object:  # type: ignore[override]
            opened = super().fetch
            slow = SlowObjects(_Opening(lambda _: opened(uri, file, progress)))  # type: ignore[arg-type]
            return slow.open("")

    return SlowSource([folder.parent])  # type: ignore[return-value]


class _Opening:
    def __init__(self, opened: object) -> None:
        self.open = opened


def test_heartbeats_carry_the_bytes_so_far(
    staging_root: Path, slow_source: Source, slots: TransferSlots, folder: Path, tmp_path: Path
) -> None:
    bench = Bench()
    store = ArtifactStore(FolderStore(tmp_path / "objects"))
    activities = ArtifactActivities(Staging(staging_root, slow_source, max_bytes=LIMIT), store, slots)
    staged = bench.run(activities.stage, StageInput(operation="op-1", adapter="greeter", uri=folder.as_uri()))
    assert bench.bytes == sorted(bench.bytes)
    assert 0 < bench.bytes[-1] <= staged.manifest.total_size


def test_a_cancelled_fetch_stops_soon_and_leaves_nothing(
    staging_root: Path, slow_source: Source, slots: TransferSlots, folder: Path, tmp_path: Path
) -> None:
    bench = Bench()
    store = ArtifactStore(FolderStore(tmp_path / "objects"))
    activities = ArtifactActivities(Staging(staging_root, slow_source, max_bytes=LIMIT), store, slots)
    running = bench.begin(
        activities.stage, StageInput(operation="op-1", adapter="greeter", uri=folder.as_uri())
    )
    assert bench.beating.wait(10)
    bench.cancel()
    assert isinstance(running.exception(10), CancelledError)
    assert list(staging_root.iterdir()) == []


def test_fetches_and_uploads_are_told_of_with_what_they_moved(
    staging_root: Path, source: FileSource, folder: Path, slots: TransferSlots, tmp_path: Path
) -> None:
    meter = Meter()
    staging = Staging(staging_root, source, max_bytes=LIMIT)
    store = ArtifactStore(FolderStore(tmp_path / "objects"), "store://artifacts")
    activities = ArtifactActivities(staging, store, slots, meter=meter)
    for version in (1, 2):
        Bench().run(activities.upload, upload_of(activities, folder, version))
    with refused("source_not_found"):
        nowhere = (folder.parent / "nowhere").as_uri()
        Bench().run(activities.stage, StageInput(operation="op-1", adapter="greeter", uri=nowhere))
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert meter.seen == [
        ("fetch", "moved", size, None),
        ("upload", "moved", size, None),
        ("fetch", "moved", size, None),
        ("upload", "cached", 0, None),  # the same bytes are there already
        ("fetch", "failed", 0, "source_not_found"),
    ]


def test_a_transfer_that_waits_for_its_turn_hears_a_cancel(
    activities: ArtifactActivities, folder: Path, slots: TransferSlots
) -> None:
    held = [slots.take(_NoProgress()) for _ in range(4)]  # type: ignore[arg-type]
    for one in held:
        one.__enter__()
    bench = Bench()
    running = bench.begin(
        activities.stage, StageInput(operation="op-1", adapter="greeter", uri=folder.as_uri())
    )
    assert bench.beating.wait(10)
    assert not running.done()
    bench.cancel()
    assert isinstance(running.exception(1), CancelledError)
    for one in held:
        one.__exit__(None, None, None)
    assert Bench().run(activities.stage, StageInput(operation="op-1", adapter="greeter", uri=folder.as_uri()))


class _NoProgress:
    def advance(self, size: int) -> None: ...


def test_what_a_source_lacks_comes_through_as_its_code(activities: ArtifactActivities, folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    with refused("weights_missing"):
        Bench().run(activities.stage, StageInput(operation="op-1", adapter="greeter", uri=folder.as_uri()))


def test_a_signature_is_checked_where_the_policy_asks_for_it_and_refused_before_anything_is_kept(
    staging_root: Path,
    source: FileSource,
    objects: ObjectStore,
    slots: TransferSlots,
    folder: Path,
    tmp_path: Path,
) -> None:
    make_key(tmp_path / "release.key")
    policy = tmp_path / "signatures.toml"
    policy.write_text(
        '[[rules]]\nadapters = "prod-*"\npolicy = "require"\nkeys = ["release.pub"]\n'
        '[[rules]]\nadapters = "lab-*"\npolicy = "warn"\nkeys = ["release.pub"]\n'
    )
    activities = ArtifactActivities(
        Staging(staging_root, source, max_bytes=LIMIT),
        ArtifactStore(objects, "store://artifacts"),
        slots,
        signatures=open_signature_checks(load_settings(signature_policy=policy)),
    )

    def stage(adapter: str) -> StagedArtifact:
        given = StageInput(operation="op-1", adapter=adapter, uri=folder.as_uri())
        return Bench().run(activities.stage, given)

    with refused("signature_missing"):
        stage("prod-greeter")
    assert staged_copies(staging_root) == []
    lab, other = stage("lab-greeter"), stage("greeter")
    assert lab.signature is not None
    assert (lab.signature.status, lab.step.detail["signature"]) == ("unsigned", "unsigned")
    assert (other.signature, "signature" in other.step.detail) == (None, False)

    sign(folder, tmp_path / "release.key")
    signed = stage("prod-greeter")
    assert signed.signature is not None
    assert (signed.signature.status, signed.manifest.digest) == ("verified", lab.manifest.digest)
    # The staged copy of the unsigned publish is there: it is no way around the check of the next one.
    (folder / "model.sig").unlink()
    with refused("signature_missing"):
        stage("prod-greeter")
