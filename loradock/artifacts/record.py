"""What the cache noted when it last hashed an artifact's files: as long as they look the same, they are the same."""

import os
import stat
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from loradock.artifacts.disk import write_whole
from loradock.artifacts.manifest import check_manifest
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, Model


class FileLook(Model):
    """How a file looked. The inode and both times: nothing rewrites a file and leaves all of them."""

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileLook":
        """The look that a stat shows."""
        return cls(
            size=status.st_size,
            inode=status.st_ino,
            mtime_ns=status.st_mtime_ns,
            ctime_ns=status.st_ctime_ns,
        )


class Record(Model):
    """An artifact as it was found complete.

    Attributes:
        looks: by the file's path.
        boot: the host's life in which they were hashed. After a power cut a file may look the same and hold zeros.
    """

    manifest: Manifest
    looks: dict[str, FileLook]
    boot: str = ""

    @classmethod
    def of(cls, manifest: Manifest, folder: Path) -> "Record":
        """The record of files that were just hashed.

        Raises:
            OSError: a file is gone.
        """
        looks = {file.path: FileLook.of((folder / file.path).lstat()) for file in manifest.files}
        return cls(manifest=manifest, looks=looks, boot=boot_id())


@cache
def boot_id() -> str:
    """What tells this life of the host from the one before; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def write_record(path: Path, record: Record) -> None:
    """Keep a record, replacing an older one. What a power cut does to it is seen: another boot, or not readable."""
    write_whole(path, record.model_dump_json().encode())


def read_record(path: Path, digest: str) -> Record | None:
    """The record, None when there is none or it is not one of this digest."""
    try:
        record = Record.model_validate_json(path.read_bytes())
        check_manifest(record.manifest)
    except (OSError, ValidationError, LoradockError):
        return None
    return record if record.manifest.digest == digest else None


def unchanged(record: Record, folder: Path) -> bool:
    """Whether exactly the recorded files are there and look as they did, in the same life of the host."""
    if record.boot != boot_id():
        return False
    for path, look in record.looks.items():
        try:
            status = (folder / path).lstat()
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode) or FileLook.of(status) != look:
            return False
    expected = {file.path for file in record.manifest.files}
    return record.looks.keys() == expected and _names(folder) == {path.partition("/")[0] for path in expected}


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError:
        return set()
