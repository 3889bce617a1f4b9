"""The host's cache: the right bytes, fetched once, kept while anybody relies on them."""

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.artifacts.cache import CacheOutcome, HostCache
from loradock.artifacts.leases import Holder
from loradock.artifacts.protocol import ObjectStore, Reader
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, VersionRef
from tests.artifacts.helpers import Cancelled, Counting, manifest_of, refused, together
from tests.artifacts.samples import make_adapter

WEIGHTS = "adapter_model.safetensors"


class CountingStore(ArtifactStore):
    """Counts the files that are asked for."""

    def __init__(self, objects: ObjectStore) -> None:
        super().__init__(objects)
        self.fetched: list[str] = []
        self.manifests = 0

    def fetch_file(
        self, digest: str, path: str, *, start: int = 0, length: int | None = None
    ) -> AbstractContextManager[Reader]:
        self.fetched.append(path)
        return super().fetch_file(digest, path, start=start, length=length)

    def manifest(self, digest: str) -> Manifest:
        self.manifests += 1
        return super().manifest(digest)


class World:
    """A store with one artifact, and a cache."""

    def __init__(self, tmp_path: Path, *, layers: int = 2, hidden: int = 128) -> None:
        self.adapter = make_adapter(tmp_path / "adapter", layers=layers, hidden=hidden)
        self.manifest = manifest_of(self.adapter)
        self.objects = FolderStore(tmp_path / "objects")
        self.store = CountingStore(self.objects)
        self.store.upload(self.adapter, self.manifest)
        self.store.manifests = 0
        self.root = tmp_path / "cache"
        self.cache = HostCache(self.root, self.store)
        self.ref = VersionRef(adapter="org/greeter", version=3, digest=self.manifest.digest, int_id=7)
        self.path = self.root / "org+greeter@3" / self.manifest.digest.replace(":", "-")

    def check(self) -> None:
        names = sorted(path.name for path in self.path.iterdir())
        assert names == [file.path for file in self.manifest.files]
        for file in self.manifest.files:
            assert (self.path / file.path).read_bytes() == (self.adapter / file.path).read_bytes()
        assert not self.path.with_name(self.path.name + ".partial").exists()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_first_use_downloads_and_the_second_does_not(world: World) -> None:
    progress = Counting()
    first = world.cache.ensure(world.ref, progress=progress)
    assert (first.path, first.manifest, first.outcome) == (
        world.path,
        world.manifest,
        CacheOutcome.DOWNLOADED,
    )
    assert first.bytes == progress.size == world.manifest.total_size
    world.check()
    fetched = len(world.store.fetched)
    second = world.cache.ensure(world.ref)
    assert (second.path, second.manifest, second.outcome, second.bytes) == (
        world.path,
        world.manifest,
        CacheOutcome.CACHED,
        0,
    )
    assert len(world.store.fetched) == fetched == len(world.manifest.files)


def test_the_real_stores_are_read(objects: ObjectStore, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", rank=16, hidden=1024, layers=8)
    manifest = manifest_of(adapter)
    store = ArtifactStore(objects)
    store.upload(adapter, manifest)
    ref = VersionRef(adapter="a", version=1, digest=manifest.digest, int_id=1)
    found = HostCache(tmp_path / "cache", store).ensure(ref)
    for file in manifest.files:
        assert (found.path / file.path).read_bytes() == (adapter / file.path).read_bytes()


def test_a_cached_version_needs_no_store(world: World) -> None:
    world.cache.ensure(world.ref)
    empty = ArtifactStore(FolderStore(world.root / "no such store"))
    assert HostCache(world.root, empty).ensure(world.ref).outcome is CacheOutcome.CACHED


def test_a_given_manifest_spares_the_store_a_question(world: World) -> None:
    world.cache.ensure(world.ref, manifest=world.manifest)
    assert world.store.manifests == 0


def test_a_manifest_of_another_digest_is_refused(world: World, tmp_path: Path) -> None:
    other = manifest_of(make_adapter(tmp_path / "other", seed=2))
    made_up = world.manifest.model_copy(update={"files": other.files})
    for manifest in (other, made_up):
        with refused("artifact_corrupt"):
            world.cache.ensure(world.ref, manifest=manifest)
    assert not world.path.exists()


def test_what_the_store_does_not_have_is_missing(world: World) -> None:
    ref = world.ref.model_copy(update={"digest": "sha256:" + "0" * 64})
    with refused("artifact_missing"):
        world.cache.ensure(ref)
    with refused("artifact_missing"):
        world.objects.delete(f"artifacts/{world.path.name}/{WEIGHTS}")
        world.cache.ensure(world.ref)
    assert not world.path.exists()


def test_eight_threads_download_once(world: World) -> None:
    caches = [HostCache(world.root, world.store) for _ in range(8)]
    results = together(8, lambda index: caches[index].ensure(world.ref).outcome)
    assert sorted(map(str, results)) == ["cached"] * 7 + ["downloaded"]
    assert sorted(world.store.fetched) == [file.path for file in world.manifest.files]
    world.check()


def store_key(world: World, path: str) -> str:
    return f"artifacts/{world.path.name}/{path}"


def replace_object(world: World, path: str, data: bytes) -> None:
    world.objects.delete(store_key(world, path))
    world.objects.put_if_absent(store_key(world, path), data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data * 3,
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ],
    ids=["empty", "short", "long", "much longer", "one bit"],
)
def test_wrong_bytes_in_the_store_never_reach_the_path(world: World, spoil: Callable[[bytes], bytes]) -> None:
    good = (world.adapter / WEIGHTS).read_bytes()
    replace_object(world, WEIGHTS, spoil(good))
    for _ in range(2):
        with refused("artifact_corrupt") as caught:
            world.cache.ensure(world.ref)
        assert caught.value.details["path"] == WEIGHTS
        assert caught.value.retryable
    assert not world.path.exists()
    replace_object(world, WEIGHTS, good)
    assert world.cache.ensure(world.ref).outcome is CacheOutcome.DOWNLOADED
    world.check()


def keep_times(path: Path, change: Callable[[], object]) -> None:
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        flip,
        lambda path: keep_times(path, lambda: flip(path)),
        lambda path: (path.rename(path.with_name("moved")), path.symlink_to("moved")),
        lambda path: (path.unlink(), path.mkdir(), (path / "x").touch()),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["cut", "deleted", "one bit", "one bit, old time", "link", "folder", "fifo"],
)
@pytest.mark.timeout(20)
def test_a_damaged_file_is_fetched_again_and_only_that_one(
    world: World, damage: Callable[[Path], object]
) -> None:
    world.cache.ensure(world.ref)
    world.store.fetched.clear()
    damage(world.path / WEIGHTS)
    found = world.cache.ensure(world.ref)
    assert (found.outcome, found.bytes) == (CacheOutcome.DOWNLOADED, (world.adapter / WEIGHTS).stat().st_size)
    assert world.store.fetched == [WEIGHTS]
    world.check()
    assert world.cache.ensure(world.ref).outcome is CacheOutcome.CACHED


def test_a_file_that_only_looks_changed_is_hashed_and_kept(world: World) -> None:
    world.cache.ensure(world.ref)
    world.store.fetched.clear()
    os.utime(world.path / WEIGHTS)
    progress = Counting()
    assert world.cache.ensure(world.ref, progress=progress).outcome is CacheOutcome.CACHED
    assert progress.size == world.manifest.total_size
    again = Counting()
    world.cache.ensure(world.ref, progress=again)
    assert again.size == 0
    assert world.store.fetched == []


def test_a_reader_of_a_damaged_file_keeps_what_it_opened(world: World) -> None:
    world.cache.ensure(world.ref)
    flip(world.path / WEIGHTS)
    damaged = (world.path / WEIGHTS).read_bytes()
    with (world.path / WEIGHTS).open("rb") as file:
        world.cache.ensure(world.ref)
        assert file.read() == damaged
    world.check()


@pytest.mark.parametrize("name", ["adapter_model.bin", "tokenizer.json", "sub"])
def test_what_does_not_belong_to_the_artifact_is_removed(world: World, name: str) -> None:
    world.cache.ensure(world.ref)
    if name == "sub":
        (world.path / "sub").mkdir()
        (world.path / "sub" / "x").touch()
    else:
        (world.path / name).write_bytes(b"strange")
    world.cache.ensure(world.ref)
    world.check()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[" * 5000, b"\xff"])
def test_without_a_readable_record_everything_is_hashed_again(world: World, content: bytes | None) -> None:
    world.cache.ensure(world.ref)
    record = world.path.with_name(world.path.name + ".record.json")
    if content is None:
        record.unlink()
    else:
        record.write_bytes(content)
    progress = Counting()
    assert world.cache.ensure(world.ref, progress=progress).outcome is CacheOutcome.CACHED
    assert progress.size == world.manifest.total_size
    world.check()


def test_a_record_cannot_vouch_for_other_files(world: World, tmp_path: Path) -> None:
    """A record that names a manifest of its own, with its own digest, does not pass for this version."""
    world.cache.ensure(world.ref)
    other = manifest_of(make_adapter(tmp_path / "other", seed=2))
    record = world.path.with_name(world.path.name + ".record.json")
    forged = record.read_text().replace(world.manifest.files[-1].sha256, other.files[-1].sha256)
    assert forged != record.read_text()
    record.write_text(forged)
    progress = Counting()
    world.cache.ensure(world.ref, progress=progress)
    assert progress.size == world.manifest.total_size
    world.check()


def test_a_cancelled_download_goes_on_where_it_was(tmp_path: Path) -> None:
    world = World(tmp_path, layers=24, hidden=512)
    small = sum(file.size for file in world.manifest.files if file.path != WEIGHTS)

    def cancel(size: int) -> None:
        if size > small:
            raise Cancelled

    with pytest.raises(Cancelled):
        world.cache.ensure(world.ref, progress=Counting(cancel))
    assert not world.path.exists()
    partial = world.path.with_name(world.path.name + ".partial")
    left = {path.name: path.stat().st_size for path in partial.iterdir()}
    whole = {file.path for file in world.manifest.files if left.get(file.path) == file.size}
    world.store.fetched.clear()
    world.cache.ensure(world.ref)
    # Files come side by side: which of them were whole when it was cancelled is a matter of time.
    assert set(world.store.fetched) == {file.path for file in world.manifest.files} - whole
    world.check()


def test_what_is_left_of_a_download_is_not_trusted(world: World) -> None:
    partial = world.path.with_name(world.path.name + ".partial")
    partial.mkdir(parents=True)
    for file in world.manifest.files:
        (partial / file.path).write_bytes(b"\0" * file.size)
    (partial / "stranger").write_bytes(b"x")
    world.cache.ensure(world.ref)
    world.check()


def test_waiting_for_another_download_can_be_cancelled(world: World) -> None:
    holding, done = threading.Event(), threading.Event()

    def hold(size: int) -> None:
        holding.set()
        done.wait(10)

    holder = threading.Thread(
        target=world.cache.ensure, args=(world.ref,), kwargs={"progress": Counting(hold)}
    )
    holder.start()
    assert holding.wait(10)

    def cancel(size: int) -> None:
        raise Cancelled

    try:
        with pytest.raises(Cancelled):
            world.cache.ensure(world.ref, progress=Counting(cancel))
    finally:
        done.set()
        holder.join()
    world.check()


def test_a_full_disk_is_told_and_heals(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with refused("disk_full"):
            world.cache.ensure(world.ref)
    assert not world.path.exists()
    world.cache.ensure(world.ref)
    world.check()


def test_versions_of_the_same_bytes_have_paths_of_their_own(world: World) -> None:
    other = world.ref.model_copy(update={"version": 4})
    paths = {world.cache.ensure(ref).path for ref in (world.ref, other)}
    assert len(paths) == 2
    world.cache.remove(other)
    world.check()


ENGINE = Holder("engine-1", "life-1")


def test_what_somebody_relies_on_is_not_removed(world: World) -> None:
    world.cache.ensure(world.ref)
    other = Holder("engine-2", "life-1")
    assert world.cache.pin(world.ref, ENGINE)
    assert world.cache.pin(world.ref, ENGINE)
    world.cache.pin(world.ref, other)
    assert world.cache.holders(world.ref) == (ENGINE, other)
    with refused("version_in_use"):
        world.cache.remove(world.ref)
    world.cache.release(world.ref, ENGINE)
    with refused("version_in_use"):
        world.cache.remove(world.ref)
    world.check()
    world.cache.release(world.ref, other)
    world.cache.release(world.ref, other)
    assert world.cache.holders(world.ref) == ()
    assert world.cache.remove(world.ref)
    assert not world.cache.remove(world.ref)
    assert list(world.root.iterdir()) == []


def test_a_pin_may_come_before_the_bytes(world: World) -> None:
    assert not world.cache.pin(world.ref, ENGINE)
    with refused("version_in_use"):
        world.cache.remove(world.ref)
    world.cache.ensure(world.ref)
    assert world.cache.pin(world.ref, ENGINE)
    world.check()


def test_an_unknown_holder_means_keep(world: World) -> None:
    world.cache.ensure(world.ref)
    leases = world.path.with_name(world.path.name + ".leases")
    leases.mkdir()
    (leases / "who knows").touch()
    with refused("version_in_use"):
        world.cache.remove(world.ref)
    assert world.cache.release_earlier("who knows", "now") == 0
    world.check()


def test_a_restarted_engine_gives_up_its_earlier_pins_only(world: World) -> None:
    world.cache.ensure(world.ref)
    now, other = Holder("engine-1", "life-2"), Holder("engine-2", "life-1")
    for holder in (ENGINE, now, other):
        world.cache.pin(world.ref, holder)
    assert world.cache.release_earlier("engine-1", "life-2") == 1
    assert world.cache.holders(world.ref) == (now, other)


@pytest.mark.parametrize(
    "holder", [Holder("../x", "a"), Holder("a/b", "c"), Holder("a", ""), Holder("a@b", "c"), Holder("", "")]
)
def test_a_holder_that_breaks_the_rule_is_refused(world: World, holder: Holder) -> None:
    with refused("invalid_name"):
        world.cache.pin(world.ref, holder)


def test_a_removed_version_can_be_fetched_again(world: World) -> None:
    world.cache.ensure(world.ref)
    world.cache.remove(world.ref)
    assert world.cache.ensure(world.ref).outcome is CacheOutcome.DOWNLOADED
    world.check()


def test_pinning_and_removing_at_once_never_takes_pinned_files(world: World) -> None:
    """Whoever was told that the files are there, and holds a pin, still finds them."""

    def user(index: int) -> str:
        holder = Holder(f"engine-{index}", "life")
        for _ in range(15):
            world.cache.pin(world.ref, holder)
            path = world.cache.ensure(world.ref).path
            for file in world.manifest.files:
                assert (path / file.path).stat().st_size == file.size
            world.cache.release(world.ref, holder)
        return "used"

    def remover(index: int) -> str:
        for _ in range(40):
            try:
                world.cache.remove(world.ref)
            except LoradockError as error:
                assert error.code == "version_in_use"
        return "used"

    results = together(6, lambda index: user(index) if index < 4 else remover(index))
    assert results == ["used"] * 6
    world.cache.ensure(world.ref)
    world.check()


def test_downloads_that_nobody_took_up_are_swept(world: World) -> None:
    partial = world.path.with_name(world.path.name + ".partial")
    partial.mkdir(parents=True)
    (partial / WEIGHTS).write_bytes(b"x")
    assert world.cache.sweep(older_than_seconds=3600) == []
    assert world.cache.sweep(older_than_seconds=-1) == [partial]
    assert not partial.exists()


def test_a_download_under_way_is_not_swept(world: World) -> None:
    swept: list[Path] = []
    progress = Counting(lambda size: swept.extend(world.cache.sweep(older_than_seconds=-1)))
    world.cache.ensure(world.ref, progress=progress)
    assert swept == []
    world.check()


def test_a_cached_version_is_found_without_reading_its_weights(world: World) -> None:
    """Cheap: no lock, no hash. The time is a rough guard, the goal of 1 ms is measured elsewhere."""
    world.cache.ensure(world.ref)
    (world.path.with_name(world.path.name + ".lock")).unlink()
    begin = time.perf_counter()
    for _ in range(20):
        world.cache.ensure(world.ref)
    assert (time.perf_counter() - begin) / 20 < 0.02
    assert not world.path.with_name(world.path.name + ".lock").exists()


@pytest.mark.parametrize("name", ["../x", "a/b/c", "", ".hidden", "a b", "load"])
def test_a_name_that_breaks_the_rule_has_no_path(world: World, name: str) -> None:
    with refused("invalid_name"):
        world.cache.path(world.ref.model_copy(update={"adapter": name}))


NAMES = st.from_regex(r"[A-Za-z0-9.@+1_-]{1,6}(/[A-Za-z0-9.@+]{1,6})?", fullmatch=True) | st.text(max_size=6)
DIGESTS = st.sampled_from(["sha256:" + letter * 64 for letter in "01a"])
VERSIONS = st.tuples(NAMES, st.integers(1, 12), DIGESTS)


@given(st.lists(VERSIONS, min_size=2, max_size=2, unique=True))
def test_no_two_versions_share_or_nest_paths_and_none_leaves_the_root(
    pair: list[tuple[str, int, str]],
) -> None:
    root = Path("/cache")
    cache = HostCache(root, ArtifactStore(FolderStore(Path("/store"))))
    try:
        one, two = (
            cache.path(VersionRef(adapter=name, version=version, digest=digest, int_id=1))
            for name, version, digest in pair
        )
    except LoradockError as error:
        assert error.code == "invalid_name"
        return
    assert one != two
    assert one not in two.parents
    assert one.parent.parent == two.parent.parent == root
    assert ".." not in one.parts
    assert not one.parent.name.startswith(".")
