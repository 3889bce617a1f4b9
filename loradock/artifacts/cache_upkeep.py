"""Keeping a host's cache within its limits: what it holds, what may go, whether it is sound. Needs no store."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.cache_layout import PARTIAL, Places, all_places
from loradock.artifacts.cache_policy import CachePolicy
from loradock.artifacts.disk import (
    disk_errors,
    file_lock,
    remove_written,
    sweep_temporary,
    temporary_folder,
    try_file_lock,
    unwritten,
)
from loradock.artifacts.leases import PINNED, Holder, read_leases, remove_lease, write_lease
from loradock.artifacts.protocol import NoProgress, Progress
from loradock.artifacts.record import Record, read_record, write_record
from loradock.artifacts.transfer import hash_file
from loradock.core.errors import LoradockError
from loradock.core.models import ManifestFile

_WHERE: Final = "the host's cache"
_HITS: Final = ".hits"
_EVICTED: Final = ".evicted"


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One version's artifact on this host.

    Attributes:
        complete: fetched and recorded; else a download that goes on or was left.
        bytes: on disk, of unfinished downloads too.
        last_used: seconds since the epoch.
        holders: who relies on it; a hand's pin is `PINNED`.
    """

    places: Places
    complete: bool
    bytes: int
    last_used: float
    holders: tuple[Holder, ...]

    @property
    def served_name(self) -> str:
        """`adapter@version`."""
        return self.places.served_name

    @property
    def digest(self) -> str:
        """`sha256:<hex>`."""
        return self.places.digest


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


@dataclass(frozen=True, slots=True)
class Evicted:
    """An adapter that had to go.

    Attributes:
        reason: `age`, `size`, `disk`, or `leftover` of a dead process.
    """

    served_name: str
    digest: str
    bytes: int
    reason: str


class CacheUpkeep:
    """Looks after a cache. Any number of processes may do so at once, beside those who use it.

    Args:
        root: the cache's folder; need not exist.
    """

    def __init__(self, root: Path, policy: CachePolicy) -> None:
        self._root = root.absolute()
        self._policy = policy

    def entries(self) -> list[CacheEntry]:
        """All that the cache holds, least recently used first."""
        with disk_errors(_WHERE):
            entries = [entry for places in all_places(self._root) if (entry := _entry(places)) is not None]
        return sorted(entries, key=lambda entry: (entry.last_used, entry.places))

    def figures(self) -> CacheFigures:
        """The cache in numbers."""
        entries = self.entries()
        return CacheFigures(
            bytes=sum(entry.bytes for entry in entries),
            adapters=sum(entry.complete for entry in entries),
            leased=sum(bool(entry.holders) for entry in entries),
            hits=_count(self._root / _HITS),
            evicted=_count(self._root / _EVICTED),
            free_bytes=self._free(),
        )

    def note_use(self, places: Places, *, hit: bool) -> None:
        """Remember that an artifact was used now."""
        with suppress(OSError):  # a full disk is no reason to refuse what is there
            os.utime(places.record)
            if hit:
                _count_one(self._root / _HITS)

    def make_room(self, need: int, keep: Places) -> list[Evicted]:
        """Evict what must go for `need` more bytes.

        Args:
            keep: what the room is for.

        Raises:
            LoradockError: `cache_full`, naming need and room, when even eviction leaves too little.
        """
        entries = [entry for entry in self.entries() if entry.places != keep]
        gone = list(self._shrink(entries, need))
        room = self._room(entries, gone)
        if need > room:
            raise LoradockError(
                "cache_full",
                f"{need} bytes are needed and {max(0, room)} can be had: the rest is leased, or must stay free",
                need=need,
                room=max(0, room),
            )
        return gone

    def collect(self, *, leftovers_older_than_seconds: float) -> list[Evicted]:
        """Evict by age, size and free disk, and sweep what dead processes left."""
        gone = [Evicted("", path.name, 0, "leftover") for path in self.sweep(leftovers_older_than_seconds)]
        entries = self.entries()
        if self._policy.max_age_seconds is not None:
            limit = time.time() - self._policy.max_age_seconds
            for entry in [entry for entry in entries if entry.complete and entry.last_used < limit]:
                if self._evict(entry, "age", gone):
                    entries.remove(entry)
        return [*gone, *self._shrink(entries, 0)]

    def sweep(self, older_than_seconds: float) -> list[Path]:
        """Remove half removed versions of dead processes, and downloads that nobody took up for so long."""
        swept = sweep_temporary(self._root)
        limit = time.time() - older_than_seconds
        for partial in sorted(self._root.glob(f"*/sha256-*{PARTIAL}")):
            places = Places(partial.with_name(partial.name.removesuffix(PARTIAL)))
            with suppress(OSError), try_file_lock(places.lock) as held:
                if held and _newest(partial) < limit:
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
            return self._take_away(places)

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

    def _shrink(self, entries: list[CacheEntry], need: int) -> Iterator[Evicted]:
        """Evict the least recently used until `need` bytes fit."""
        gone: list[Evicted] = []
        for entry in list(entries):
            over, low = self._over(entries, gone, need), self._low(need)
            if not over and not low:
                break
            self._evict(entry, "size" if over else "disk", gone)
        yield from gone

    def _over(self, entries: list[CacheEntry], gone: list[Evicted], need: int) -> bool:
        most = self._policy.max_bytes
        return most is not None and _left(entries, gone) + need > most

    def _low(self, need: int) -> bool:
        wanted = max(self._policy.min_free_bytes, self._policy.free_target_bytes)
        return self._free() - need < wanted

    def _room(self, entries: list[CacheEntry], gone: list[Evicted]) -> int:
        disk = self._free() - self._policy.min_free_bytes
        most = self._policy.max_bytes
        return disk if most is None else min(disk, most - _left(entries, gone))

    def _evict(self, entry: CacheEntry, reason: str, gone: list[Evicted]) -> bool:
        if entry.holders:
            return False
        try:
            with try_file_lock(entry.places.lock) as held:
                if not held:
                    return False
                self._take_away(entry.places)
        except (LoradockError, OSError):  # leased a moment ago, or it cannot be removed
            return False
        with suppress(OSError):
            _count_one(self._root / _EVICTED)
        gone.append(Evicted(entry.served_name, entry.digest, entry.bytes, reason))
        return True

    def _take_away(self, places: Places) -> bool:
        with temporary_folder(self._root) as trash, file_lock(places.lease_lock):
            if holders := read_leases(places.leases):
                names = ", ".join(f"{one.engine}@{one.incarnation}" for one in holders[:5])
                raise LoradockError("version_in_use", f"{places.served_name} is relied on by {names}")
            existed = _move_away(places, trash)
            for left in (places.lease_lock, places.lock):
                left.unlink(missing_ok=True)
        with suppress(OSError):  # other digests or a new pin are in there
            places.leases.rmdir()
        with suppress(OSError):
            places.folder.parent.rmdir()
        return existed

    def _free(self) -> int:
        folder = self._root
        while not folder.exists():
            folder = folder.parent
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize


def intact(path: Path, file: ManifestFile, progress: Progress) -> bool:
    """Whether a file of ours is, byte for byte, the manifest's."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
        found = hash_file(path, progress, limit=file.size)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.size, found.sha256) == (file.size, file.sha256)


def _entry(places: Places) -> CacheEntry | None:
    complete = places.folder.is_dir() and places.record.is_file()
    there = [folder for folder in (places.folder, places.partial) if folder.is_dir()]
    holders = read_leases(places.leases)
    if not there and not holders:
        return None
    with suppress(OSError):  # it goes while we look
        used = places.record.stat().st_mtime if complete else max(map(_newest, there), default=0.0)
        return CacheEntry(places, complete, sum(map(_size, there)), used, holders)
    return None


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
    return total


def _newest(folder: Path) -> float:
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


def _left(entries: list[CacheEntry], gone: list[Evicted]) -> int:
    return sum(entry.bytes for entry in entries) - sum(one.bytes for one in gone)


def _move_away(places: Places, trash: Path) -> bool:
    """Take an artifact's parts out of sight, the record first: without it nothing counts as complete."""
    existed = places.folder.is_dir()
    remove_written(places.record)
    for number, part in enumerate((places.folder, places.partial)):
        with suppress(FileNotFoundError):
            part.rename(trash / str(number))
    return existed


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
            places.lease_lock.unlink(missing_ok=True)
            places.lock.unlink(missing_ok=True)
    with suppress(OSError):
        places.leases.rmdir()
    with suppress(OSError):
        places.folder.parent.rmdir()


def _count_one(path: Path) -> None:
    """One byte more: appending is atomic among processes, and a kill loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    try:
        os.write(descriptor, b".")
    finally:
        os.close(descriptor)


def _count(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
