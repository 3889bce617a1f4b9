"""The host's cache: adapters on local disk, at paths that carry name, version and digest.

`<root>/<adapter>@<version>/` (`+` stands for the `/` of a name) holds for each artifact, named `sha256-<hex>`:
the folder that engines read; beside it `.record.json` (the manifest, and how each file looked when it was last hashed),
`.partial/` while it is downloaded, `.leases/`, and two lock files.
"""

import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loradock.artifacts.disk import (
    disk_errors,
    file_lock,
    remove_written,
    sweep_temporary,
    sync_folder,
    sync_tree,
    temporary_folder,
    try_file_lock,
)
from loradock.artifacts.leases import Holder, read_leases, remove_lease, write_lease
from loradock.artifacts.manifest import check_manifest
from loradock.artifacts.paths import digest_folder
from loradock.artifacts.protocol import NoProgress, Progress
from loradock.artifacts.record import Record, read_record, unchanged, write_record
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.transfer import download, hash_file
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, ManifestFile, VersionRef
from loradock.core.names import MAX_VERSION, check_adapter_name, path_part


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


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the parts of one artifact lie."""

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder.with_name(self.folder.name + ".record.json")

    @property
    def partial(self) -> Path:
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def leases(self) -> Path:
        return self.folder.with_name(self.folder.name + ".leases")

    @property
    def lock(self) -> Path:
        """Held while the folder is filled, repaired or removed."""
        return self.folder.with_name(self.folder.name + ".lock")

    @property
    def lease_lock(self) -> Path:
        """Held shortly, to note a lease or to decide that there is none; taken after `lock`."""
        return self.folder.with_name(self.folder.name + ".leases.lock")


class HostCache:
    """Adapters on this host. Any number of threads and processes may share one root.

    Args:
        root: made when missing; engines read below it.
        store: where artifacts are fetched from.
    """

    def __init__(self, root: Path, store: ArtifactStore) -> None:
        self._root = root.absolute()
        self._store = store

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
                `store_unavailable`, `store_denied`, `disk_full`, `disk_error`, `invalid_name`.
        """
        places = self._places(ref)
        if found := _found(places, ref.digest):
            return found
        told = progress or NoProgress()
        with disk_errors("the host's cache"), file_lock(places.lock, progress=told):
            if found := _found(places, ref.digest):
                return found
            known = self._manifest(places, ref.digest, manifest)
            fetched = self._fill(places, known, told)
            write_record(places.record, Record.of(known, places.folder))
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
        places = self._places(ref)
        with disk_errors("the host's cache"), file_lock(places.lock, progress=progress):
            with temporary_folder(self._root) as trash, file_lock(places.lease_lock):
                if holders := read_leases(places.leases):
                    names = ", ".join(f"{one.engine}@{one.incarnation}" for one in holders[:5])
                    raise LoradockError("version_in_use", f"{ref.served_name} is relied on by {names}")
                existed = _move_away(places, trash)
                for left in (places.lease_lock, places.lock):
                    left.unlink(missing_ok=True)
            with suppress(OSError):  # other digests or a new pin are in there
                places.leases.rmdir()
            with suppress(OSError):
                places.folder.parent.rmdir()
        return existed

    def sweep(self, *, older_than_seconds: float) -> list[Path]:
        """Remove what dead processes left: half removed versions, and downloads that nobody took up for so long.

        Returns:
            What was removed.
        """
        swept = sweep_temporary(self._root)
        limit = time.time() - older_than_seconds
        for partial in sorted(self._root.glob("*/sha256-*.partial")):
            places = _Places(partial.with_name(partial.name.removesuffix(".partial")))
            with suppress(OSError), try_file_lock(places.lock) as held:
                if held and _newest(partial) < limit:
                    shutil.rmtree(partial)
                    swept.append(partial)
        return swept

    def _manifest(self, places: _Places, digest: str, given: Manifest | None) -> Manifest:
        if given is not None:
            check_manifest(given)
            if given.digest != digest:
                raise LoradockError("artifact_corrupt", f"the manifest is of {given.digest}, not of {digest}")
            return given
        record = read_record(places.record, digest)
        return record.manifest if record else self._store.manifest(digest)

    def _fill(self, places: _Places, manifest: Manifest, progress: Progress) -> int:
        """Bring the folder to what the manifest says; returns the bytes fetched."""
        if places.folder.is_dir():
            _remove_strangers(places.folder, manifest)
            fetched = sum(
                self._repair(places, manifest.digest, file, progress)
                for file in manifest.files
                if not _intact(places.folder / file.path, file, progress)
            )
            shutil.rmtree(places.partial, ignore_errors=True)
            sync_tree(places.folder)
            return fetched
        places.partial.mkdir(parents=True, exist_ok=True)
        _remove_strangers(places.partial, manifest)
        fetched = sum(
            self._fetch(places.partial, manifest.digest, file, progress)
            for file in manifest.files
            if not _intact(places.partial / file.path, file, progress)
        )
        sync_tree(places.partial)
        places.partial.rename(places.folder)
        sync_folder(places.folder.parent)
        sync_folder(self._root)
        return fetched

    def _repair(self, places: _Places, digest: str, file: ManifestFile, progress: Progress) -> int:
        """Replace one file in a folder that may be in use: an engine has the old one open or the new one, whole."""
        fetched = self._fetch(places.partial, digest, file, progress)
        target = places.folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (places.partial / file.path).replace(target)
        return fetched

    def _fetch(self, folder: Path, digest: str, file: ManifestFile, progress: Progress) -> int:
        path = folder / file.path
        path.unlink(missing_ok=True)
        with self._store.fetch_file(digest, file.path) as reader:
            copied = download(reader, path, progress, limit=file.size)
        if (copied.size, copied.sha256) != (file.size, file.sha256):
            path.unlink(missing_ok=True)
            raise LoradockError(
                "artifact_corrupt",
                f"{file.path} of {digest} does not have the bytes that its manifest names",
                path=file.path,
                digest=digest,
            )
        return copied.size

    def _places(self, ref: VersionRef) -> _Places:
        check_adapter_name(ref.adapter)
        if ref.version > MAX_VERSION:
            raise LoradockError("invalid_name", f"{ref.version} is not a version's number")
        return _Places(self._root / path_part(ref.adapter, ref.version) / digest_folder(ref.digest))


def _found(places: _Places, digest: str) -> CachedAdapter | None:
    """The fast path: no lock, no hash; only what the record says and a look at each file."""
    record = read_record(places.record, digest)
    if record is None or not unchanged(record, places.folder):
        return None
    return CachedAdapter(places.folder, record.manifest, CacheOutcome.CACHED, 0)


def _intact(path: Path, file: ManifestFile, progress: Progress) -> bool:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return False
        found = hash_file(path, progress, limit=file.size)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.size, found.sha256) == (file.size, file.sha256)


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


def _move_away(places: _Places, trash: Path) -> bool:
    """Take an artifact's parts out of sight, the record first: without it nothing counts as complete."""
    existed = places.folder.is_dir()
    remove_written(places.record)
    for number, part in enumerate((places.folder, places.partial)):
        with suppress(FileNotFoundError):
            part.rename(trash / str(number))
    return existed


def _newest(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)
