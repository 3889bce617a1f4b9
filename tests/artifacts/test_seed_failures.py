"""What the seed system got wrong, each in its circumstances, on our `LoRAManager` over a real S3 (facts 1–5 and 10).

Between the manager and the S3 stands a proxy that cuts, stalls and refuses.
"""

import asyncio
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loradock.core.settings import Settings
from loradock.lora_manager import LoRAManager
from tests.artifacts.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.artifacts.helpers import manifest_of, together
from tests.artifacts.samples import make_adapter
from tests.fixtures.infra import ObjectStoreServer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

SPAWN = multiprocessing.get_context("spawn")
WEIGHTS = "adapter_model.safetensors"


@dataclass
class World:
    """A bucket with adapters, and a folder for managers."""

    s3: "S3Client"
    bucket: str
    base: str
    proxy: FaultyS3
    folder: Path
    stall_seconds: float = 1.0

    def put(self, prefix: str, *, seed: int = 1, layers: int = 2) -> Path:
        adapter = make_adapter(self.folder / "made" / f"{prefix}-{seed}", seed=seed, layers=layers)
        for path in adapter.iterdir():
            self.s3.put_object(
                Bucket=self.bucket, Key=f"{self.base}/{prefix}/{path.name}", Body=path.read_bytes()
            )
        return adapter

    def uri(self, prefix: str) -> str:
        return f"s3://{self.bucket}/{self.base}/{prefix}"

    def manager(self, name: str = "cache") -> LoRAManager:
        return LoRAManager(self.folder / name, settings=settings(self.proxy.endpoint, self.stall_seconds))

    def temporary(self, name: str = "cache") -> list[Path]:
        return [path for path in (self.folder / name).rglob("*") if path.name.startswith(".tmp-")]


def settings(endpoint: str, stall_seconds: float = 1.0) -> Settings:
    return Settings(  # type: ignore[call-arg]
        _env_file=None, source_endpoint=endpoint, source_stall_seconds=stall_seconds
    )


@pytest.fixture
def world(
    s3: "S3Client", shared_bucket: str, object_store_server: ObjectStoreServer, tmp_path: Path
) -> Iterator[World]:
    with faulty_s3(object_store_server.endpoint) as proxy:
        yield World(s3, shared_bucket, uuid.uuid4().hex, proxy, tmp_path)


def download(manager: LoRAManager, uri: str) -> dict[str, Any]:
    return asyncio.run(manager.download_lora(uri))


def fetched(manager: LoRAManager, uri: str) -> Path:
    result = download(manager, uri)
    assert result["status"] == "success", result
    return Path(result["local_path"])


def same(path: Path, adapter: Path) -> bool:
    return manifest_of(path).digest == manifest_of(adapter).digest


class TestFailure1CollidingNames:
    @pytest.mark.parametrize(("one", "other"), [("p/a", "p_a"), ("org/name", "org_name"), ("Org/n", "org/n")])
    def test_addresses_that_look_alike_are_two_adapters(self, world: World, one: str, other: str) -> None:
        first, second = world.put(one, seed=1), world.put(other, seed=2)
        manager = world.manager()
        paths = [fetched(manager, world.uri(one)), fetched(manager, world.uri(other))]
        assert paths[0] != paths[1]
        assert same(paths[0], first)
        assert same(paths[1], second)


class TestFailure2Races:
    def test_eight_threads_at_once_download_once_and_all_succeed(self, world: World) -> None:
        adapter = world.put("a", layers=24)
        manager = world.manager()
        results = together(8, lambda _: download(manager, world.uri("a")))
        assert {str(result) for result in results} == {str(results[0])}, results
        assert same(fetched(manager, world.uri("a")), adapter)
        assert world.proxy.count(WEIGHTS) == 1
        assert world.temporary() == []

    def test_four_processes_on_one_folder_download_once_and_all_succeed(
        self, world: World, tmp_path: Path
    ) -> None:
        adapter = world.put("a", layers=24)
        results = tmp_path / "results"
        results.mkdir()
        with SPAWN.Manager() as shared:
            barrier = shared.Barrier(4)
            arguments = (tmp_path / "cache", world.proxy.endpoint, world.uri("a"), results, barrier)
            processes = [SPAWN.Process(target=download_in_process, args=arguments) for _ in range(4)]
            for process in processes:
                process.start()
            for process in processes:
                process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4
        paths = {path.read_text() for path in results.iterdir()}
        assert len(paths) == 1
        assert same(Path(paths.pop()), adapter)
        assert world.proxy.count(WEIGHTS) == 1
        assert world.temporary() == []

    def test_what_a_killed_process_leaves_harms_nobody_and_is_swept(
        self, world: World, tmp_path: Path
    ) -> None:
        adapter = world.put("a")
        world.proxy.faults.append(Fault(stall=1000))
        arguments = (tmp_path / "cache", world.proxy.endpoint, world.uri("a"), tmp_path, None, 60.0)
        process = SPAWN.Process(target=download_in_process, args=arguments)
        process.start()
        wait_for(lambda: world.proxy.count(WEIGHTS) == 1)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert world.temporary() != []
        manager = world.manager()
        assert not manager.is_cached(world.uri("a"))
        assert same(fetched(manager, world.uri("a")), adapter)
        manager.sweep()
        assert world.temporary() == []


def download_in_process(
    folder: Path, endpoint: str, uri: str, results: Path, barrier: Any, stall_seconds: float = 5.0
) -> None:
    manager = LoRAManager(folder, settings=settings(endpoint, stall_seconds))
    if barrier is not None:
        barrier.wait()
    (results / str(os.getpid())).write_text(str(fetched(manager, uri)))


class TestFailure3Stale:
    def test_an_overwritten_object_is_fetched_again(self, world: World) -> None:
        world.put("a", seed=1)
        manager = world.manager()
        before = fetched(manager, world.uri("a"))
        replaced = world.put("a", seed=2)
        after = fetched(manager, world.uri("a"))
        assert after != before
        assert same(after, replaced)

    def test_an_unchanged_object_is_not_fetched_again(self, world: World) -> None:
        world.put("a")
        manager = world.manager()
        assert not manager.is_cached(world.uri("a"))
        first = fetched(manager, world.uri("a"))
        asked = len(world.proxy.gets)
        assert fetched(manager, world.uri("a")) == first
        assert manager.is_cached(world.uri("a"))
        assert len(world.proxy.gets) == asked

    def test_an_object_that_is_gone_is_told(self, world: World) -> None:
        world.put("a")
        manager = world.manager()
        fetched(manager, world.uri("a"))
        for key in ("README.md", "adapter_config.json", WEIGHTS):
            world.s3.delete_object(Bucket=world.bucket, Key=f"{world.base}/a/{key}")
        assert download(manager, world.uri("a"))["code"] == "source_not_found"


class TestFailure4Integrity:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes())),
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.unlink(),
        ],
        ids=["cut to zero bytes", "other bytes of the same size", "one byte short", "gone"],
    )
    def test_a_damaged_copy_is_noticed_and_healed(self, world: World, spoil: Callable[[Path], None]) -> None:
        adapter = world.put("a")
        manager = world.manager()
        path = fetched(manager, world.uri("a"))
        spoil(path / WEIGHTS)
        assert not manager.is_cached(world.uri("a"))
        assert same(fetched(manager, world.uri("a")), adapter)
        assert manager.is_cached(world.uri("a"))

    def test_a_body_that_breaks_off_goes_on_where_it_was(self, world: World) -> None:
        adapter = world.put("a", layers=48)
        world.proxy.faults.append(Fault(cut=200_000))
        assert same(fetched(world.manager(), world.uri("a")), adapter)
        asked = [offset for path, offset in world.proxy.gets if path.endswith(WEIGHTS)]
        assert len(asked) == 2

    def test_a_body_shorter_than_listed_is_never_taken(self, world: World) -> None:
        world.put("a")
        world.proxy.faults.append(Fault(short=100, times=100))
        manager = world.manager()
        result = download(manager, world.uri("a"))
        assert result["code"] in {"source_changed", "source_unavailable"}
        assert not manager.is_cached(world.uri("a"))
        assert world.temporary() == []

    def test_bytes_changed_on_the_way_never_look_like_the_copy_that_was_there(self, world: World) -> None:
        """A source's ETag does not tell of them; the digest does: other bytes are another adapter."""
        adapter = world.put("a")
        clean = fetched(world.manager("clean"), world.uri("a"))
        world.proxy.faults.append(Fault(flip=5000))
        spoiled = download(world.manager("spoiled"), world.uri("a"))
        assert same(clean, adapter)
        assert spoiled["status"] == "error" or Path(spoiled["local_path"]).name != clean.name


class TestFailure5Leftovers:
    def test_a_stalled_body_is_noticed_in_time_and_tried_again(self, world: World) -> None:
        adapter = world.put("a", layers=48)
        world.proxy.faults.append(Fault(stall=200_000))
        begin = time.monotonic()
        assert same(fetched(world.manager(), world.uri("a")), adapter)
        assert world.stall_seconds <= time.monotonic() - begin < 10 * world.stall_seconds
        assert world.proxy.count(WEIGHTS) == 2

    def test_a_body_that_always_stalls_ends_as_an_error_and_leaves_nothing(self, world: World) -> None:
        world.put("a")
        world.proxy.faults.append(Fault(stall=1000, times=100))
        manager = world.manager()
        assert download(manager, world.uri("a"))["code"] == "source_unavailable"
        assert world.temporary() == []

    def test_a_stall_is_noticed_after_twenty_seconds_unless_set(self) -> None:
        assert Settings(_env_file=None).source_stall_seconds == 20.0  # type: ignore[call-arg]

    async def test_a_cancel_in_a_stalled_body_is_heard_within_a_second(self, world: World) -> None:
        world.put("a")
        world.stall_seconds = 30.0
        world.proxy.faults.append(Fault(stall=1000))
        task = asyncio.create_task(world.manager().download_lora(world.uri("a")))
        await asyncio.to_thread(wait_for, lambda: world.proxy.count(WEIGHTS) == 1)
        begin = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_for, lambda: world.temporary() == [])
        assert time.monotonic() - begin < 1.0

    def test_what_is_not_needed_any_more_can_be_removed(self, world: World) -> None:
        adapter = world.put("a")
        manager = world.manager()
        path = fetched(manager, world.uri("a"))
        assert manager.forget(world.uri("a"))
        assert not path.exists()
        assert not manager.is_cached(world.uri("a"))
        assert same(fetched(manager, world.uri("a")), adapter)


class TestFailure10Requests:
    def test_a_403_on_the_weights_is_not_tried_again(self, world: World) -> None:
        world.put("a")
        world.proxy.faults.append(Fault(status=403, times=100))
        assert download(world.manager(), world.uri("a"))["code"] == "source_denied"
        assert world.proxy.count(WEIGHTS) == 1

    @pytest.mark.parametrize("status", [401, 404])
    def test_neither_is_what_cannot_heal(self, world: World, status: int) -> None:
        world.put("a")
        world.proxy.faults.append(Fault(status=status, times=100))
        assert download(world.manager(), world.uri("a"))["status"] == "error"
        assert world.proxy.count(WEIGHTS) == 1

    def test_a_503_heals(self, world: World) -> None:
        adapter = world.put("a")
        world.proxy.faults.append(Fault(status=503, times=2))
        assert same(fetched(world.manager(), world.uri("a")), adapter)

    def test_only_what_an_adapter_needs_is_fetched(self, world: World) -> None:
        world.put("a")
        for key in ("optimizer.pt", "checkpoint-100/adapter_model.safetensors", "events.out"):
            world.s3.put_object(Bucket=world.bucket, Key=f"{world.base}/a/{key}", Body=b"large")
        path = fetched(world.manager(), world.uri("a"))
        assert sorted(one.name for one in path.iterdir()) == ["README.md", "adapter_config.json", WEIGHTS]
        assert sorted(asked.rpartition("/")[2] for asked, _ in world.proxy.gets) == [
            "README.md",
            "adapter_config.json",
            WEIGHTS,
        ]

    def test_objects_come_beside_each_other(self, world: World) -> None:
        world.put("a")
        world.proxy.faults += [Fault(suffix=WEIGHTS, stall=1000), Fault(suffix="README.md", stall=3)]
        fetched(world.manager(), world.uri("a"))
        assert world.proxy.most_at_once >= 2


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)
