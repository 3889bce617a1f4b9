"""How soon after one another loads may begin: every load costs the running answers a little."""

from dataclasses import dataclass, field
from typing import Any, Final

MINUTE: Final = 60.0


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What the operator allows.

    Attributes:
        pause_seconds: least time between the end of a load and the beginning of the next.
        per_minute: how many loads may begin within any minute; None is any number.
    """

    pause_seconds: float = 0.0
    per_minute: int | None = None

    def wait_seconds(self, loads: "RecentLoads", now: float) -> float:
        """How long a load that would begin now has to wait; 0 when it may begin."""
        wait = loads.ended + self.pause_seconds - now if loads.ended is not None else 0.0
        if self.per_minute is not None and len(loads.begun) >= self.per_minute:
            wait = max(wait, loads.begun[-self.per_minute] + MINUTE - now)
        return max(0.0, wait)


@dataclass(slots=True)
class RecentLoads:
    """When loads began and ended, in seconds of the machine's monotonic clock, which all its processes share.

    Attributes:
        begun: those of the last minute, oldest first.
        ended: the last end.
    """

    begun: list[float] = field(default_factory=list)
    ended: float | None = None

    def begin(self, now: float) -> None:
        """A load begins."""
        self.begun = [moment for moment in self.begun if moment > now - MINUTE]
        self.begun.append(now)

    def end(self, now: float) -> None:
        """It has ended, well or not."""
        self.ended = now

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {"begun": self.begun, "ended": self.ended}
