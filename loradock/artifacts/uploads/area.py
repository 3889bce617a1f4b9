"""The part of an object store that uploads lie in: `uploads/<session>/<file>`, removed as a whole."""

import re
from collections.abc import Sequence
from typing import Final

from loradock.artifacts.manifest import manifest_digest, select_files
from loradock.artifacts.paths import check_relative_path
from loradock.artifacts.protocol import UPLOADS, NoProgress, ObjectStore, Progress, SourceFile
from loradock.artifacts.signatures.protocol import MAX_BUNDLE_BYTES
from loradock.core.errors import LoradockError
from loradock.core.models import ManifestFile
from loradock.core.uploads import DeclaredUpload

_SESSION: Final = re.compile(r"up-[0-9a-f]{32}")


def session_prefix(session: str) -> str:
    """Where the files of a session lie.

    Raises:
        LoradockError: `upload_not_found` for what is no session's id.
    """
    if not _SESSION.fullmatch(session):
        raise LoradockError("upload_not_found", "this is no upload session's id")
    return f"{UPLOADS}{session}/"


def file_key(session: str, path: str) -> str:
    """The key of one uploaded file."""
    return session_prefix(session) + path


def check_declared(files: Sequence[ManifestFile], *, max_bytes: int) -> DeclaredUpload:
    """What declared files are, when they are what an adapter needs and nothing else.

    Raises:
        LoradockError: `upload_not_taken`, `source_too_large`, `weights_missing`, `config_missing`.
    """
    for file in files:
        try:
            check_relative_path(file.path)
        except ValueError as error:
            raise LoradockError("upload_not_taken", str(error)) from None
    if len({file.path for file in files}) != len(files):
        raise LoradockError("upload_not_taken", "a file is declared twice")
    chosen = select_files([SourceFile(file.path, file.size, "") for file in files], max_bytes=max_bytes)
    if chosen.left_out:
        raise LoradockError("upload_not_taken", f"{chosen.left_out[0][:100]!r} is no file of an adapter")
    if chosen.signature is not None and chosen.signature.size > MAX_BUNDLE_BYTES:
        raise LoradockError("upload_not_taken", f"a signature has at most {MAX_BUNDLE_BYTES} bytes")
    own = {file.path for file in chosen.taken}
    return DeclaredUpload(
        digest=manifest_digest(file for file in files if file.path in own),
        beside=tuple(file.path for file in files if file.path not in own),
    )


class UploadArea:
    """All uploads of an object store, as publishes and the collector see them.

    Args:
        objects: the store.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def sessions(self, progress: Progress | None = None) -> set[str]:
        """The sessions that anything lies of, whole files or parts.

        Raises:
            LoradockError: `store_unavailable`, `store_denied`.
        """
        told = progress or NoProgress()
        found: set[str] = set()
        keys = (key for info in self._objects.list(UPLOADS) for key in (info.key,))
        for key in (*keys, *self._objects.unfinished(UPLOADS)):
            told.advance(0)
            name = key.removeprefix(UPLOADS).partition("/")[0]
            if _SESSION.fullmatch(name):
                found.add(name)
        return found

    def remove(self, session: str, progress: Progress | None = None) -> int:
        """Remove all that lies of a session, unfinished parts first; fine when there is nothing.

        Returns:
            Bytes of the whole files that were removed.

        Raises:
            LoradockError: `store_unavailable`, `store_denied`.
        """
        told = progress or NoProgress()
        prefix = session_prefix(session)
        self._objects.abandon(prefix)
        freed = 0
        for info in list(self._objects.list(prefix)):
            told.advance(0)
            self._objects.delete(info.key)
            freed += info.size
        return freed
