"""Fetching a file of known size: in parts, resumed, retried, limited, cancelled."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.hashing import Copied
from loradock.artifacts.protocol import NoProgress, Reader
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.stores.s3 import S3Store
from loradock.artifacts.transfer import TransferOptions, fetch
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import Cancelled, Counting, read_all, refused

MIB = 1024 * 1024
PIECE = MIB // 4


class Server:
    """Ranges of `data`, and what was asked for. `fault` is called at each read and may raise or wait."""

    def __init__(self, data: bytes, fault: Callable[[int], None] = lambda at: None) -> None:
        self.data = data
        self.copied = Copied(len(data), hashlib.sha256(data).hexdigest())
        self.asked: list[tuple[int, int | None]] = []
        self.fault = fault
        self._lock = threading.Lock()

    def __call__(self, start: int, length: int | None) -> AbstractContextManager[Reader]:
        with self._lock:
            self.asked.append((start, length))
        return self._open(start, len(self.data) if length is None else start + length)

    @contextmanager
    def _open(self, at: int, end: int) -> Iterator[Reader]:
        server = self

        class Body:
            def __init__(self) -> None:
                self.at = at

            def readinto(self, buffer: memoryview, /) -> int:
                server.fault(self.at)
                piece = server.data[self.at : min(end, self.at + len(buffer), self.at + PIECE)]
                buffer[: len(piece)] = piece
                self.at += len(piece)
                return len(piece)

        yield Body()


def get(server: Server, path: Path, progress: Counting | None = None, **options: object) -> Copied:
    given = TransferOptions(**{"part_bytes": MIB, **options})  # type: ignore[arg-type]
    return fetch(server, path, progress or NoProgress(), size=len(server.data), options=given)


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 9 * MIB + 17])
def test_any_size_in_any_number_of_parts(tmp_path: Path, size: int, parts: int) -> None:
    server = Server(os.urandom(size))
    progress = Counting()
    assert get(server, tmp_path / "to", progress, parts=parts) == server.copied
    assert (tmp_path / "to").read_bytes() == server.data
    assert progress.size == size
    assert len(server.asked) == (1 if parts == 1 or size <= MIB else -(-size // MIB))


@pytest.mark.parametrize("parts", [1, 4])
def test_a_hash_that_is_slower_than_the_stream_misses_nothing(tmp_path: Path, parts: int) -> None:
    server = Server(os.urandom(12 * MIB + 17))
    slow = Counting(lambda size: time.sleep(0.005))
    assert get(server, tmp_path / "to", slow, parts=parts, part_bytes=3 * MIB) == server.copied
    assert (tmp_path / "to").read_bytes() == server.data


@pytest.mark.parametrize("parts", [1, 4])
def test_it_goes_on_from_what_is_on_disk(tmp_path: Path, parts: int) -> None:
    server = Server(os.urandom(8 * MIB))

    def cancel(size: int) -> None:
        if size > 4 * MIB:
            raise Cancelled

    with pytest.raises(Cancelled):
        get(server, tmp_path / "to", Counting(cancel), parts=parts)
    server.asked.clear()
    assert get(server, tmp_path / "to", parts=parts) == server.copied
    assert all(start >= 3 * MIB for start, _ in server.asked)


def test_every_read_that_is_tried_again_is_told_with_its_code(tmp_path: Path) -> None:
    told: list[str] = []

    def break_off(at: int) -> None:
        if at >= MIB and len(told) < 2:
            raise LoradockError("store_unavailable", "it broke off")

    server = Server(os.urandom(2 * MIB), break_off)
    assert get(server, tmp_path / "to", parts=1, on_retry=told.append) == server.copied
    assert told == ["store_unavailable", "store_unavailable"]


def test_a_hole_that_a_killed_transfer_in_parts_left_is_fetched(tmp_path: Path) -> None:
    server = Server(os.urandom(8 * MIB))
    with (tmp_path / "to").open("wb") as file:
        file.write(server.data[: 2 * MIB])
        file.seek(5 * MIB)
        file.write(server.data[5 * MIB :])
    assert get(server, tmp_path / "to", parts=4) == server.copied
    assert MIB <= min(start for start, _ in server.asked) <= 2 * MIB


def test_what_is_on_disk_counts_in_the_hash(tmp_path: Path) -> None:
    server = Server(os.urandom(4 * MIB))
    (tmp_path / "to").write_bytes(b"\0" * 2 * MIB)
    assert get(server, tmp_path / "to") != server.copied


@pytest.mark.parametrize("parts", [1, 4])
def test_what_can_heal_is_tried_again_where_it_broke_off(tmp_path: Path, parts: int) -> None:
    broken: set[int] = set()

    def fault(at: int) -> None:
        if at // MIB not in broken and at % MIB:
            broken.add(at // MIB)
            raise LoradockError("store_unavailable", "broke off")

    server = Server(os.urandom(4 * MIB), fault)
    assert get(server, tmp_path / "to", parts=parts) == server.copied
    assert len(broken) == 4
    assert all(start % MIB for start, _ in server.asked if start and parts == 1)


@pytest.mark.parametrize("code", ["store_denied", "artifact_missing"])
def test_what_cannot_heal_is_not_tried_again(tmp_path: Path, code: str) -> None:
    def fault(at: int) -> None:
        raise LoradockError(code, "no")

    server = Server(b"x" * 100, fault)
    with refused(code):
        get(server, tmp_path / "to")
    assert len(server.asked) == 1


def test_what_never_heals_is_given_up(tmp_path: Path) -> None:
    def fault(at: int) -> None:
        raise LoradockError("store_unavailable", "gone")

    server = Server(b"x" * 100, fault)
    with refused("store_unavailable"):
        get(server, tmp_path / "to", attempts=3)
    assert len(server.asked) == 3


def test_a_limit_is_kept_by_all_parts_together(tmp_path: Path) -> None:
    server = Server(os.urandom(3 * MIB))
    begin = time.monotonic()
    get(server, tmp_path / "to", parts=3, bandwidth=Bandwidth(4 * MIB))
    assert 0.5 < time.monotonic() - begin < 3


class StallingS3:
    """A body that stops in the middle, over a real socket."""

    def __init__(self, size: int, first: int) -> None:
        stalled = self.stalled = threading.Event()
        release = self.release = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                self.wfile.write(b"x" * first)
                stalled.set()
                release.wait(60)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def store(self, stall_seconds: float) -> S3Store:
        client = s3_client(endpoint=f"http://127.0.0.1:{self.server.server_port}", region="us-east-1")
        return S3Store(client, "bucket", stall_seconds=stall_seconds)


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> Iterator[StallingS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = StallingS3(3 * MIB, MIB)
    yield server
    server.release.set()
    server.server.shutdown()
    server.server.server_close()


def opener_of(store: S3Store) -> Callable[[int, int | None], AbstractContextManager[Reader]]:
    return lambda start, length: store.open("key", start=start, length=length)


def test_a_stalled_body_is_noticed(stalling: StallingS3, tmp_path: Path) -> None:
    options = TransferOptions(attempts=1)
    opener = opener_of(stalling.store(0.5))  # making a client takes long
    begin = time.monotonic()
    with refused("store_unavailable"):
        fetch(opener, tmp_path / "to", NoProgress(), size=3 * MIB, options=options)
    assert 0.4 < time.monotonic() - begin < 5


def test_a_cancel_is_heard_within_a_second_while_a_body_stalls(stalling: StallingS3, tmp_path: Path) -> None:
    cancelled: list[float] = []

    def cancel(size: int) -> None:
        if stalling.stalled.is_set():
            cancelled.append(time.monotonic())
            raise Cancelled

    before = threading.active_count()
    with pytest.raises(Cancelled):
        fetch(
            opener_of(stalling.store(60)), tmp_path / "to", Counting(cancel), size=3 * MIB,
            options=TransferOptions(),
        )  # fmt: skip
    assert time.monotonic() - cancelled[0] < 1
    assert [one for one in threading.enumerate() if one.name.startswith("fetch-")] == []
    assert threading.active_count() <= before + 1  # the server's own


class PlainS3(http.server.ThreadingHTTPServer):
    """Ranges of one object; counts its connections."""

    def __init__(self, data: bytes) -> None:
        connections = self.connections = [0]

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                connections[0] += 1
                super().setup()

            def do_GET(self) -> None:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                piece = data[int(first) : int(last) + 1]
                self.send_response(206)
                self.send_header("Content-Length", str(len(piece)))
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                self.end_headers()
                self.wfile.write(piece)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


def test_ranges_of_one_file_share_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    data = os.urandom(5 * MIB)
    with PlainS3(data) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        store = S3Store(
            s3_client(endpoint=f"http://127.0.0.1:{server.server_port}", region="us-east-1"), "bucket"
        )
        for start in range(0, len(data), MIB):
            assert read_all(store.open("key", start=start, length=MIB)) == data[start : start + MIB]
        server.shutdown()
    assert server.connections == [1]


MEMORY = """
import hashlib, resource, sys
from pathlib import Path
from contextlib import nullcontext
from loradock.artifacts.protocol import NoProgress
from loradock.artifacts.transfer import TransferOptions, fetch
class Zeros:
    def __init__(self, left): self.left = left
    def readinto(self, buffer):
        count = min(len(buffer), self.left); self.left -= count; return count
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = 600 * 1024 * 1024
copied = fetch(lambda start, length: nullcontext(Zeros(length or size - start)), Path(sys.argv[1]), NoProgress(),
               size=size, options=TransferOptions(parts=4, durable=False))
assert copied.size == size
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "to")], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 30
