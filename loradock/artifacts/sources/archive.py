"""Unpacking a `.tar.gz` or `.tar.zst` from anybody: plain files with plain names, within limits, or nothing at all."""

import gzip
import hashlib
import io
import sys
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from loradock.artifacts.disk import create_file, disk_errors
from loradock.artifacts.paths import check_relative_path
from loradock.artifacts.protocol import Progress, Reader, SourceFile
from loradock.core.errors import LoradockError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUFFIXES: Final = (".tar.gz", ".tgz", ".tar.zst", ".tzst")
CHUNK: Final = 1024 * 1024
MAX_HEADER_BYTES: Final = 1024 * 1024
"""Of one member: names and attributes; Python's tarfile reads them whole."""
FREE_BYTES: Final = 64 * 1024 * 1024
"""So much may come out of an archive however small it is."""
MAX_RATIO: Final = 100
WINDOW_LOG: Final = 26
"""Zstandard may look back 64 MiB, which is the memory that it needs; `--long=27` and `--ultra -22` want more."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What one archive may hold, and what may come out of it in all."""

    max_files: int
    max_bytes: int


def is_archive(path: str) -> bool:
    """Whether a path's ending says so."""
    return path.lower().endswith(SUFFIXES)


def unpack(
    packed: Reader, name: str, folder: Path, limits: ArchiveLimits, progress: Progress
) -> list[SourceFile]:
    """Unpack into a folder of our own; a file's identity is its hash.

    One folder that holds everything is left away: `tar c greeter/` and `tar c -C greeter .` give the same files.

    Args:
        name: its ending tells the compression.

    Returns:
        The files, sorted by path; they lie in `folder` under the same paths.

    Raises:
        LoradockError: `archive_invalid`, `source_too_large`, `disk_full`, `disk_error`, or what the reader raises.
    """
    raw = _Raw(packed, progress)
    files: dict[str, SourceFile] = {}
    with _archive_errors(), _decompressed(raw, name) as plain:
        guarded = _Guarded(plain, raw, limits)
        with tarfile.open(
            fileobj=cast("IO[bytes]", guarded), mode="r|", bufsize=tarfile.RECORDSIZE
        ) as archive:
            for member in _members(archive, guarded, limits.max_files):
                if (path := _checked(member)) is None:
                    continue
                if path in files:
                    raise _invalid(f"{path!r} is in it twice")
                if sum(file.size for file in files.values()) + member.size > limits.max_bytes:
                    raise _too_large(limits.max_bytes)
                opened = archive.extractfile(member)
                if opened is None:
                    raise _invalid(f"{path!r} has no content")
                files[path] = _write(opened, folder, path, member.size)
    return _without_top_folder(files, folder)


class _Raw(io.RawIOBase):
    """The compressed stream; counts what came."""

    def __init__(self, reader: Reader, progress: Progress) -> None:
        self._reader, self._progress = reader, progress
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = self._reader.readinto(buffer)
        self._progress.advance(0)
        self.count += count
        return count


class _Guarded:
    """The plain stream, with the limits that tarfile does not have."""

    def __init__(self, plain: IO[bytes], raw: _Raw, limits: ArchiveLimits) -> None:
        self._plain, self._raw, self._max_bytes = plain, raw, limits.max_bytes
        # Headers and padding come on top of the files' bytes.
        self._most = limits.max_bytes + limits.max_files * 4096 + MAX_HEADER_BYTES
        self._count = 0
        self.header_budget: int | None = MAX_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """At most `size` bytes of what was packed."""
        if self.header_budget is not None:
            self.header_budget -= size
            if self.header_budget < 0:
                raise _invalid(f"a member's header is larger than {MAX_HEADER_BYTES} bytes")
        data = self._plain.read(size)
        self._count += len(data)
        if self._count > self._most:
            raise _too_large(self._max_bytes)
        if self._count > FREE_BYTES and self._count > MAX_RATIO * self._raw.count:
            raise _invalid(f"it is packed more than {MAX_RATIO} times")
        return data


@contextmanager
def _decompressed(raw: _Raw, name: str) -> Iterator[IO[bytes]]:
    if name.lower().endswith("zst"):
        options = {int(zstd.DecompressionParameter.window_log_max): WINDOW_LOG}
        with zstd.ZstdFile(cast("Any", raw), "rb", options=options) as plain:
            yield cast("IO[bytes]", plain)
    else:
        with gzip.GzipFile(fileobj=io.BufferedReader(raw, CHUNK), mode="rb") as plain:
            yield cast("IO[bytes]", plain)


def _members(archive: tarfile.TarFile, guarded: _Guarded, max_files: int) -> Iterator[tarfile.TarInfo]:
    count = 0
    while True:
        guarded.header_budget = MAX_HEADER_BYTES
        member = archive.next()
        if member is None:
            return
        guarded.header_budget = None
        count += 1
        if count > max_files:
            raise LoradockError("source_too_large", f"more than {max_files} files and folders in the archive")
        # tarfile remembers every member; nobody asks for an earlier one.
        archive.members.clear()  # type: ignore[attr-defined]
        yield member


def _checked(member: tarfile.TarInfo) -> str | None:
    """The member's path, None for a folder.

    Raises:
        LoradockError: `archive_invalid`.
    """
    name = member.name.removeprefix("./").rstrip("/") if member.isdir() else member.name.removeprefix("./")
    if member.isdir() and name in ("", "."):
        return None
    try:
        check_relative_path(name)
    except ValueError as error:
        raise _invalid(str(error)) from None
    if member.isdir():
        return None
    if not member.isreg() or member.issparse() or member.size < 0:
        raise _invalid(f"{name!r} is a link, a device or something else that is no plain file")
    return name


def _write(opened: IO[bytes], folder: Path, path: str, size: int) -> SourceFile:
    digest, written = hashlib.sha256(), 0
    with disk_errors("unpacking an archive"):
        try:
            descriptor = create_file(folder / path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise _invalid(f"{path!r} is a file and a folder in it") from None
    with io.FileIO(descriptor, "wb") as file:
        while data := opened.read(CHUNK):
            digest.update(data)
            written += len(data)
            with disk_errors("unpacking an archive"):
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
    if written != size:
        raise _invalid(f"{path!r} is cut")
    return SourceFile(path, size, f"sha256:{digest.hexdigest()}")


def _without_top_folder(files: dict[str, SourceFile], folder: Path) -> list[SourceFile]:
    tops = {path.partition("/")[0] for path in files}
    if len(tops) == 1 and all("/" in path for path in files):
        (top,) = tops
        # Moved aside first: the folder may hold one of its own name.
        aside = (folder / top).rename(folder / f"{top[:100]}.top-folder")
        for child in list(aside.iterdir()):
            child.rename(folder / child.name)
        files = {
            path.partition("/")[2]: SourceFile(path.partition("/")[2], file.size, file.identity)
            for path, file in files.items()
        }
    return sorted(files.values(), key=lambda file: file.path)


@contextmanager
def _archive_errors() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zstd.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise _invalid(f"it cannot be unpacked ({type(error).__name__})") from None
    except (ValueError, OverflowError, RecursionError, UnicodeError, IndexError) as error:
        raise _invalid(f"it is malformed ({type(error).__name__})") from None
    except OSError as error:
        # From tarfile itself, about what it read: the disk's and the network's are ours already.
        raise _invalid(f"it cannot be read ({type(error).__name__})") from None


def _too_large(limit: int) -> LoradockError:
    return LoradockError("source_too_large", f"more than {limit} bytes come out of the archive")


def _invalid(reason: str) -> LoradockError:
    return LoradockError("archive_invalid", f"the archive: {reason}")
