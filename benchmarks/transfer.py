"""Downloads and uploads side by side: ours, the seed's, boto3's, and the bare socket.

    python -m benchmarks.transfer [--seed-python PATH] [--rounds N] [--sizes 16,160,1000] [--folder /dev/shm]
                                  [--per-connection MB/s]

All against one SeaweedFS on 127.0.0.1, in turns within each round, so that what else the machine does meets all of
them. `--seed-python` is an interpreter with `ai-dynamo-runtime` installed (`pip install --no-deps`); without it the
seed's columns are left out. With `--per-connection` everything goes through a relay (`benchmarks/slow_link.py`) that
gives each connection so much, as object stores across a network do. Prints Markdown: medians, and the processor's
seconds per GB, which other work on the machine changes least.
"""

import argparse
import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3

from benchmarks.machine import children_of, describe
from loradock.artifacts.cache import HostCache
from loradock.artifacts.cache_policy import CachePolicy
from loradock.artifacts.hashing import hash_file
from loradock.artifacts.manifest import build_manifest
from loradock.artifacts.protocol import NoProgress
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.artifacts.transfer import TransferOptions
from loradock.core.models import Manifest, ManifestFile, VersionRef
from loradock.dev.child import Child
from loradock.dev.ports import PortPool
from loradock.dev.seaweed import EmbeddedStore

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

BUCKET = "benchmark"
STORE_MEMORY = "2GiB"
WEIGHTS = "adapter_model.safetensors"
SEED = """
import asyncio, os, sys, time
from dynamo._core import LoRADownloader
async def main():
    downloader = LoRADownloader(sys.argv[1])
    begin, spent = time.perf_counter(), sum(os.times()[:2])
    await downloader.download_if_needed(sys.argv[2])
    print(time.perf_counter() - begin, sum(os.times()[:2]) - spent)
    begin = time.perf_counter()
    for _ in range(20):
        await downloader.download_if_needed(sys.argv[2])
    print((time.perf_counter() - begin) / 20)
asyncio.run(main())
"""


@dataclass(frozen=True)
class Took:
    """Seconds of the clock, and of the processors: the client's and the server's."""

    seconds: float
    client: float
    server: float = 0.0


@dataclass
class Sample:
    """One adapter in the store, and its copy on disk."""

    megabytes: int
    folder: Path
    manifest: Manifest

    @property
    def size(self) -> int:
        return self.manifest.total_size


class Bench:
    """The store, and each way to move a sample."""

    def __init__(
        self, folder: Path, store: EmbeddedStore, endpoint: str, server: int, seed_python: str | None
    ) -> None:
        self.folder = folder
        self.store = store
        self.endpoint = endpoint
        self.server = server
        self.seed_python = seed_python
        self.client: S3Client = s3_client(endpoint=endpoint, region="us-east-1")
        self.plain: S3Client = boto3.client("s3", endpoint_url=endpoint)
        self.cached: dict[str, list[float]] = {}

    def sample(self, megabytes: int) -> Sample:
        folder = self.folder / f"adapter-{megabytes}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 16}')
        with (folder / WEIGHTS).open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1_000_000))
        files = []
        for path in sorted(folder.iterdir()):
            found = hash_file(path, NoProgress(), limit=2**40)
            files.append(ManifestFile(path=path.name, size=found.size, sha256=found.sha256))
        sample = Sample(megabytes, folder, build_manifest(files))
        self._artifacts(f"download-{megabytes}/").upload(folder, sample.manifest)
        for path in folder.iterdir():
            self.plain.upload_file(str(path), BUCKET, f"plain-{megabytes}/{path.name}")
        return sample

    def _artifacts(self, prefix: str) -> ArtifactStore:
        return ArtifactStore(S3Store(self.client, BUCKET, prefix))

    def took(self, way: Callable[[Sample], Took], sample: Sample) -> Took:
        """One transfer, with what the server worked for it."""
        gc.collect()
        before = processor_seconds(self.server)
        return replace(way(sample), server=processor_seconds(self.server) - before)

    def ours(self, sample: Sample, parts: int) -> Took:
        root = self.folder / "ours"
        policy = CachePolicy(transfer=TransferOptions(parts=parts, durable=False))
        cache = HostCache(root, self._artifacts(f"download-{sample.megabytes}/"), policy)
        ref = VersionRef(adapter="bench", version=1, digest=sample.manifest.digest, int_id=1)
        seconds = timed(lambda: cache.ensure(ref))
        again = timed(lambda: [cache.ensure(ref) for _ in range(20)]).seconds / 20
        self.cached.setdefault("ours", []).append(again)
        shutil.rmtree(root)
        return seconds

    def seed(self, sample: Sample) -> Took:
        root = self.folder / "seed"
        environment = {
            **os.environ, **self.store.aws_environment, "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        address = f"s3://{BUCKET}/plain-{sample.megabytes}"
        assert self.seed_python is not None
        ran = subprocess.run(
            [self.seed_python, "-c", SEED, str(root), address],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seconds, spent, again = map(float, ran.stdout.split()[-3:])
        self.cached.setdefault("seed", []).append(again)
        got = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        assert got >= sample.size, f"the seed fetched {got} of {sample.size} bytes"
        shutil.rmtree(root)
        return Took(seconds, spent)

    def boto3_download(self, sample: Sample) -> Took:
        target = self.folder / "boto3"
        key = f"plain-{sample.megabytes}/{WEIGHTS}"
        seconds = timed(lambda: self.plain.download_file(BUCKET, key, str(target)))
        target.unlink()
        return seconds

    def stream_to_disk(self, sample: Sample) -> Took:
        """One GET into a file, nothing checked."""
        target = self.folder / "stream"

        def stream() -> None:
            with target.open("wb", buffering=0) as file:
                self._read(sample, file.write)

        seconds = timed(stream)
        target.unlink()
        return seconds

    def socket(self, sample: Sample) -> Took:
        """One GET, the bytes thrown away: what the server and the socket give."""
        return timed(lambda: self._read(sample, lambda data: None))

    def _read(self, sample: Sample, use: Callable[[memoryview], object]) -> None:
        body: Any = self.plain.get_object(Bucket=BUCKET, Key=f"plain-{sample.megabytes}/{WEIGHTS}")["Body"]
        buffer = memoryview(bytearray(512 * 1024))
        while count := body.readinto(buffer):
            use(buffer[:count])

    def our_upload(self, sample: Sample) -> Took:
        prefix = f"upload-{time.monotonic_ns()}/"
        seconds = timed(lambda: self._artifacts(prefix).upload(sample.folder, sample.manifest))
        self._forget(prefix)
        return seconds

    def boto3_upload(self, sample: Sample) -> Took:
        prefix = f"upload-{time.monotonic_ns()}/"

        def upload() -> None:
            for path in sample.folder.iterdir():
                self.plain.upload_file(str(path), BUCKET, prefix + path.name)

        seconds = timed(upload)
        self._forget(prefix)
        return seconds

    def _forget(self, prefix: str) -> None:
        for item in self.plain.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
            self.plain.delete_object(Bucket=BUCKET, Key=item["Key"])


@contextmanager
def reached(endpoint: str, per_connection: float | None) -> Iterator[str]:
    """The address under which clients reach the store: its own, or that of a relay with a limit per connection."""
    if per_connection is None:
        yield endpoint
        return
    port = str(urlsplit(endpoint).port)
    command = [sys.executable, "-m", "benchmarks.slow_link", port, str(per_connection)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        yield f"http://127.0.0.1:{relay.stdout.readline().strip()}"
        relay.kill()


def timed(work: Callable[[], object]) -> Took:
    begin, spent = time.perf_counter(), time.process_time()
    work()
    return Took(time.perf_counter() - begin, time.process_time() - spent)


def processor_seconds(pid: int) -> float:
    """What a process and all its descendants have worked so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_seconds(child) for child in children_of(pid))


def table(title: str, sample_names: list[int], results: dict[str, dict[int, list[Took]]]) -> str:
    """Medians: MB/s, and the processor's seconds per GB of client + server."""
    head = "| " + title + " | " + " | ".join(f"{size} MB" for size in sample_names) + " |"
    lines = [head, "|" + " --- |" * (len(sample_names) + 1)]
    for name, by_size in results.items():
        cells = []
        for size in sample_names:
            seconds = statistics.median(one.seconds for one in by_size[size])
            client, server = (
                statistics.median(getattr(one, who) for one in by_size[size]) / size * 1000
                for who in ("client", "server")
            )
            cells.append(f"{size / seconds:,.0f} ({client:.1f} + {server:.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(one: dict[int, list[Took]], other: dict[int, list[Took]], size: int) -> str:
    """How many times as fast `one` is: the median of the rounds' own ratios."""
    return (
        f"{statistics.median(b.seconds / a.seconds for a, b in zip(one[size], other[size], strict=True)):.2f}"
    )


def run(bench: Bench, sizes: list[int], rounds: int) -> None:
    samples = [bench.sample(size) for size in sizes]
    downloads: dict[str, Callable[[Sample], Took]] = {
        "ours": lambda sample: bench.ours(sample, TransferOptions().parts),
        "ours, one stream": lambda sample: bench.ours(sample, 1),
        "boto3 download_file": bench.boto3_download,
        "one stream to disk, unverified": bench.stream_to_disk,
        "one stream, thrown away": bench.socket,
    }
    if bench.seed_python:
        downloads["seed (ai-dynamo-runtime)"] = bench.seed
    uploads: dict[str, Callable[[Sample], Took]] = {
        "ours": bench.our_upload,
        "boto3 upload_file": bench.boto3_upload,
    }
    down: dict[str, dict[int, list[Took]]] = {name: {size: [] for size in sizes} for name in downloads}
    up: dict[str, dict[int, list[Took]]] = {name: {size: [] for size in sizes} for name in uploads}
    for number in range(rounds):
        for sample in samples:
            for ways, into in ((downloads, down), (uploads, up)):
                names = list(ways)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    into[name][sample.megabytes].append(bench.took(ways[name], sample))
    print(
        f"{describe()}; load {os.getloadavg()[0]:.0f}; {rounds} rounds; MB/s (seconds per GB: client + server)\n"
    )
    print(table("download, cold", sizes, down), "\n")
    print("| ours is … times as fast as | " + " | ".join(f"{size} MB" for size in sizes) + " |")
    print("|" + " --- |" * (len(sizes) + 1))
    for mine in ("ours", "ours, one stream"):
        for name, times in down.items():
            if not name.startswith("ours"):
                cells = " | ".join(ratio(down[mine], times, size) for size in sizes)
                print(f"| {mine}: {name} | {cells} |")
    print()
    print(table("upload", sizes, up), "\n")
    for name, times in bench.cached.items():
        print(f"cached lookup, {name}: {statistics.median(times) * 1e6:,.0f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed-python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="16,160,1000")
    parser.add_argument("--per-connection", type=float, metavar="MB/s")
    parser.add_argument("--folder", help="where all data lie, e.g. a memory disk; else the temp folder")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="loradock-transfer-", dir=given.folder))
    store = EmbeddedStore(folder / "store", PortPool())
    os.environ.update(store.aws_environment)
    # Short of memory it collects garbage most of the time, and that is what would be measured.
    spec = store.spec()
    child = Child(replace(spec, env={**spec.env, "GOMEMLIMIT": STORE_MEMORY}), folder / "store.log")
    try:
        child.start()
        child.wait_ready()
        store.create_bucket(BUCKET)
        with reached(store.endpoint, given.per_connection) as endpoint:
            run(
                Bench(folder, store, endpoint, child.pid, given.seed_python),
                [int(size) for size in given.sizes.split(",")],
                given.rounds,
            )
    finally:
        child.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
