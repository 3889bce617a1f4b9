"""Keeping a host's cache within its limits: what it holds, what may go, whether it is sound. Needs no store."""

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.cache_entries import CacheEntry, all_entries, intact, newest_change
from loradock.artifacts.cache_layout import PARTIAL, PASSING, Places, all_places
from loradock.artifacts.cache_policy import CachePolicy
from loradock.artifacts.cache_room import EVICTED, CacheRoom, Evicted
from loradock.artifacts.counters import count_of, count_one
from loradock.artifacts.disk import (
    disk_errors,
    file_lock,
    remove_written,
    sweep_locks,
    sweep_temporary,
    try_file_lock,
    unwritten,
)
from loradock.artifacts.leases import PINNED, read_leases, remove_lease, write_lease
from loradock.artifacts.protocol import NoProgress, Progress
from loradock.artifacts.record import Record, read_record, write_record

_WHERE: Final = "the host's cache"
_HITS: Final = ".hits"


@dataclass(frozen=True, slots=True)
class CacheFigures:
    """A cache in numbers.

    Attributes:
        leased: adapters that somebody relies on.
        hits: uses that fetched nothing, since the cache was made.
        evicted: adapters that had to go, since the cache was made.
        free_bytes: of the disk.
    """

    bytes: int
    adapters: int
    leased: int
    hits: int
    evicted: int
    free_bytes: int


class CacheUpkeep:
    """Looks after a cache. Any number of processes may do so at once, beside those who use it.

    Args:
        root: the cache's folder; need not exist.
    """

    def __init__(self, root: Path, policy: CachePolicy) -> None:
        self._root = root.absolute()
        self._policy = policy
        self._room = CacheRoom(self._root, policy)

    def entries(self) -> list[CacheEntry]:
        """All that the cache holds, least recently used first."""
        with disk_errors(_WHERE):
            return all_entries(self._root)

    def figures(self) -> CacheFigures:
        """The cache in numbers."""
        entries = self.entries()
        return CacheFigures(
            bytes=sum(entry.bytes for entry in entries),
            adapters=sum(entry.complete for entry in entries),
            leased=sum(bool(entry.holders) for entry in entries),
            hits=count_of(self._root / _HITS),
            evicted=count_of(self._root / EVICTED),
            free_bytes=self._room.free(),
        )

    def note_use(self, places: Places, *, hit: bool) -> None:
        """Remember that an artifact was used now."""
        with suppress(OSError):  # a full disk is no reason to refuse what is there
            os.utime(places.record)
            if hit:
                count_one(self._root / _HITS)

    def collect(self, *, leftovers_older_than_seconds: float) -> list[Evicted]:
        """Evict by age, size and free disk, and sweep what dead processes left."""
        gone = [Evicted("", path.name, 0, "leftover") for path in self.sweep(leftovers_older_than_seconds)]
        entries = self.entries()
        if self._policy.max_age_seconds is not None:
            limit = time.time() - self._policy.max_age_seconds
            for entry in [entry for entry in entries if entry.complete and entry.last_used < limit]:
                if self._room.evict(entry, "age", gone):
                    entries.remove(entry)
        return [*gone, *self._room.shrink(entries, 0)]

    def sweep(self, older_than_seconds: float) -> list[Path]:
        """Remove half removed versions of dead processes, and downloads that nobody took up for so long."""
        swept = sweep_temporary(self._root)
        sweep_locks(self._root.glob(f"{PASSING}*"))
        limit = time.time() - older_than_seconds
        for partial in sorted(self._root.glob(f"*/sha256-*{PARTIAL}")):
            places = Places(partial.with_name(partial.name.removesuffix(PARTIAL)))
            with suppress(OSError), try_file_lock(places.lock) as held:
                if held and newest_change(partial) < limit:
                    shutil.rmtree(partial)
                    swept.append(partial)
        for places in all_places(self._root):
            with suppress(OSError):
                _remove_unwritten(places)
                _remove_shell(places)
        return swept

    def remove(self, places: Places, *, progress: Progress | None = None) -> bool:
        """Delete an artifact that nobody relies on. Waits for a download of it to end.

        Returns:
            False when it was not there.

        Raises:
            LoradockError: `version_in_use` when a lease is left; `disk_error`.
        """
        with disk_errors(_WHERE), file_lock(places.lock, progress=progress):
            return self._room.take_away(places)

    def verify(self, entry: CacheEntry, progress: Progress | None = None) -> list[str]:
        """Hash a complete artifact. What is damaged is no longer counted as there: its next use repairs it.

        Returns:
            The damaged files' paths; `.record.json` when there is nothing to compare with.
        """
        told = progress or NoProgress()
        places = entry.places
        with disk_errors(_WHERE), file_lock(places.lock, progress=told):
            record = read_record(places.record, places.digest)
            if record is None:
                return [places.record.name]
            bad = [
                file.path
                for file in record.manifest.files
                if not intact(places.folder / file.path, file, told)
            ]
            if bad:
                remove_written(places.record)
            else:
                last_used = places.record.stat().st_mtime
                write_record(places.record, Record.of(record.manifest, places.folder))
                os.utime(places.record, (last_used, last_used))
            return bad

    def pin(self, places: Places) -> None:
        """Keep an artifact by hand, whoever else relies on it or not."""
        with disk_errors(_WHERE), file_lock(places.lease_lock):
            write_lease(places.leases, PINNED)

    def unpin(self, places: Places) -> None:
        """Take the hand's pin back; fine when there is none."""
        with disk_errors(_WHERE):
            remove_lease(places.leases, PINNED)


def _remove_unwritten(places: Places) -> None:
    """Remove a record that a killed writer left half written."""
    if unwritten(places.record).exists():
        with try_file_lock(places.lock) as held:
            if held:
                unwritten(places.record).unlink(missing_ok=True)


def _remove_shell(places: Places) -> None:
    """Remove the locks and empty folders of an artifact that is not there."""
    if places.folder.exists() or places.partial.exists() or read_leases(places.leases):
        return
    with try_file_lock(places.lock) as held:
        if not held or places.folder.exists() or places.partial.exists():
            return
        with file_lock(places.lease_lock):
            if read_leases(places.leases):
                return
            remove_written(places.record)
            places.promise.unlink(missing_ok=True)
            places.lease_lock.unlink(missing_ok=True)
            places.lock.unlink(missing_ok=True)
    with suppress(OSError):
        places.leases.rmdir()
    with suppress(OSError):
        places.folder.parent.rmdir()
