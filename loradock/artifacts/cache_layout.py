"""Where the parts of a cached artifact lie, and how to find them all again.

`<root>/<adapter>@<version>/` (`+` stands for the `/` of a name) holds for each artifact, named `sha256-<hex>`:
the folder that engines read; beside it `.record.json` (the manifest, and how each file looked when it was last hashed;
its own time is that of the last use), `.partial/` and `.promise` while it is downloaded, `.leases/`, and two lock
files. Directly in the root lie locks that are there while somebody holds them: one for each digest that is brought in,
and one for who asks for room.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loradock.artifacts.paths import digest_folder
from loradock.core.errors import LoradockError
from loradock.core.models import VersionRef
from loradock.core.names import MAX_VERSION, check_adapter_name, path_part

RECORD: Final = ".record.json"
PARTIAL: Final = ".partial"
LEASES: Final = ".leases"
LOCK: Final = ".lock"
PROMISE: Final = ".promise"
PASSING: Final = ".lock-"
LEASE_LOCK: Final = ".leases.lock"

_PART = re.compile(
    r"(sha256-[0-9a-f]{64})(\.record\.json|\.partial|\.leases|\.lock|\.leases\.lock|\.promise)?"
)


@dataclass(frozen=True, slots=True, order=True)
class Places:
    """Where the parts of one artifact lie."""

    folder: Path

    @property
    def record(self) -> Path:
        """The manifest, and how the files looked."""
        return self._beside(RECORD)

    @property
    def partial(self) -> Path:
        """What is being downloaded, or was left of that."""
        return self._beside(PARTIAL)

    @property
    def leases(self) -> Path:
        """One file for each who relies on it."""
        return self._beside(LEASES)

    @property
    def lock(self) -> Path:
        """Held while the folder is filled, repaired or removed."""
        return self._beside(LOCK)

    @property
    def promise(self) -> Path:
        """How much a download that goes on was promised room for."""
        return self._beside(PROMISE)

    @property
    def lease_lock(self) -> Path:
        """Held shortly, to note a lease or to decide that there is none; taken after `lock`."""
        return self._beside(LEASE_LOCK)

    @property
    def digest(self) -> str:
        """`sha256:<hex>`."""
        return self.folder.name.replace("-", ":", 1)

    @property
    def served_name(self) -> str:
        """`adapter@version`."""
        return self.folder.parent.name.replace("+", "/")

    def _beside(self, suffix: str) -> Path:
        return self.folder.with_name(self.folder.name + suffix)


def places_of(root: Path, ref: VersionRef) -> Places:
    """Where a version lies or would lie.

    Raises:
        LoradockError: `invalid_name`.
    """
    check_adapter_name(ref.adapter)
    if ref.version > MAX_VERSION:
        raise LoradockError("invalid_name", f"{ref.version} is not a version's number")
    return Places(root / path_part(ref.adapter, ref.version) / digest_folder(ref.digest))


def all_places(root: Path) -> Iterator[Places]:
    """Every artifact of which any part is there, by path."""
    found = {
        path.with_name(match[1]) for path in root.glob("*/sha256-*") if (match := _PART.fullmatch(path.name))
    }
    return map(Places, sorted(found))


def digest_lock(root: Path, digest: str) -> Path:
    """Held while a digest is brought in, for whichever version; taken after `Places.lock`."""
    return root / f"{PASSING}{digest_folder(digest)}"


def places_with(root: Path, digest: str) -> Iterator[Places]:
    """Every version's place of one digest that has a folder."""
    return map(Places, sorted(root.glob(f"*/{digest_folder(digest)}")))
