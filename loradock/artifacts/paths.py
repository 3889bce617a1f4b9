"""Relative paths from outside, and the folder name of a digest."""

import re
from typing import Final

MAX_PATH: Final = 512
"""Bytes of a relative path in UTF-8."""
MAX_PART: Final = 200
"""Bytes of one part, so that a suffix of ours still fits into the 255 of a file system."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def check_relative_path(path: str) -> str:
    """Return `path` when it is a plain relative path that stays below any folder it is joined to.

    Raises:
        ValueError: it is not; callers know which of their errors that is.
    """
    if not path.isprintable() or "\\" in path:
        raise ValueError(f"{path[:80]!r} has characters that are not allowed in a path")
    if len(path.encode()) > MAX_PATH:
        raise ValueError(f"{path[:80]!r}… is longer than {MAX_PATH} bytes")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"{path[:80]!r} is not a plain relative path")
        if len(part.encode()) > MAX_PART:
            raise ValueError(f"{path[:80]!r}… has a part longer than {MAX_PART} bytes")
    return path


def digest_folder(digest: str) -> str:
    """`sha256-<hex>` for `sha256:<hex>`.

    Raises:
        ValueError: it is no digest.
    """
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest[:80]!r} is not a digest")
    return digest.replace(":", "-")
