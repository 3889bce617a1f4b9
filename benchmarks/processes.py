"""What processes cost: CPU seconds and memory of a process with all its descendants."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import children_of, proportional_memory

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process and its descendants have used, those that have ended among them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    own = sum(int(fields[at]) for at in (11, 12, 13, 14)) / _TICK
    return own + sum(cpu_seconds(child) for child in children_of(pid))


@dataclass
class Meter:
    """CPU seconds of named processes between two moments.

    Attributes:
        cores: per name: CPU seconds per second of the clock.
    """

    pids: dict[str, int]
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> "Meter":
        self._began = time.perf_counter()
        self._before = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu = {name: cpu_seconds(pid) - self._before[name] for name, pid in self.pids.items()}

    @property
    def cores(self) -> dict[str, float]:
        """CPU seconds per second."""
        return {name: used / self.seconds for name, used in self.cpu.items()}


def memory(pids: dict[str, int]) -> dict[str, float]:
    """Megabytes (PSS) by name."""
    return {name: proportional_memory(pid) for name, pid in pids.items()}
