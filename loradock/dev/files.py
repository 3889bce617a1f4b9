"""Small files of the stack's state: private, and never half written."""

import hashlib
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from loradock.core.errors import LoradockError

_SOCKET_FOLDER = 64  # of the 107 characters of a socket's path; vLLM adds a uuid


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def temporary_folder(state: Path) -> Path:
    """An empty folder of ours for sockets and scratch files, the same for every run, so that no run leaves more.

    It lies in the state folder, or, where that path is too long for a socket's name, in the system's temp folder.

    Raises:
        LoradockError: `stack_failed` when somebody else has the folder.
    """
    folder = state.resolve() / "tmp"
    if len(str(folder)) > _SOCKET_FOLDER:
        mark = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"loradock-{os.getuid()}-{mark}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise LoradockError("stack_failed", f"{folder} belongs to somebody else: remove it")
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return folder


def read_or_create_secret(path: Path, *, size: int = 32) -> str:
    """The secret in this file, made at the first call.

    Args:
        size: bytes of randomness.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        secret = ""
    if not secret:
        secret = secrets.token_urlsafe(size)
        write_private(path, secret)
    return secret
