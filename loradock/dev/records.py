"""Which processes a stack started, so that the next run can end those that a killed run left behind.

On Linux nothing is ever left (child.py); this is the belt to those braces, and all there is on other systems.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from loradock.dev.files import write_private


def start_mark(pid: int) -> str | None:
    """When this process began, in words that no other process of this number ever has; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, IndexError):
        if Path("/proc/self").exists():
            return None
        done = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


class ProcessRecords:
    """The file of a stack's processes.

    Args:
        path: JSON, `{name: {"pid": number, "started": mark}}`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, int | str]] = {}

    def add(self, name: str, pid: int) -> None:
        """Remember a process right after its start."""
        mark = start_mark(pid)
        if mark is not None:
            self._entries[name] = {"pid": pid, "started": mark}
            write_private(self._path, json.dumps(self._entries, indent=1))

    def clear(self) -> None:
        """Forget all, after a clean stop."""
        self._entries = {}
        self._path.unlink(missing_ok=True)

    def end_leftovers(self, *, patience: float = 10.0) -> list[str]:
        """End what the file names and is still that very process; returns the names.

        Args:
            patience: seconds between asking and killing.
        """
        ours = {name: pid for name, pid, mark in self._read() if start_mark(pid) == mark}
        marks = {name: mark for name, pid, mark in self._read() if name in ours}
        ends = time.monotonic() + patience
        _signal_all(ours.values(), signal.SIGTERM)
        left = dict(ours)
        while left:
            left = {name: pid for name, pid in left.items() if start_mark(pid) == marks[name]}
            if time.monotonic() > ends:
                _signal_all(left.values(), signal.SIGKILL)
            if left:
                time.sleep(0.05)
        self.clear()
        return sorted(ours)

    def _read(self) -> list[tuple[str, int, str]]:
        try:
            content = json.loads(self._path.read_text())
            entries = [
                (str(name), int(entry["pid"]), str(entry["started"])) for name, entry in content.items()
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []
        return [entry for entry in entries if entry[1] > 1]


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
