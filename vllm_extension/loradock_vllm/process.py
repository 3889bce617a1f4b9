"""Who a process is: its id and the moment of its start, which no later process has together."""

from pathlib import Path
from typing import Final, NamedTuple

_STATE_FIELD: Final = 2
_START_FIELD: Final = 21
_DEAD: Final = (b"Z", b"X", b"x")


class ProcessId(NamedTuple):
    """A process of this machine, as seen from this one's pid namespace.

    Attributes:
        start: clock ticks from the machine's start to the process's; 0 when it is not alive.
    """

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """The process that has this id now."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return cls(pid, 0)
        # The name, in parentheses, may hold anything; after the last one come the plain fields.
        fields = stat[stat.rindex(b")") + 2 :].split()
        dead = fields[_STATE_FIELD - 2] in _DEAD
        return cls(pid, 0 if dead else int(fields[_START_FIELD - 2]))

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.start != 0 and ProcessId.of(self.pid) == self


def machine_mark() -> str:
    """Tells this boot of this machine, and this pid namespace, from every other: process ids mean nothing elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return "unknown"
    return f"{boot}-{namespace}"
