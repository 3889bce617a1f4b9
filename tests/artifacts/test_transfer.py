"""The copy loop: bytes, hash and size are those that went through."""

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock.artifacts.hashing import CHUNK, hash_file, hash_stream
from loradock.artifacts.protocol import NoProgress
from loradock.artifacts.transfer import download
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import Cancelled, Counting, refused


class Pieces:
    """Gives what it has in pieces of any size."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        buffer[: len(piece)] = piece
        return len(piece)


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=50), max_size=20))
def test_the_hash_is_of_all_pieces_in_order(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    copied = hash_stream(Pieces(pieces), NoProgress(), limit=len(data))
    assert (copied.size, copied.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK + 3])
def test_a_download_writes_what_it_hashed(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "from").write_bytes(data)
    progress = Counting()
    with (tmp_path / "from").open("rb", buffering=0) as reader:
        copied = download(reader, tmp_path / "deep" / "to", progress, limit=size)
    assert (tmp_path / "deep" / "to").read_bytes() == data
    assert (copied.size, copied.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert progress.size == size
    assert hash_file(tmp_path / "from", NoProgress(), limit=size) == copied


def test_an_endless_stream_is_left_soon_after_the_limit(tmp_path: Path) -> None:
    class Endless:
        def readinto(self, buffer: memoryview, /) -> int:
            return len(buffer)

    copied = download(Endless(), tmp_path / "to", NoProgress(), limit=3 * CHUNK)
    assert 3 * CHUNK < copied.size <= 4 * CHUNK


def test_an_existing_file_is_never_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "to").symlink_to("victim")
    with refused("disk_error"):
        download(Pieces([b"x"]), tmp_path / "to", NoProgress(), limit=1)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_what_stops_the_transfer_passes_through(tmp_path: Path) -> None:
    def cancel(size: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        download(Pieces([b"x"]), tmp_path / "one", Counting(cancel), limit=1)

    class Broken:
        def readinto(self, buffer: memoryview, /) -> int:
            raise LoradockError("store_unavailable", "gone")

    with refused("store_unavailable"):
        download(Broken(), tmp_path / "two", NoProgress(), limit=1)


def test_a_stream_larger_than_a_range_is_read_from_its_one_reader(tmp_path: Path) -> None:
    data = bytes(range(256)) * 70_000  # more than 16 MiB
    copied = download(io.BytesIO(data), tmp_path / "file", NoProgress(), limit=len(data))
    assert copied.sha256 == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "file").read_bytes() == data
