"""The cache among processes, some of which are killed at any point."""

import multiprocessing
import os
import random
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from loradock.artifacts.cache import HostCache
from loradock.artifacts.disk import file_lock
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.core.models import VersionRef
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter

SPAWN = multiprocessing.get_context("spawn")


class KillAt:
    """Ends the process with SIGKILL after so many chunks."""

    def __init__(self, chunks: int) -> None:
        self._left = chunks

    def advance(self, size: int) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


class World:
    def __init__(self, tmp_path: Path) -> None:
        self.adapter = make_adapter(tmp_path / "adapter", layers=24, hidden=512)
        self.manifest = manifest_of(self.adapter)
        self.objects, self.root = tmp_path / "objects", tmp_path / "cache"
        self.store = ArtifactStore(FolderStore(self.objects))
        self.store.upload(self.adapter, self.manifest)
        self.cache = HostCache(self.root, self.store)
        self.ref = VersionRef(adapter="greeter", version=1, digest=self.manifest.digest, int_id=1)

    def check(self) -> None:
        path = self.cache.path(self.ref)
        assert sorted(one.name for one in path.iterdir()) == [file.path for file in self.manifest.files]
        assert manifest_of(path).digest == self.manifest.digest
        beside = {one.name.removeprefix(path.name) for one in path.parent.iterdir()}
        assert beside <= {"", ".record.json", ".lock", ".leases", ".leases.lock"}
        assert {one.name for one in self.root.iterdir()} <= {path.parent.name, ".hits", ".evicted"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def ensure(root: Path, objects: Path, ref: VersionRef, kill_at: int, results: Path) -> None:
    cache = HostCache(root, ArtifactStore(FolderStore(objects)))
    found = cache.ensure(ref, progress=KillAt(kill_at))
    (results / str(os.getpid())).write_text(f"{found.outcome} {found.bytes}")


def start(world: World, results: Path, *, kill_at: int = 10**9) -> BaseProcess:
    process = SPAWN.Process(target=ensure, args=(world.root, world.objects, world.ref, kill_at, results))
    process.start()
    return process


def test_four_processes_at_once_download_once(world: World, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    lock = world.cache.path(world.ref)
    with file_lock(lock.with_name(lock.name + ".lock")):  # all of them come to wait for one lock
        processes = [start(world, results) for _ in range(4)]
        for process in processes:
            process.join(1)
        assert all(process.is_alive() for process in processes)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    told = sorted(path.read_text() for path in results.iterdir())
    assert told == ["cached 0"] * 3 + [f"downloaded {world.manifest.total_size}"]
    world.check()


@pytest.mark.parametrize("chunk", range(4))
def test_killed_in_the_middle_the_next_one_goes_on(world: World, tmp_path: Path, chunk: int) -> None:
    process = start(world, tmp_path, kill_at=chunk)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = world.cache.path(world.ref)
    assert not folder.exists()
    left = {path.name: path.stat().st_size for path in folder.with_name(f"{folder.name}.partial").iterdir()}
    # Files come side by side: which of them were whole when it was killed is a matter of time.
    missing = sum(file.size for file in world.manifest.files if left.get(file.path) != file.size)
    assert world.cache.ensure(world.ref).bytes == missing
    world.check()


@pytest.mark.slow
def test_killed_at_random_moments_the_cache_stays_right(world: World, tmp_path: Path) -> None:
    """Downloads and removals, ended by SIGKILL whenever the clock says so."""
    world.cache.ensure(world.ref)
    moments = random.Random(7)
    for _ in range(12):
        process = SPAWN.Process(target=churn, args=(world.root, world.objects, world.ref))
        process.start()
        process.join(0.6 + moments.random() * 0.4)
        process.kill()
        process.join()
        world.cache.sweep(older_than_seconds=10**9)
        world.cache.ensure(world.ref)
        world.check()


def churn(root: Path, objects: Path, ref: VersionRef) -> None:
    cache = HostCache(root, ArtifactStore(FolderStore(objects)))
    while True:
        cache.ensure(ref)
        cache.remove(ref)
