"""Sources of one's own: registered in code, or brought by an installed package through an entry point.

A source is either a whole `Source` (protocol.py), or has just the two methods of `LoRASourceProtocol`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

from loradock.artifacts.hashing import hash_file
from loradock.artifacts.protocol import NoProgress, Progress, Reader, Source, SourceFile
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.sources.spool import Copy, Spool
from loradock.core.errors import LoradockError
from loradock.core.uris import SOURCE_ENTRY_POINTS, is_custom_scheme

DOWNLOAD: Final = "download"
Result = TypeVar("Result")


@runtime_checkable
class LoRASourceProtocol(Protocol):
    """The smallest source: everything at once, into a folder."""

    async def exists(self, lora_uri: str) -> bool:
        """Whether there is something at the address."""

    async def download(self, lora_uri: str, dest_path: Path) -> Path:
        """Write the adapter's files into `dest_path` (not made yet) and return the folder where they are."""


class Runner(Protocol):
    """Runs a coroutine to its end, in whatever loop it belongs to."""

    def __call__(self, work: Coroutine[Any, Any, Result], /) -> Result:
        """Block until it is done."""


class DownloadingSource:
    """Makes a `Source` of a `LoRASourceProtocol`: the address is downloaded at its listing, and read from there.

    Args:
        run: where its coroutines run; a loop of their own when not given.
    """

    def __init__(
        self, source: LoRASourceProtocol, spool: Spool, *, max_files: int = 1000, run: Runner | None = None
    ) -> None:
        self._source, self._spool, self._max_files = source, spool, max_files
        self._run = run or _run

    def exists(self, uri: str) -> bool:
        """As `Source.exists`."""
        return bool(self._call(lambda: self._source.exists(uri)))

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """As `Source.list`."""
        return [*self._spool.refill(uri, lambda folder: self._download(uri, folder, progress)).files]

    def fetch(
        self, uri: str, file: SourceFile, progress: Progress | None = None
    ) -> AbstractContextManager[Reader]:
        """As `Source.fetch`."""
        return self._spool.open(uri, file, lambda folder: self._download(uri, folder, progress))

    def forget(self, uri: str) -> None:
        """As `KeepsCopies.forget`."""
        self._spool.forget(uri)

    def _download(self, uri: str, folder: Path, progress: Progress | None) -> Copy:
        if not self.exists(uri):
            raise LoradockError("source_not_found", "the source has nothing at this address")
        told = progress or NoProgress()
        told.advance(0)
        path = self._call(lambda: self._source.download(uri, folder / DOWNLOAD))
        if not isinstance(path, str | Path) or not Path(path).is_dir():
            raise LoradockError("source_unavailable", "the source's download returned no folder")
        actual = Path(path).resolve()
        files = []
        # Whatever it wrote is judged like a folder of anybody: no link out of it, no device, not too many files.
        for file in FileSource([actual], max_files=self._max_files).list(actual.as_uri()):
            found = hash_file(actual / file.path, _Asking(told), limit=file.size)
            files.append(SourceFile(file.path, found.size, f"sha256:{found.sha256}"))
        return Copy(actual, tuple(files))

    def _call(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        try:
            return self._run(make())
        except LoradockError:
            raise
        except FileNotFoundError:
            raise LoradockError("source_not_found", "the source found nothing at this address") from None
        except PermissionError:
            raise LoradockError("source_denied", "the source was refused") from None
        except Exception as error:
            # Somebody else's code: only the kind is told, its text may hold anything.
            raise LoradockError("source_unavailable", f"the source failed: {type(error).__name__}") from error


class _Asking:
    """Asks a progress whether to go on, and counts nothing: who fetches counts."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, size: int) -> None:
        """As `Progress.advance`."""
        self._progress.advance(0)


def as_source(given: Any, spool: Spool, *, max_files: int = 1000, run: Runner | None = None) -> Source:
    """A `Source` as it is; anything with `exists` and `download` through the adapter.

    Raises:
        LoradockError: `setting_invalid` when it is neither.
    """
    if all(callable(getattr(given, name, None)) for name in ("exists", "list", "fetch")):
        return cast("Source", given)
    if all(callable(getattr(given, name, None)) for name in ("exists", DOWNLOAD)):
        return DownloadingSource(given, spool, max_files=max_files, run=run)
    raise LoradockError(
        "setting_invalid",
        f"a source has exists, list and fetch, or exists and download; {type(given).__name__} has not",
    )


def check_scheme(scheme: str) -> str:
    """Return the scheme when a source of one's own may have it.

    Raises:
        LoradockError: `setting_invalid`.
    """
    if not is_custom_scheme(scheme):
        raise LoradockError(
            "setting_invalid",
            f"{scheme[:40]!r} cannot be the scheme of a source: a plain word in lower case, not one of ours",
        )
    return scheme


def load_installed(scheme: str) -> Any:
    """What the entry point of this name gives: a source, or something that makes one when called without arguments.

    Raises:
        LoradockError: `setting_invalid`.
    """
    points = entry_points(group=SOURCE_ENTRY_POINTS, name=scheme)
    if not points:
        raise LoradockError("setting_invalid", f"no installed package brings a source for {scheme}://")
    if len(points) > 1:
        raise LoradockError(
            "setting_invalid", f"more than one installed package brings a source for {scheme}://"
        )
    (point,) = points
    try:
        loaded = point.load()
        is_factory = isinstance(loaded, type) or not hasattr(loaded, "exists")
        return loaded() if is_factory else loaded
    except Exception as error:
        raise LoradockError(
            "setting_invalid", f"the source for {scheme}:// cannot be made: {type(error).__name__}"
        ) from error


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)
