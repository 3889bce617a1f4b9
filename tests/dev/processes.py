"""Helpers to look at real processes."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def alive(pid: int) -> bool:
    """Whether this process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Whether the condition came true in time."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.02)
    return True


def environment(**more: str) -> dict[str, str]:
    """Enough of an environment to run our code in a child."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1", **more}


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs this code."""
    return (sys.executable, "-c", code, *arguments)


@contextlib.contextmanager
def ended(*pids: int) -> Iterator[None]:
    """Whatever the test says, these processes are gone afterwards."""
    try:
        yield
    finally:
        for pid in pids:
            if alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
