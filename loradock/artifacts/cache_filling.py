"""Filling a host's cache: each file of an artifact from wherever it is nearest, whole and as the manifest says."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

from loradock.artifacts.cache_entries import intact
from loradock.artifacts.cache_layout import Places, places_with
from loradock.artifacts.cache_policy import CachePolicy
from loradock.artifacts.cache_room import CacheRoom
from loradock.artifacts.hashing import Copied
from loradock.artifacts.protocol import Progress, Reader
from loradock.artifacts.record import read_record
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.together import run_together
from loradock.artifacts.transfer import fetch
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, ManifestFile

_AT_ONCE: Final = 4
"""Files of one artifact that are fetched beside each other."""

_FileWork = Callable[[Places, str, ManifestFile, Progress], int]


class CacheFiller:
    """Brings artifacts into a cache.

    Args:
        store: where they are fetched from, unless another version on this host has the same files.
    """

    def __init__(self, root: Path, store: ArtifactStore, policy: CachePolicy) -> None:
        self._root = root
        self._store = store
        self._policy = policy
        self._room = CacheRoom(root, policy)

    def fill(self, places: Places, manifest: Manifest, progress: Progress) -> int:
        """Bring the folder to what the manifest says; the caller holds its lock.

        Returns:
            The bytes fetched.

        Raises:
            LoradockError: see `HostCache.ensure`.
        """
        if places.folder.is_dir():
            _remove_strangers(places.folder, manifest)
            damaged = [
                file for file in manifest.files if not intact(places.folder / file.path, file, progress)
            ]
            with self._reserved(places, damaged, progress):
                fetched = self._together(self._repair, places, manifest.digest, damaged, progress)
            shutil.rmtree(places.partial, ignore_errors=True)
            return fetched
        places.partial.mkdir(parents=True, exist_ok=True)
        _remove_strangers(places.partial, manifest)
        with self._reserved(places, manifest.files, progress):
            fetched = self._together(self._fetch, places, manifest.digest, manifest.files, progress)
        places.partial.rename(places.folder)
        return fetched

    def _reserved(
        self, places: Places, files: Sequence[ManifestFile], progress: Progress
    ) -> AbstractContextManager[None]:
        need = 0
        for file in files:
            have = 0
            with suppress(OSError):
                have = (places.partial / file.path).lstat().st_blocks * 512
            need += max(0, file.size - have)
        return self._room.reserved(need, places, progress)

    def _together(
        self, work: _FileWork, places: Places, digest: str, files: Sequence[ManifestFile], progress: Progress
    ) -> int:
        """Several files at once, the largest first: the rest comes beside it. Returns the bytes fetched."""
        works = [
            lambda told, file=file: work(places, digest, file, told)
            for file in sorted(files, key=lambda file: -file.size)
        ]
        return sum(run_together(works, progress, at_once=_AT_ONCE))

    def _repair(self, places: Places, digest: str, file: ManifestFile, progress: Progress) -> int:
        """Replace one file in a folder that may be in use: an engine has the old one open or the new one, whole."""
        fetched = self._fetch(places, digest, file, progress)
        target = places.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (places.partial / file.path).replace(target)
        return fetched

    def _fetch(self, places: Places, digest: str, file: ManifestFile, progress: Progress) -> int:
        """Have one file in the partial folder; returns the bytes fetched: 0 when an earlier try had them all."""
        path = places.partial / file.path
        wanted = Copied(file.size, file.sha256)
        left = _left(path)
        if left == file.size and intact(path, file, progress):
            return 0
        if left is None and (self._link(digest, file, path, progress) or self._copy(places, file, progress)):
            return file.size
        copied = self._transfer(digest, file, path, progress)
        if copied != wanted and left:  # what an earlier try left was no good
            path.unlink(missing_ok=True)
            copied = self._transfer(digest, file, path, progress)
        if copied != wanted:
            path.unlink(missing_ok=True)
            raise LoradockError(
                "artifact_corrupt",
                f"{file.path} of {digest} does not have the bytes that its manifest names",
                path=file.path,
                digest=digest,
            )
        return file.size

    def _transfer(self, digest: str, file: ManifestFile, path: Path, progress: Progress) -> Copied:
        def opener(start: int, length: int | None) -> AbstractContextManager[Reader]:
            return self._store.fetch_file(digest, file.path, start=start, length=length)

        return fetch(opener, path, progress, size=file.size, options=self._policy.transfer)

    def _copy(self, places: Places, file: ManifestFile, progress: Progress) -> bool:
        """Take the file from another version of the same digest on this host, if one has it."""
        for other in places_with(self._root, places.digest):
            source = other.folder / file.path
            if other == places or read_record(other.record, places.digest) is None:
                continue
            with suppress(OSError, LoradockError):
                copied = fetch(
                    lambda start, _, source=source: _opened(source, start),  # type: ignore[misc]
                    places.partial / file.path,
                    progress,
                    size=file.size,
                    options=self._policy.transfer,
                )
                if copied == Copied(file.size, file.sha256):
                    return True
            (places.partial / file.path).unlink(missing_ok=True)
        return False

    def _link(self, digest: str, file: ManifestFile, path: Path, progress: Progress) -> bool:
        """Share the store's own file, where nobody ever changes it and it lies on the same file system."""
        source = self._store.local_file(digest, file.path) if self._policy.link_roots else None
        if source is None:
            return False
        source = source.resolve()
        if not any(source.is_relative_to(root.resolve()) for root in self._policy.link_roots):
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, path, follow_symlinks=False)
        except OSError:  # another file system, or one without links
            return False
        if intact(path, file, progress):
            return True
        path.unlink()
        return False


@contextmanager
def _opened(path: Path, start: int) -> Iterator[Reader]:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        yield file


def _left(path: Path) -> int | None:
    """The size of what an earlier try left, None when there is nothing to go on from."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return status.st_size
    path.unlink()
    return None


def _remove_strangers(folder: Path, manifest: Manifest) -> None:
    """Remove what does not belong to the artifact: an engine might read it."""
    files = {file.path for file in manifest.files}
    folders = {"/".join(path.split("/")[:end]) for path in files for end in range(1, path.count("/") + 1)}
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            if name not in folders:
                path.rmdir()
        elif name not in files:
            path.unlink()
