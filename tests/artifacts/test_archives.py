"""Archives from anybody: plain files or a typed error, in bounded time and memory, and nothing outside the folder."""

import io
import random
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from loradock.artifacts.protocol import NoProgress, SourceFile
from loradock.artifacts.sources.archive import FREE_BYTES, ArchiveLimits, is_archive, unpack
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import refused
from tests.artifacts.source_places import compressed, packed, tar_of, zstd

LIMITS = ArchiveLimits(max_files=10, max_bytes=1_000_000)
KINDS = ("tar.gz", "tar.zst")


class Bytes:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readinto(self, buffer: memoryview, /) -> int:
        return self._file.readinto(buffer)


def opened(
    data: bytes, folder: Path, kind: str = "tar.gz", limits: ArchiveLimits = LIMITS
) -> list[SourceFile]:
    folder.mkdir(parents=True, exist_ok=True)
    return unpack(Bytes(data), f"https://host/a.{kind}", folder, limits, NoProgress())


def member(name: str, data: bytes = b"x", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def fill(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info, io.BytesIO(data) if data else None)

    return fill


def several(*fills: Callable[[tarfile.TarFile], None]) -> Callable[[tarfile.TarFile], None]:
    def fill(archive: tarfile.TarFile) -> None:
        for one in fills:
            one(archive)

    return fill


@pytest.mark.parametrize("kind", KINDS)
def test_plain_files_come_out_with_their_hashes(tmp_path: Path, kind: str) -> None:
    files = opened(packed({"b/c": b"2", "a": b"1" * 100_000}, kind), tmp_path, kind)
    assert [(file.path, file.size) for file in files] == [("a", 100_000), ("b/c", 1)]
    assert (tmp_path / "a").read_bytes() == b"1" * 100_000
    assert all(file.identity.startswith("sha256:") for file in files)


@pytest.mark.parametrize(
    "names", [("greeter/a", "greeter/greeter/b"), ("./greeter/a", "./greeter/greeter/b")]
)
def test_one_folder_that_holds_everything_is_left_away(tmp_path: Path, names: tuple[str, str]) -> None:
    files = opened(packed(dict.fromkeys(names, b"1"), "tar.gz"), tmp_path)
    assert [file.path for file in files] == ["a", "greeter/b"]
    for file in files:
        assert (tmp_path / file.path).read_bytes() == b"1"


def test_several_pieces_of_compression_are_one_stream(tmp_path: Path) -> None:
    plain = tar_of(several(member("a", b"1" * 5000), member("b")))
    for kind in KINDS:
        halves = compressed(plain[:3000], kind) + compressed(plain[3000:], kind)
        assert len(opened(halves, tmp_path / kind, kind)) == 2


@pytest.mark.parametrize(
    "fill",
    [
        member("../a"),
        member("/etc/passwd"),
        member("a/../../b"),
        member("a\\b"),
        member("a\nb"),
        member(""),
        member("a" * 300),
        member("l", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("l", b"", type=tarfile.SYMTYPE, linkname="a"),
        member("l", b"", type=tarfile.LNKTYPE, linkname="../../a"),
        member("d", b"", type=tarfile.CHRTYPE),
        member("d", b"", type=tarfile.BLKTYPE),
        member("f", b"", type=tarfile.FIFOTYPE),
        member("s", b"", type=b"S"),
        member("../d", b"", type=tarfile.DIRTYPE),
        several(member("a"), member("a")),
        several(member("a"), member("a/b")),
        several(member("a/b"), member("a")),
        several(member("l", b"", type=tarfile.SYMTYPE, linkname="/tmp"), member("l/x")),
    ],
)
def test_what_is_no_plain_file_with_a_plain_name_is_refused(
    tmp_path: Path, fill: Callable[[tarfile.TarFile], None]
) -> None:
    with refused("archive_invalid"):
        opened(compressed(tar_of(fill), "tar.gz"), tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [b"", b"no archive at all", bytes(2000)])
def test_what_is_no_archive_is_refused_or_empty(tmp_path: Path, kind: str, data: bytes) -> None:
    for content in (data, compressed(data, kind)):
        try:
            assert opened(content, tmp_path, kind) == []
        except LoradockError as error:
            assert error.code == "archive_invalid"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_archive_is_refused(tmp_path: Path, kind: str) -> None:
    whole = packed({"a": random.Random(1).randbytes(50_000)}, kind)
    for length in (len(whole) // 2, len(whole) - 1000):
        with refused("archive_invalid"):
            opened(whole[:length], tmp_path / f"{length}", kind)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    assert len(opened(packed({f"{index}": b"" for index in range(10)}, "tar.gz"), tmp_path / "fits")) == 10
    with refused("source_too_large"):
        opened(packed({f"{index}": b"" for index in range(11)}, "tar.gz"), tmp_path / "many")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_goes_off_early_and_in_little_memory(tmp_path: Path, kind: str) -> None:
    zeros = 40 * FREE_BYTES // 10
    bomb = compressed(tar_of(member("zeros", bytes(zeros))), kind)
    tracemalloc.start()
    with refused("archive_invalid", "source_too_large"):
        opened(bomb, tmp_path / "in", kind, ArchiveLimits(10, 2**40))
    with refused("source_too_large"):
        opened(bomb, tmp_path / "small", kind, LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000_000
    assert (tmp_path / "in" / "zeros").stat().st_size < zeros / 2


@pytest.mark.parametrize("type_", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_wants_all_memory_is_refused(tmp_path: Path, type_: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = type_, 200_000_000
    data = compressed(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000_000), "tar.gz")
    tracemalloc.start()
    with refused("archive_invalid"):
        opened(data, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_a_long_chain_of_headers_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 0
    with refused("archive_invalid"):
        opened(compressed(info.tobuf(tarfile.GNU_FORMAT) * 5000, "tar.gz"), tmp_path)


def test_a_window_that_wants_too_much_memory_is_refused(tmp_path: Path) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    plain = tar_of(member("a", bytes(2_000_000)))
    data = compressor.compress(plain) + compressor.flush()
    with refused("archive_invalid"):
        opened(data, tmp_path, "tar.zst", ArchiveLimits(10, 10_000_000))


@pytest.mark.slow
def test_damaged_archives_are_files_or_typed_errors(tmp_path: Path) -> None:
    """6,000 of them; each in a blink, none leaves its folder."""
    chance = random.Random(11)
    plain = tar_of(
        several(member("greeter/a", b"1" * 700), member("greeter/b" * 15), member("greeter/c", b""))
    )
    longest = 0.0
    for number in range(6000):
        kind = KINDS[number % 2]
        spoiled = bytearray(plain)
        for _ in range(chance.randint(1, 20)):
            # Mostly in the headers: that is where decisions are made.
            at = chance.randrange(len(spoiled)) if chance.random() < 0.3 else chance.randrange(512)
            spoiled[at] = chance.randrange(256)
        checksum_fixed = chance.random() < 0.7
        data = bytes(_with_checksum(spoiled) if checksum_fixed else spoiled)
        content = bytearray(compressed(data, kind))
        if chance.random() < 0.2:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        begin = time.monotonic()
        folder = tmp_path / "in" / str(number)
        try:
            for file in opened(bytes(content), folder, kind):
                assert (folder / file.path).resolve().is_relative_to(folder)
        except LoradockError as error:
            assert error.code in {"archive_invalid", "source_too_large", "disk_error"}, error
        longest = max(longest, time.monotonic() - begin)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert longest < 5


def _with_checksum(data: bytearray) -> bytearray:
    data[148:156] = b"        "
    data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
    return data


@pytest.mark.parametrize(
    ("path", "is_one"),
    [("/a.tar.gz", True), ("/a.TGZ", True), ("/a.tar.zst", True), ("/a.zip", False), ("/tar.gz/a", False)],
)
def test_the_ending_tells_an_archive(path: str, is_one: bool) -> None:
    assert is_archive(path) == is_one
