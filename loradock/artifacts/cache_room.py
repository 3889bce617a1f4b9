"""Room in a host's cache: what goes when it is short, what is refused, and what is promised to downloads under way."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.cache_entries import CacheEntry, all_entries, size_on_disk
from loradock.artifacts.cache_layout import PASSING, Places
from loradock.artifacts.cache_policy import CachePolicy
from loradock.artifacts.counters import count_one
from loradock.artifacts.disk import (
    file_lock,
    passing_file_lock,
    remove_written,
    temporary_folder,
    try_file_lock,
)
from loradock.artifacts.leases import read_leases
from loradock.artifacts.promises import promise
from loradock.artifacts.protocol import Progress
from loradock.core.errors import LoradockError

EVICTED: Final = ".evicted"


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


class CacheRoom:
    """Decides what may come in and what must go.

    Args:
        root: the cache's folder; need not exist.
    """

    def __init__(self, root: Path, policy: CachePolicy) -> None:
        self._root = root
        self._policy = policy

    @contextmanager
    def reserved(self, need: int, keep: Places, progress: Progress | None = None) -> Iterator[None]:
        """Have room for `need` more bytes of an artifact, evicting what must go, until the caller has brought them.

        Args:
            keep: what the room is for; the caller holds its lock.

        Raises:
            LoradockError: `cache_full`, naming need and room, when even eviction leaves too little.
        """
        keep.promise.unlink(missing_ok=True)  # a killed download's
        with ExitStack() as held:
            if need:
                # One at a time: the next one sees what this one was promised.
                with passing_file_lock(self._root / f"{PASSING}room", progress=progress):
                    self._make(need, keep)
                    held.enter_context(promise(keep.promise, need + size_on_disk(keep.partial)))
            yield

    def _make(self, need: int, keep: Places) -> None:
        entries = [entry for entry in all_entries(self._root) if entry.places != keep]
        gone = list(self.shrink(entries, need))
        room = self._room(entries, gone)
        if need > room:
            raise LoradockError(
                "cache_full",
                f"{need} bytes are needed and {max(0, room)} can be had: the rest is leased, or must stay free",
                need=need,
                room=max(0, room),
            )

    def shrink(self, entries: list[CacheEntry], need: int) -> Iterator[Evicted]:
        """Evict the least recently used until `need` bytes fit."""
        gone: list[Evicted] = []
        for entry in list(entries):
            over, low = self._over(entries, gone, need), self._low(entries, need)
            if not over and not low:
                break
            self.evict(entry, "size" if over else "disk", gone)
        yield from gone

    def _over(self, entries: list[CacheEntry], gone: list[Evicted], need: int) -> bool:
        most = self._policy.max_bytes
        return most is not None and _left(entries, gone) + need > most

    def _low(self, entries: list[CacheEntry], need: int) -> bool:
        wanted = max(self._policy.min_free_bytes, self._policy.free_target_bytes)
        return self.free() - _coming(entries) - need < wanted

    def _room(self, entries: list[CacheEntry], gone: list[Evicted]) -> int:
        disk = self.free() - _coming(entries) - self._policy.min_free_bytes
        most = self._policy.max_bytes
        return disk if most is None else min(disk, most - _left(entries, gone))

    def evict(self, entry: CacheEntry, reason: str, gone: list[Evicted]) -> bool:
        """Remove an artifact unless somebody relies on it or fills it; returns whether it is gone."""
        if entry.holders:
            return False
        try:
            with try_file_lock(entry.places.lock) as held:
                if not held:
                    return False
                self.take_away(entry.places)
        except (LoradockError, OSError):  # leased a moment ago, or it cannot be removed
            return False
        with suppress(OSError):
            count_one(self._root / EVICTED)
        gone.append(Evicted(entry.served_name, entry.digest, entry.bytes, reason))
        return True

    def take_away(self, places: Places) -> bool:
        """Remove an artifact whose lock the caller holds.

        Returns:
            False when it was not there.

        Raises:
            LoradockError: `version_in_use` when a lease is left.
        """
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

    def free(self) -> int:
        """Bytes of the disk that are free."""
        folder = self._root
        while not folder.exists():
            folder = folder.parent
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize


def _left(entries: list[CacheEntry], gone: list[Evicted]) -> int:
    return sum(entry.bytes for entry in entries) + _coming(entries) - sum(one.bytes for one in gone)


def _coming(entries: list[CacheEntry]) -> int:
    # What is filled cannot be evicted: its lock is held.
    return sum(entry.coming for entry in entries)


def _move_away(places: Places, trash: Path) -> bool:
    """Take an artifact's parts out of sight, the record first: without it nothing counts as complete."""
    existed = places.folder.is_dir()
    remove_written(places.record)
    places.promise.unlink(missing_ok=True)
    for number, part in enumerate((places.folder, places.partial)):
        with suppress(FileNotFoundError):
            part.rename(trash / str(number))
    return existed
