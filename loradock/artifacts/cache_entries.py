"""What a host's cache holds: each artifact with its size, last use and holders."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loradock.artifacts.cache_layout import Places, all_places
from loradock.artifacts.hashing import hash_file
from loradock.artifacts.leases import Holder, read_leases
from loradock.artifacts.promises import promised
from loradock.artifacts.protocol import Progress
from loradock.core.models import ManifestFile


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One version's artifact on this host.

    Attributes:
        complete: fetched and recorded; else a download that goes on or was left.
        bytes: on disk, of unfinished downloads too.
        coming: bytes that a download which goes on will bring yet.
        last_used: seconds since the epoch.
        holders: who relies on it; a hand's pin is `PINNED`.
    """

    places: Places
    complete: bool
    bytes: int
    coming: int
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


def all_entries(root: Path) -> list[CacheEntry]:
    """All that a cache holds, least recently used first."""
    entries = [entry for places in all_places(root) if (entry := _entry(places)) is not None]
    return sorted(entries, key=lambda entry: (entry.last_used, entry.places))


def newest_change(folder: Path) -> float:
    """When anything below a folder was last changed, in seconds since the epoch."""
    return max((path.lstat().st_mtime for path in (folder, *folder.rglob("*"))), default=0.0)


def size_on_disk(folder: Path) -> int:
    """The bytes of disk that the files below a folder take; 0 when it is not there."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
    return total


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
        used = places.record.stat().st_mtime if complete else max(map(newest_change, there), default=0.0)
        coming = max(0, promised(places.promise) - size_on_disk(places.partial))
        return CacheEntry(places, complete, sum(map(size_on_disk, there)), coming, used, holders)
    return None
