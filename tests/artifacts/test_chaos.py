"""kill -9 at random moments of a download, an upload, a verification and an eviction: nothing is lost, nothing leaks.

`LORADOCK_CHAOS_ROUNDS` says how many (`make test-chaos-cache`: 200).
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from loradock.artifacts.cache import HostCache
from loradock.artifacts.cache_policy import CachePolicy, VerifyPolicy
from loradock.artifacts.cache_upkeep import CacheUpkeep
from loradock.artifacts.protocol import ObjectStore
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.artifacts.transfer import TransferOptions
from loradock.core.models import VersionRef
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter
from tests.fixtures.infra import ObjectStoreServer

ROUNDS = int(os.environ.get("LORADOCK_CHAOS_ROUNDS", "20"))
LONGEST_SECONDS = 0.4
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.artifacts.test_chaos"])


@dataclass(frozen=True)
class Place:
    """Where things lie; passes to another process.

    Attributes:
        bucket: of the S3 at `endpoint`; a folder below `folder` without.
    """

    folder: Path
    endpoint: str | None = None
    bucket: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def root(self) -> Path:
        return self.folder / "cache"

    def objects(self) -> ObjectStore:
        if self.endpoint is None:
            return FolderStore(self.folder / "objects")
        os.environ.update(self.environment)
        client = s3_client(endpoint=self.endpoint, region="us-east-1")
        return S3Store(client, self.bucket, "prefix/", part_bytes=5 * 1024 * 1024)

    def ref(self) -> VersionRef:
        digest = manifest_of(self.adapter).digest
        return VersionRef(adapter="greeter", version=1, digest=digest, int_id=1)


def _cache(place: Place, **policy: object) -> HostCache:
    options = TransferOptions(parts=3, part_bytes=2 * 1024 * 1024, durable=False)
    return HostCache(place.root, ArtifactStore(place.objects()), CachePolicy(transfer=options, **policy))  # type: ignore[arg-type]


def download(place: Place) -> Callable[[], object]:
    """A version comes and goes, so that there is always something to fetch."""
    cache, ref = _cache(place), place.ref()
    return lambda: (cache.ensure(ref), cache.remove(ref))


def upload(place: Place) -> Callable[[], object]:
    store, manifest = ArtifactStore(place.objects()), manifest_of(place.adapter)
    return lambda: (store.delete(manifest.digest), store.upload(place.adapter, manifest))


def verify(place: Place) -> Callable[[], object]:
    """Hashes what is there, and repairs what it spoils itself."""
    cache, ref = _cache(place, verify=VerifyPolicy.ALWAYS), place.ref()

    def turn() -> None:
        path = cache.ensure(ref).path / "adapter_model.safetensors"
        with path.open("r+b") as file:
            file.write(b"spoilt")
        for entry in CacheUpkeep(place.root, CachePolicy()).entries():
            CacheUpkeep(place.root, CachePolicy()).verify(entry)

    return turn


def evict(place: Place) -> Callable[[], object]:
    cache, ref = _cache(place, max_age_seconds=1e-9), place.ref()
    return lambda: (cache.ensure(ref), cache.collect(leftovers_older_than_seconds=0))


WORK = {"download": download, "upload": upload, "verify": verify, "evict": evict}


def again_and_again(name: str, place: Place, ready: Connection) -> None:
    work = WORK[name](place)
    ready.send(True)
    while True:
        work()


def check(place: Place) -> None:
    """The next try succeeds, and beside what it needs nothing is left."""
    store, manifest, ref = ArtifactStore(place.objects()), manifest_of(place.adapter), place.ref()
    store.sweep(older_than_seconds=-5)
    store.upload(place.adapter, manifest)
    assert store.manifest(manifest.digest) == manifest
    assert store.sweep(older_than_seconds=-5) == []
    cache = _cache(place)
    cache.sweep(older_than_seconds=-5)
    path = cache.ensure(ref).path
    assert manifest_of(path).files == manifest.files
    beside = {one.name.removeprefix(path.name) for one in path.parent.iterdir()}
    assert beside <= {"", ".record.json", ".lock", ".leases", ".leases.lock"}
    assert {one.name for one in place.root.iterdir()} <= {path.parent.name, ".hits", ".evicted"}
    (entry,) = CacheUpkeep(place.root, CachePolicy()).entries()
    assert CacheUpkeep(place.root, CachePolicy()).verify(entry) == []
    if place.endpoint is None:
        incoming = place.folder / "objects" / ".incoming"
        assert not incoming.exists() or list(incoming.iterdir()) == []


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    make_adapter(tmp_path / "adapter", rank=16, hidden=2048, layers=12)
    if request.param == "folder":
        return Place(tmp_path)
    server: ObjectStoreServer = request.getfixturevalue("object_store_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Place(tmp_path, server.endpoint, server.bucket(), tuple(server.environment.items()))


@pytest.mark.slow
@pytest.mark.timeout(60 + 8 * ROUNDS)
def test_killed_at_any_moment_everything_heals(place: Place) -> None:
    moments = random.Random(f"{place.endpoint is None} {ROUNDS}")
    check(place)
    for number in range(-(-ROUNDS // 2)):
        name = list(WORK)[number % len(WORK)]
        ready, told = FORK.Pipe(duplex=False)
        process = FORK.Process(target=again_and_again, args=(name, place, told))
        process.start()
        told.close()
        assert ready.recv()
        time.sleep(moments.random() * LONGEST_SECONDS)
        alive = process.is_alive()
        process.kill()
        process.join()
        assert alive, f"{name} ended by itself"
        check(place)
