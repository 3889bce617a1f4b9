"""Artifacts in an object store.

Layout: `artifacts/sha256-<hex>/<file>`, with `manifest.json` written last, so that its presence means complete; and
`versions/<adapter>/<n>.json`, a pointer that is created once and never overwritten. In a pointer's key `+` stands for
the `/` of an adapter's name, as in the host cache: `a` and `a/1.json` would otherwise want one name for two things.
"""

import json
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from loradock.artifacts.hashing import hash_stream
from loradock.artifacts.manifest import (
    MANIFEST_FILE,
    MAX_MANIFEST_BYTES,
    check_manifest,
    manifest_bytes,
    parse_manifest,
)
from loradock.artifacts.paths import digest_folder
from loradock.artifacts.protocol import NoProgress, ObjectStore, Progress, Reader, expect_total
from loradock.artifacts.uploads.area import UploadArea
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, ManifestFile
from loradock.core.names import MAX_VERSION, check_adapter_name

MAX_POINTER_BYTES: Final = 64 * 1024
_ARTIFACTS: Final = "artifacts/"
_FOLDER: Final = re.compile(r"sha256-[0-9a-f]{64}")
_POINTER_FORMAT: Final = "loradock.pointer/1"


class ArtifactStore:
    """Keeps artifacts by digest, and for every version a pointer to one.

    Args:
        objects: where the bytes lie.
        address: how people name that place, e.g. `s3://bucket/prefix`.
    """

    def __init__(self, objects: ObjectStore, address: str = "") -> None:
        self._objects = objects
        self._address = address.rstrip("/")

    def uri(self, digest: str) -> str:
        """The address of an artifact's folder, for people and for rows."""
        return f"{self._address}/{artifact_key(digest)}"

    def upload(self, folder: Path, manifest: Manifest, progress: Progress | None = None) -> int:
        """Store an artifact. What is there already is not sent again, what is damaged there is replaced.

        Args:
            folder: holds the manifest's files, e.g. `Staged.path`.

        Returns:
            Bytes sent.

        Raises:
            LoradockError: `artifact_conflict` when another manifest stands under the digest; `artifact_corrupt`
                when a local file is not what the manifest says; `store_unavailable`, `store_denied`.
        """
        check_manifest(manifest)
        told = progress or NoProgress()
        expect_total(told, manifest.total_size)
        complete = self._complete(manifest)
        sent = 0
        for file in manifest.files:
            key = _file_key(manifest.digest, file.path)
            # An object of a complete artifact that is published once more is read back: this is how damage heals.
            if not self._holds(key, file, told, read_back=complete):
                self._objects.put_file(
                    key, folder / file.path, size=file.size, sha256=file.sha256, progress=told
                )
                sent += file.size
        if not complete:
            self._create_manifest(manifest)
        return sent

    def has(self, digest: str) -> bool:
        """Whether the artifact is complete.

        Raises:
            LoradockError: `store_unavailable`, `store_denied`.
        """
        return self._objects.head(_manifest_key(digest)) is not None

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a complete artifact.

        Raises:
            LoradockError: `artifact_missing`, `artifact_corrupt`, `store_unavailable`, `store_denied`.
        """
        return parse_manifest(self._read(_manifest_key(digest), MAX_MANIFEST_BYTES), digest=digest)

    def fetch_file(
        self, digest: str, path: str, *, start: int = 0, length: int | None = None
    ) -> AbstractContextManager[Reader]:
        """Read one file of an artifact, or a range of it; the caller compares size and hash with the manifest's.

        Raises:
            LoradockError: `artifact_missing`, `store_unavailable`, `store_denied`; while reading too.
        """
        return self._objects.open(_file_key(digest, path), start=start, length=length)

    def local_file(self, digest: str, path: str) -> Path | None:
        """Where one file of an artifact lies on this machine's disk, None when the store is elsewhere."""
        locate = getattr(self._objects, "local_path", None)
        return None if locate is None else locate(_file_key(digest, path))

    def publish_pointer(self, adapter: str, version: int, digest: str) -> bool:
        """Say for ever which artifact a version is.

        Returns:
            False when the same had been said before.

        Raises:
            LoradockError: `artifact_conflict` when it is another artifact; `invalid_name`, `store_unavailable`,
                `store_denied`.
        """
        digest_folder(digest)
        key = _pointer_key(adapter, version)
        content = {"adapter": adapter, "version": version, "digest": digest, "format": _POINTER_FORMAT}
        if self._objects.put_if_absent(key, json.dumps(content, sort_keys=True).encode()):
            return True
        if self.pointer(adapter, version) != digest:
            raise LoradockError("artifact_conflict", f"{adapter}@{version} is another artifact in the store")
        return False

    def pointer(self, adapter: str, version: int) -> str | None:
        """The digest of a version, None when it has no pointer.

        Raises:
            LoradockError: `artifact_conflict` when the pointer is not one of ours; `invalid_name`,
                `store_unavailable`, `store_denied`.
        """
        key = _pointer_key(adapter, version)
        try:
            data = self._read(key, MAX_POINTER_BYTES)
        except LoradockError as error:
            if error.code == "artifact_missing":
                return None
            raise
        try:
            content: Any = json.loads(data)
            if (content["adapter"], content["version"], content["format"]) != (
                adapter,
                version,
                _POINTER_FORMAT,
            ):
                raise ValueError("it is another version's")
            digest_folder(content["digest"])
            return str(content["digest"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise LoradockError(
                "artifact_conflict", f"{key} is not a pointer to {adapter}@{version}"
            ) from None

    def digests(self, progress: Progress | None = None) -> set[str]:
        """The digests of all artifacts that anything lies of, complete or not.

        Raises:
            LoradockError: `store_unavailable`, `store_denied`.
        """
        told = progress or NoProgress()
        found: set[str] = set()
        for info in self._objects.list(_ARTIFACTS):
            told.advance(0)
            name = info.key.removeprefix(_ARTIFACTS).partition("/")[0]
            if _FOLDER.fullmatch(name):
                found.add(name.replace("-", ":", 1))
        return found

    def delete(self, digest: str, progress: Progress | None = None) -> int:
        """Delete an artifact, the manifest first: what is left after a kill counts as incomplete.

        The caller knows that no version points to it, and that none can come to.

        Returns:
            Bytes that were deleted.

        Raises:
            LoradockError: `store_unavailable`, `store_denied`.
        """
        told = progress or NoProgress()
        self._objects.delete(_manifest_key(digest))
        freed = 0
        for info in list(self._objects.list(artifact_key(digest))):
            told.advance(0)
            self._objects.delete(info.key)
            freed += info.size
        return freed

    def sweep(self, older_than_seconds: float) -> list[str]:
        """Remove what killed uploads left unfinished; returns a name for each.

        Raises:
            LoradockError: `store_unavailable`, `store_denied`.
        """
        return self._objects.sweep(older_than_seconds)

    @property
    def uploads(self) -> UploadArea:
        """What callers have uploaded here, on its way to a publish."""
        return UploadArea(self._objects)

    def _complete(self, manifest: Manifest) -> bool:
        """Whether the manifest is there already.

        Raises:
            LoradockError: `artifact_conflict` when another one is.
        """
        try:
            found = self.manifest(manifest.digest)
        except LoradockError as error:
            if error.code == "artifact_missing":
                return False
            if error.code == "artifact_corrupt":
                raise _conflict(manifest.digest) from None
            raise
        if found.files != manifest.files:
            raise _conflict(manifest.digest)
        return True

    def _create_manifest(self, manifest: Manifest) -> None:
        created = self._objects.put_if_absent(_manifest_key(manifest.digest), manifest_bytes(manifest))
        if not created and not self._complete(manifest):
            raise LoradockError("store_unavailable", f"the manifest of {manifest.digest} came and went")

    def _holds(self, key: str, file: ManifestFile, progress: Progress, *, read_back: bool) -> bool:
        info = self._objects.head(key)
        if info is None or info.size != file.size:
            return False
        if not read_back and info.sha256 is not None:
            return info.sha256 == file.sha256
        with self._objects.open(key) as reader:
            found = hash_stream(reader, progress, limit=file.size)
        return (found.size, found.sha256) == (file.size, file.sha256)

    def _read(self, key: str, limit: int) -> bytes:
        data = bytearray()
        buffer = memoryview(bytearray(64 * 1024))
        with self._objects.open(key) as reader:
            while count := reader.readinto(buffer):
                data += buffer[:count]
                if len(data) > limit:
                    raise LoradockError("artifact_corrupt", f"{key} has more than {limit} bytes")
        return bytes(data)


def artifact_key(digest: str) -> str:
    """The prefix below which an artifact's files and its manifest lie."""
    return f"{_ARTIFACTS}{digest_folder(digest)}/"


def _manifest_key(digest: str) -> str:
    return artifact_key(digest) + MANIFEST_FILE


def _file_key(digest: str, path: str) -> str:
    return artifact_key(digest) + path


def _pointer_key(adapter: str, version: int) -> str:
    check_adapter_name(adapter)
    if not 1 <= version <= MAX_VERSION:
        raise LoradockError("invalid_name", f"{version} is not a version's number")
    return f"versions/{adapter.replace('/', '+')}/{version}.json"


def _conflict(digest: str) -> LoradockError:
    return LoradockError("artifact_conflict", f"the store holds another manifest under {digest}")
