"""The cache within its limits: what goes, what never goes, what is refused, what is hashed again."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from loradock.artifacts.cache import CacheOutcome, HostCache
from loradock.artifacts.cache_policy import CachePolicy, VerifyPolicy
from loradock.artifacts.cache_upkeep import CacheUpkeep
from loradock.artifacts.leases import PINNED, Holder
from loradock.artifacts.promises import promise, promised
from loradock.artifacts.protocol import Reader
from loradock.artifacts.record import boot_id, read_record, write_record
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.core.models import Manifest, VersionRef
from tests.artifacts.helpers import Counting, manifest_of, refused
from tests.artifacts.samples import make_adapter

WEIGHTS = "adapter_model.safetensors"
ENGINE = Holder("engine-1", "life-1")


class World:
    """A store with a few artifacts of one size, and a cache whose last uses are an hour apart."""

    def __init__(self, tmp_path: Path, count: int = 3) -> None:
        self.objects = FolderStore(tmp_path / "objects")
        self.store = ArtifactStore(self.objects)
        self.root = tmp_path / "cache"
        self.manifests: list[Manifest] = []
        self.refs: list[VersionRef] = []
        for number in range(count):
            folder = make_adapter(tmp_path / f"adapter-{number}", layers=4, hidden=512, seed=number)
            manifest = manifest_of(folder)
            self.store.upload(folder, manifest)
            self.manifests.append(manifest)
            ref = VersionRef(adapter="greeter", version=number + 1, digest=manifest.digest, int_id=number + 1)
            self.refs.append(ref)
        self.size = max(manifest.total_size for manifest in self.manifests)

    def cache(self, **policy: object) -> HostCache:
        return HostCache(self.root, self.store, CachePolicy(**policy))  # type: ignore[arg-type]

    def fill(self, *numbers: int) -> None:
        """Have these, the first one used longest ago."""
        for age, number in enumerate(reversed(numbers)):
            path = self.cache().ensure(self.refs[number]).path
            then = time.time() - age * 3600
            os.utime(path.with_name(path.name + ".record.json"), (then, then))

    def there(self) -> list[int]:
        return [number for number, ref in enumerate(self.refs) if self.cache().path(ref).is_dir()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def blocks(size: int) -> int:
    """Room for `size` bytes in a few files."""
    return size + 64 * 1024


def test_the_least_recently_used_goes_when_all_are_too_large(world: World) -> None:
    world.fill(1, 0)
    world.cache(max_bytes=2 * blocks(world.size)).ensure(world.refs[2])
    assert world.there() == [0, 2]
    assert world.cache().figures().evicted == 1


def test_what_is_leased_or_pinned_by_hand_never_goes(world: World) -> None:
    world.fill(1, 0)
    world.cache().pin(world.refs[1], ENGINE)
    upkeep = CacheUpkeep(world.root, CachePolicy(max_bytes=1, max_age_seconds=0.001))
    entry = next(entry for entry in upkeep.entries() if entry.served_name == "greeter@1")
    upkeep.pin(entry.places)
    assert upkeep.collect(leftovers_older_than_seconds=3600) == []
    assert world.there() == [0, 1]
    assert world.cache().holders(world.refs[0]) == (PINNED,)
    upkeep.unpin(entry.places)
    assert [one.reason for one in upkeep.collect(leftovers_older_than_seconds=3600)] == ["age"]
    assert world.there() == [1]


def test_an_adapter_that_cannot_fit_is_refused_with_need_and_room(world: World) -> None:
    world.fill(0)
    world.cache().pin(world.refs[0], ENGINE)
    with refused("cache_full") as caught:
        world.cache(max_bytes=blocks(world.size)).ensure(world.refs[1])
    details = caught.value.details
    assert details["need"] == world.manifests[1].total_size
    assert 0 <= details["room"] < details["need"]
    assert not caught.value.retryable
    assert world.there() == [0]


class Waiting(FolderStore):
    """Gives no weights until it may."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.may = threading.Event(), threading.Event()
        self.opened = 0

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> AbstractContextManager[Reader]:
        if key.endswith(WEIGHTS):
            self.opened += 1
            self.asked.set()
            assert self.may.wait(30)
        return super().open(key, start=start, length=length)


@pytest.fixture
def waiting(world: World, tmp_path: Path) -> Iterator[Waiting]:
    """The first version's download has its room, and not one byte of the weights."""
    objects = Waiting(tmp_path / "objects")
    cache = HostCache(world.root, ArtifactStore(objects), CachePolicy(max_bytes=blocks(world.size)))
    with ThreadPoolExecutor(1) as pool:
        download = pool.submit(cache.ensure, world.refs[0])
        assert objects.asked.wait(30)
        try:
            yield objects
        finally:
            objects.may.set()
        assert download.result().outcome is CacheOutcome.DOWNLOADED


def test_two_downloads_that_fit_alone_do_not_overfill_together(world: World, waiting: Waiting) -> None:
    with refused("cache_full"):
        world.cache(max_bytes=blocks(world.size)).ensure(world.refs[1])
    world.cache(max_bytes=3 * blocks(world.size)).ensure(world.refs[1])
    assert world.there() == [1]


def test_what_a_download_will_bring_is_counted(world: World, waiting: Waiting) -> None:
    (entry,) = CacheUpkeep(world.root, CachePolicy()).entries()
    assert not entry.complete
    assert entry.bytes + entry.coming >= world.manifests[0].total_size


def test_one_download_serves_two_versions_of_the_same_weights(world: World, tmp_path: Path) -> None:
    objects = Waiting(tmp_path / "objects")
    cache = HostCache(world.root, ArtifactStore(objects))
    other = world.refs[0].model_copy(update={"adapter": "other"})
    with ThreadPoolExecutor(2) as pool:
        downloads = [pool.submit(cache.ensure, ref) for ref in (world.refs[0], other)]
        assert objects.asked.wait(30)
        objects.may.set()
        paths = {download.result().path for download in downloads}
    assert len(paths) == 2
    assert all(manifest_of(path) == world.manifests[0] for path in paths)
    assert objects.opened == 1
    assert [path.name for path in world.root.iterdir() if path.name.startswith(".lock")] == []


def test_a_promise_ends_with_its_holder(tmp_path: Path) -> None:
    place = tmp_path / "promise"
    assert promised(place) == 0
    with promise(place, 7):
        assert promised(place) == 7
    assert not place.exists()
    place.write_text("7")  # as a killed one leaves it
    assert promised(place) == 0


def test_a_download_that_would_leave_too_little_of_the_disk_is_refused(world: World) -> None:
    with refused("cache_full"):
        world.cache(min_free_bytes=2**60).ensure(world.refs[0])
    assert world.there() == []


def test_eviction_begins_when_less_of_the_disk_is_free_than_the_target(world: World) -> None:
    world.fill(1, 0)
    gone = world.cache(free_target_bytes=2**60).collect(leftovers_older_than_seconds=3600)
    assert [one.reason for one in gone] == ["disk", "disk"]
    assert world.there() == []


def test_what_nobody_used_for_too_long_goes(world: World) -> None:
    world.fill(2, 1, 0)
    gone = world.cache(max_age_seconds=1.5 * 3600).collect(leftovers_older_than_seconds=3600)
    assert [(one.served_name, one.reason) for one in gone] == [("greeter@3", "age")]
    assert gone[0].bytes >= world.size


def test_a_use_makes_an_adapter_young_again(world: World) -> None:
    world.fill(1, 0)
    world.cache().ensure(world.refs[1])
    world.cache(max_bytes=2 * blocks(world.size)).ensure(world.refs[2])
    assert world.there() == [1, 2]


def test_the_figures_tell_what_is_there(world: World) -> None:
    empty = world.cache().figures()
    assert (empty.bytes, empty.adapters, empty.leased, empty.hits) == (0, 0, 0, 0)
    world.fill(1, 0)
    world.cache().pin(world.refs[0], ENGINE)
    world.cache().ensure(world.refs[0])
    figures = world.cache().figures()
    assert (figures.adapters, figures.leased, figures.hits, figures.evicted) == (2, 1, 1, 0)
    assert figures.bytes >= 2 * min(manifest.total_size for manifest in world.manifests)
    assert figures.free_bytes > 0
    assert world.cache().digests() == [world.refs[0].digest, world.refs[1].digest]  # used last, first


def spoil(path: Path) -> None:
    """Other bytes, and every stat that a record can see as it was: as a dying disk does it."""
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def accept(world: World, ref: VersionRef) -> None:
    """Let the record say that the files look as they did."""
    folder = world.cache().path(ref)
    place = folder.with_name(folder.name + ".record.json")
    record = read_record(place, ref.digest)
    assert record is not None
    write_record(place, type(record).of(record.manifest, folder))


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ({"verify": VerifyPolicy.FIRST}, CacheOutcome.CACHED),
        ({"verify": VerifyPolicy.SAMPLED, "sample_share": 0.0}, CacheOutcome.CACHED),
        ({"verify": VerifyPolicy.SAMPLED, "sample_share": 1.0}, CacheOutcome.DOWNLOADED),
        ({"verify": VerifyPolicy.ALWAYS}, CacheOutcome.DOWNLOADED),
    ],
)
def test_the_policy_says_when_files_are_hashed_again(
    world: World, policy: dict[str, object], found: CacheOutcome
) -> None:
    world.fill(0)
    path = world.cache().path(world.refs[0])
    spoil(path / WEIGHTS)
    accept(world, world.refs[0])
    assert world.cache(**policy).ensure(world.refs[0]).outcome is found
    assert (manifest_of(path) == world.manifests[0]) is (found is CacheOutcome.DOWNLOADED)


def test_after_a_restart_of_the_host_files_are_hashed_again(world: World) -> None:
    world.fill(0)
    folder = world.cache().path(world.refs[0])
    place = folder.with_name(folder.name + ".record.json")
    record = read_record(place, world.refs[0].digest)
    assert record is not None
    assert record.boot == boot_id()
    write_record(place, record.model_copy(update={"boot": "before"}))
    progress = Counting()
    assert world.cache().ensure(world.refs[0], progress=progress).outcome is CacheOutcome.CACHED
    assert progress.size == world.manifests[0].total_size
    again = Counting()
    world.cache().ensure(world.refs[0], progress=again)
    assert again.size == 0


def test_verify_finds_damage_and_the_next_use_repairs_just_that_file(world: World) -> None:
    world.fill(0)
    path = world.cache().path(world.refs[0])
    spoil(path / WEIGHTS)
    accept(world, world.refs[0])
    upkeep = CacheUpkeep(world.root, CachePolicy())
    (entry,) = upkeep.entries()
    assert upkeep.verify(entry) == [WEIGHTS]
    found = world.cache().ensure(world.refs[0])
    assert found.bytes == (path / WEIGHTS).stat().st_size
    (entry,) = upkeep.entries()
    used = entry.last_used
    assert upkeep.verify(entry) == []
    assert upkeep.entries()[0].last_used == used


def test_another_version_of_the_same_digest_is_copied_on_the_host(world: World) -> None:
    world.fill(0)
    twin = world.refs[0].model_copy(update={"version": 9})
    for file in world.manifests[0].files:
        world.objects.delete(f"artifacts/{world.cache().path(twin).name}/{file.path}")
    path = world.cache().ensure(twin).path
    assert manifest_of(path) == world.manifests[0]


def test_a_trusted_folder_store_is_linked_and_another_copied(world: World, tmp_path: Path) -> None:
    linked = world.cache(link_roots=(tmp_path / "objects",)).ensure(world.refs[0])
    copied = world.cache(link_roots=(tmp_path / "elsewhere",)).ensure(world.refs[1])
    assert (linked.path / WEIGHTS).stat().st_nlink == 2
    assert (copied.path / WEIGHTS).stat().st_nlink == 1
    assert world.cache().ensure(world.refs[0]).outcome is CacheOutcome.CACHED


def test_a_linked_file_that_is_damaged_is_not_taken(world: World, tmp_path: Path) -> None:
    folder = world.cache().path(world.refs[0]).name
    spoil(tmp_path / "objects" / "artifacts" / folder / WEIGHTS)
    with refused("artifact_corrupt"):
        world.cache(link_roots=(tmp_path / "objects",)).ensure(world.refs[0])


def test_locks_of_artifacts_that_are_gone_are_swept(world: World) -> None:
    with refused("artifact_missing"):
        world.cache().ensure(world.refs[0].model_copy(update={"digest": "sha256:" + "0" * 64}))
    world.cache().sweep(older_than_seconds=0)
    assert not world.root.exists() or list(world.root.iterdir()) == []
