"""The host's cache: adapters on local disk, at paths that carry name, version and digest.

Where the parts lie says `cache_layout`; what it may hold, `cache_policy`; what goes when it is full, `cache_upkeep`.
"""

import os
import random
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loradock.artifacts.cache_layout import Places, places_of, places_with
from loradock.artifacts.cache_policy import CachePolicy, VerifyPolicy
from loradock.artifacts.cache_upkeep import CacheFigures, CacheUpkeep, Evicted, intact
from loradock.artifacts.disk import disk_errors, file_lock
from loradock.artifacts.leases import Holder, read_leases, remove_lease, write_lease
from loradock.artifacts.manifest import check_manifest
from loradock.artifacts.protocol import NoProgress, Progress, Reader, expect_total
from loradock.artifacts.record import Record, read_record, unchanged, write_record
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.transfer import Copied, fetch
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, ManifestFile, VersionRef


class CacheOutcome(StrEnum):
    """How an adapter came to be in the cache."""

    CACHED = "cached"
    DOWNLOADED = "downloaded"


@dataclass(frozen=True, slots=True)
class CachedAdapter:
    """An adapter that can be used from disk.

    Attributes:
        path: the folder to give to an engine; it carries the digest.
        bytes: what had to be fetched, 0 when all was there.
    """

    path: Path
    manifest: Manifest
    outcome: CacheOutcome
    bytes: int


class HostCache:
    """Adapters on this host. Any number of threads and processes may share one root.

    Args:
        root: made when missing; engines read below it.
        store: where artifacts are fetched from.
        policy: its limits; by default none.
    """

    def __init__(self, root: Path, store: ArtifactStore, policy: CachePolicy | None = None) -> None:
        self._root = root.absolute()
        self._store = store
        self._policy = policy or CachePolicy()
        self._upkeep = CacheUpkeep(self._root, self._policy)

    def path(self, ref: VersionRef) -> Path:
        """Where the version lies or would lie.

        Raises:
            LoradockError: `invalid_name`.
        """
        return self._places(ref).folder

    def ensure(
        self, ref: VersionRef, *, manifest: Manifest | None = None, progress: Progress | None = None
    ) -> CachedAdapter:
        """Have a version on disk, complete and as its manifest says; fetched once, whoever else asks.

        A file whose recorded stat changed is hashed again, a damaged one fetched again. What a killed or cancelled
        download left is used.

        Args:
            manifest: when it is known already; else it is read from the record or the store.
            progress: counts bytes that are fetched and bytes that are hashed again.

        Raises:
            LoradockError: `artifact_corrupt` (the bad file is gone, worth trying again), `artifact_missing`,
                `store_unavailable`, `store_denied`, `cache_full`, `disk_full`, `disk_error`, `invalid_name`.
        """
        places = self._places(ref)
        doubt = self._doubts()
        if not doubt and (found := self._found(places)):
            return found
        told = progress or NoProgress()
        with disk_errors("the host's cache"), file_lock(places.lock, progress=told):
            if not doubt and (found := self._found(places)):
                return found
            known = self._manifest(places, ref.digest, manifest)
            expect_total(told, known.total_size)
            fetched = self._fill(places, known, told)
            write_record(places.record, Record.of(known, places.folder))
        self._upkeep.note_use(places, hit=not fetched)
        outcome = CacheOutcome.DOWNLOADED if fetched else CacheOutcome.CACHED
        return CachedAdapter(places.folder, known, outcome, fetched)

    def pin(self, ref: VersionRef, holder: Holder) -> bool:
        """Note that an engine relies on the version's files: they are kept until the release. Safe before `ensure`.

        Returns:
            Whether the files are there now; when not, call `ensure`.

        Raises:
            LoradockError: `invalid_name`, `disk_full`, `disk_error`.
        """
        places = self._places(ref)
        with disk_errors("the host's cache"), file_lock(places.lease_lock):
            write_lease(places.leases, holder)
            return places.folder.is_dir()

    def release(self, ref: VersionRef, holder: Holder) -> None:
        """Take a pin back; fine when there is none.

        Raises:
            LoradockError: `invalid_name`, `disk_error`.
        """
        with disk_errors("the host's cache"):
            remove_lease(self._places(ref).leases, holder)

    def release_earlier(self, engine: str, incarnation: str) -> int:
        """Take back all pins of an engine's earlier lives: a dead process reads no files.

        Args:
            incarnation: the life that is now; its pins stay.

        Returns:
            How many pins were taken back.
        """
        released = 0
        with disk_errors("the host's cache"):
            for folder in sorted(self._root.glob("*/sha256-*.leases")):
                for holder in read_leases(folder):
                    if holder.engine == engine and holder.incarnation not in ("", incarnation):
                        remove_lease(folder, holder)
                        released += 1
        return released

    def holders(self, ref: VersionRef) -> tuple[Holder, ...]:
        """Who relies on the version's files, sorted."""
        with disk_errors("the host's cache"):
            return read_leases(self._places(ref).leases)

    def remove(self, ref: VersionRef, *, progress: Progress | None = None) -> bool:
        """Delete a version that nobody relies on. Waits for a download of it to end.

        Returns:
            False when it was not there.

        Raises:
            LoradockError: `version_in_use` when a lease is left; `disk_error`.
        """
        return self._upkeep.remove(self._places(ref), progress=progress)

    def sweep(self, *, older_than_seconds: float) -> list[Path]:
        """Remove what dead processes left: half removed versions, and downloads that nobody took up for so long.

        Returns:
            What was removed.
        """
        return self._upkeep.sweep(older_than_seconds)

    def collect(self, *, leftovers_older_than_seconds: float) -> list[Evicted]:
        """Bring the cache within its limits: see `CacheUpkeep.collect`."""
        return self._upkeep.collect(leftovers_older_than_seconds=leftovers_older_than_seconds)

    def figures(self) -> CacheFigures:
        """The cache in numbers."""
        return self._upkeep.figures()

    def digests(self) -> list[str]:
        """The artifacts that are here whole, the most recently used first."""
        entries = reversed(self._upkeep.entries())
        return list(dict.fromkeys(entry.digest for entry in entries if entry.complete))

    def _doubts(self) -> bool:
        verify = self._policy.verify
        if verify is VerifyPolicy.SAMPLED:
            return random.random() < self._policy.sample_share  # noqa: S311 - a sample, no secret
        return verify is VerifyPolicy.ALWAYS

    def _found(self, places: Places) -> CachedAdapter | None:
        """The fast path: no lock, no hash; only what the record says and a look at each file."""
        record = read_record(places.record, places.digest)
        if record is None or not unchanged(record, places.folder):
            return None
        self._upkeep.note_use(places, hit=True)
        return CachedAdapter(places.folder, record.manifest, CacheOutcome.CACHED, 0)

    def _manifest(self, places: Places, digest: str, given: Manifest | None) -> Manifest:
        if given is not None:
            check_manifest(given)
            if given.digest != digest:
                raise LoradockError("artifact_corrupt", f"the manifest is of {given.digest}, not of {digest}")
            return given
        record = read_record(places.record, digest)
        return record.manifest if record else self._store.manifest(digest)

    def _fill(self, places: Places, manifest: Manifest, progress: Progress) -> int:
        """Bring the folder to what the manifest says; returns the bytes fetched."""
        if places.folder.is_dir():
            _remove_strangers(places.folder, manifest)
            damaged = [
                file for file in manifest.files if not intact(places.folder / file.path, file, progress)
            ]
            self._make_room(places, damaged)
            fetched = sum(self._repair(places, manifest.digest, file, progress) for file in damaged)
            shutil.rmtree(places.partial, ignore_errors=True)
            return fetched
        places.partial.mkdir(parents=True, exist_ok=True)
        _remove_strangers(places.partial, manifest)
        self._make_room(places, manifest.files)
        fetched = sum(self._fetch(places, manifest.digest, file, progress) for file in manifest.files)
        places.partial.rename(places.folder)
        return fetched

    def _make_room(self, places: Places, files: "tuple[ManifestFile, ...] | list[ManifestFile]") -> None:
        need = 0
        for file in files:
            have = 0
            with suppress(OSError):
                have = (places.partial / file.path).lstat().st_blocks * 512
            need += max(0, file.size - have)
        if need:
            self._upkeep.make_room(need, places)

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

    def _places(self, ref: VersionRef) -> Places:
        return places_of(self._root, ref)


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
