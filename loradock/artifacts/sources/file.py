"""`file:///folder`: a folder on this machine's disk, below one of the allowed roots."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from loradock.artifacts.paths import check_relative_path
from loradock.artifacts.protocol import Progress, Reader, SourceFile
from loradock.artifacts.sources.address import file_path
from loradock.core.errors import LoradockError

_MAX_DEPTH = 32
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# Without O_NONBLOCK the opening of a FIFO would wait for a writer for ever.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

_CODES = {
    errno.ENOENT: "source_not_found",
    errno.ENOTDIR: "source_not_found",
    errno.EACCES: "source_denied",
    errno.EPERM: "source_denied",
    errno.ELOOP: "source_not_allowed",
    errno.ENAMETOOLONG: "invalid_source_uri",
}


class FileSource:
    """Reads folders below the allowed roots; a path is followed part by part from an open folder, never by name.

    Args:
        roots: folders below which addresses may lie; none denies everything.
        max_files: most files that one folder may have.
    """

    def __init__(self, roots: Sequence[Path], *, max_files: int = 1000) -> None:
        self._roots = tuple(roots)
        self._max_files = max_files

    def exists(self, uri: str) -> bool:
        """As `Source.exists`."""
        try:
            with self._folder(uri):
                return True
        except LoradockError as error:
            if error.code == "source_not_found":
                return False
            raise

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """As `Source.list`; symbolic links are followed only inside the folder."""
        with self._folder(uri) as folder, _os_errors():
            budget = count(1)
            files = self._walk(folder, folder, "", budget, depth=0)
            return sorted(files, key=lambda file: file.path)

    @contextmanager
    def fetch(self, uri: str, file: SourceFile, progress: Progress | None = None) -> Iterator[Reader]:
        """As `Source.fetch`."""
        check_source_path(file.path)
        with self._folder(uri) as folder:
            try:
                descriptor = _open_below(folder, _target(folder, file.path))
            except FileNotFoundError:
                raise _changed(file.path) from None
            except OSError as error:
                raise _mapped(error) from None
            try:
                yield _FileReader(descriptor, file)
            finally:
                os.close(descriptor)

    @contextmanager
    def _folder(self, uri: str) -> Iterator[int]:
        """Open the folder; what is open is checked against the roots, so that no rename can slip in between."""
        path = file_path(uri)
        lexical = os.path.normpath(path).lstrip("/")
        if not any(_below(Path("/", lexical), root) for root in self._named_roots()):
            raise LoradockError("source_not_allowed", "the folder is not below an allowed root")
        with _os_errors():
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK)
        try:
            if not any(_below(_real_path(descriptor), root.resolve()) for root in self._roots):
                raise LoradockError("source_not_allowed", "the folder leads out of the allowed roots")
            yield descriptor
        finally:
            os.close(descriptor)

    def _named_roots(self) -> Iterator[Path]:
        """Roots as they are named and as they really are: an address may use either."""
        for root in self._roots:
            yield root.absolute()
            yield root.resolve()

    def _walk(
        self, top: int, folder: int, prefix: str, budget: "count[int]", *, depth: int
    ) -> Iterator[SourceFile]:
        if depth > _MAX_DEPTH:
            raise LoradockError("source_too_large", f"folders are nested deeper than {_MAX_DEPTH}")
        with os.scandir(folder) as entries:
            for entry in entries:
                if next(budget) > self._max_files:
                    raise LoradockError("source_too_large", f"more than {self._max_files} files and folders")
                path = check_source_path(prefix + entry.name)
                if not entry.is_dir(follow_symlinks=False):
                    yield from _listed(top, path)
                    continue
                descriptor = os.open(entry.name, _OPEN_FOLDER, dir_fd=folder)
                try:
                    yield from self._walk(top, descriptor, f"{path}/", budget, depth=depth + 1)
                finally:
                    os.close(descriptor)


class _FileReader:
    """Gives exactly the listed file, or says that it changed."""

    def __init__(self, descriptor: int, file: SourceFile) -> None:
        self._descriptor = descriptor
        self._file = file
        self._left = file.size
        self._check()

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`."""
        with _os_errors():
            count = os.readv(self._descriptor, [buffer])
        self._left -= count
        if self._left < 0 or (count == 0 and self._left):
            raise _changed(self._file.path)
        if count == 0:
            self._check()
        return count

    def _check(self) -> None:
        if _identity(os.fstat(self._descriptor)) != self._file.identity:
            raise _changed(self._file.path)


def check_source_path(path: str) -> str:
    """`check_relative_path` for what a source lists.

    Raises:
        LoradockError: `source_not_allowed`.
    """
    try:
        return check_relative_path(path)
    except ValueError as error:
        raise LoradockError("source_not_allowed", str(error)) from None


def _listed(top: int, path: str) -> Iterator[SourceFile]:
    """The entry as a file of the source; nothing for a link to a folder, whose files are listed where they are."""
    try:
        descriptor = _open_below(top, _target(top, path))
    except FileNotFoundError:
        raise LoradockError("source_not_allowed", f"{path!r} leads nowhere") from None
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        yield SourceFile(path, status.st_size, _identity(status))


def _target(top: int, path: str) -> str:
    """Where a path really leads, relative to the folder."""
    base = _real_path(top)
    try:
        real = Path(base, path).resolve(strict=True)
    except RuntimeError:  # Python 3.11 and 3.12 report a loop of links so
        raise LoradockError("source_not_allowed", f"{path!r} is a link to itself") from None
    if not _below(real, base):
        raise LoradockError("source_not_allowed", f"{path!r} leads out of the folder")
    return str(real.relative_to(base))


def _open_below(top: int, path: str) -> int:
    """Open a plain file (or folder) by following `path` without any link.

    Raises:
        LoradockError: `source_not_allowed` for devices, FIFOs, sockets, and for what became a link meanwhile.
    """
    *folders, name = path.split("/")
    descriptor = os.dup(top)
    try:
        for folder in folders:
            inner = os.open(folder, _OPEN_FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # Looked at first: merely opening a device can have an effect.
        if not _plain(os.stat(name, dir_fd=descriptor, follow_symlinks=False)):
            raise LoradockError("source_not_allowed", f"{path!r} is not a plain file")
        opened = os.open(name, _OPEN_FILE, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    if not _plain(os.fstat(opened)):
        os.close(opened)
        raise LoradockError("source_not_allowed", f"{path!r} is not a plain file")
    return opened


def _plain(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)


def _identity(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _real_path(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _below(path: Path, root: Path) -> bool:
    return path == root or root in path.parents


def _changed(path: str) -> LoradockError:
    return LoradockError("source_changed", f"{path!r} changed while it was read")


@contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _mapped(error) from None


def _mapped(error: OSError) -> LoradockError:
    code = _CODES.get(error.errno or 0, "source_unavailable")
    return LoradockError(code, f"the folder cannot be read: {error.strerror or type(error).__name__}")
