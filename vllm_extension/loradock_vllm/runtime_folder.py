"""Where the processes of one engine meet: a private folder of the host, with one folder in it for each engine."""

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from loradock_vllm.errors import ConfigurationError
from loradock_vllm.process import ProcessId, machine_mark

_FOLDER: Final = re.compile(r"(?P<machine>.+)-(?P<pid>\d+)-(?P<start>\d+)-\d+")


def engine_folder(root: Path | None, port: int) -> Path:
    """The folder of the engine that this process serves, the same for its siblings and for nobody else.

    It is named by their common parent (the process that started them) and the port that they share. Folders of parents that
    are gone are removed on the way.

    Args:
        root: where such folders lie; a private folder in the system's temporary one when not given.
        port: where the engine's server listens.

    Raises:
        ConfigurationError: the root is not this user's own, or cannot be used.
    """
    root = root or Path(tempfile.gettempdir()) / f"loradock-vllm-{os.getuid()}"
    parent = ProcessId.of(os.getppid())
    machine = machine_mark()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_private(root)
        _sweep(root, machine)
        folder = root / f"{machine}-{parent.pid}-{parent.start}-{port}"
        folder.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"the folder {root} cannot be used: {error.strerror}") from None
    return folder


def _check_private(root: Path) -> None:
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigurationError(
            f"{root} must be a folder of this user, which nobody else can write (LORADOCK_EXTENSION_RUNTIME_FOLDER)"
        )


def _sweep(root: Path, machine: str) -> None:
    """Remove what engines that are gone left; of other machines' and containers' engines nothing can be told."""
    for folder in root.iterdir():
        named = _FOLDER.fullmatch(folder.name)
        if named is None or named["machine"] != machine:
            continue
        if not ProcessId(int(named["pid"]), int(named["start"])).alive:
            shutil.rmtree(folder, ignore_errors=True)
