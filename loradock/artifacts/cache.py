"""The host's cache: adapters on local disk, at paths that carry name, version and digest.

Where the parts lie says `cache_layout`; what it may hold, `cache_policy`; what goes when it is full, `cache_upkeep`.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from loradock.artifacts.cache_filling import CacheFiller
from loradock.artifacts.cache_layout import Places, digest_lock, places_of
from loradock.artifacts.cache_policy import CachePolicy, VerifyPolicy
from loradock.artifacts.cache_room import Evicted
from loradock.artifacts.cache_upkeep import CacheFigures, CacheUpkeep
from loradock.artifacts.disk import disk_errors, file_lock, passing_file_lock
from loradock.artifacts.leases import Holder, read_leases, remove_lease, write_lease
from loradock.artifacts.manifest import check_manifest
from loradock.artifacts.paths import digest_folder
from loradock.artifacts.protocol import NoProgress, Progress, expect_total
from loradock.artifacts.record import Record, read_record, unchanged, write_record
from loradock.artifacts.store import ArtifactStore
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, VersionRef
from loradock.core.names import parse_served_name, path_part


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
        self._filler = CacheFiller(self._root, store, self._policy)

    @property
    def root(self) -> Path:
        """Its folder."""
        return self._root

    def digest_at(self, served_name: str, path: str) -> str | None:
        """The digest of the version that lies at a path of this cache's making; None for any other path."""
        folder = Path(path)
        digest = folder.name.replace("-", ":", 1)
        try:
            name = parse_served_name(served_name)
            here = self._root / path_part(name.adapter, name.version) / digest_folder(digest)
        except (LoradockError, ValueError):
            return None
        return digest if folder == here else None

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
            # Another version of the same weights that is brought in just now is copied from, not fetched beside.
            with passing_file_lock(digest_lock(self._root, ref.digest), progress=told):
                fetched = self._filler.fill(places, known, told)
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

    def _places(self, ref: VersionRef) -> Places:
        return places_of(self._root, ref)
