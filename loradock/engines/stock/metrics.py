"""What a stock vLLM tells in `/metrics`: in which life it is, and as far as it goes for which adapters requests run.

Read in vLLM 0.32 (`vllm/v1/metrics/loggers.py`, `stats.py`) and seen there:

- `process_start_time_seconds` comes with every Prometheus client on Linux; not with several API server processes, which vLLM
  refuses together with adapters that change at run time.
- `vllm:num_requests_running` and `…_waiting` are the scheduler's own counts, as of its last step, by data parallel rank.
- `vllm:lora_requests_info` has one series for each set of names that was ever seen; its value is the time when that was. The
  newest tells for which names requests had a first token and no end. It is not there before the engine's first request, and
  means nothing with several ranks, of which each writes its own.
"""

import re
from dataclasses import dataclass
from typing import Final

_SAMPLE: Final = r"^{name}(?:\{{(?P<labels>[^\n]*)\}})? (?P<value>[0-9.eE+-]+)$"
_START: Final = re.compile(_SAMPLE.format(name="process_start_time_seconds"), re.MULTILINE)
_MADE: Final = re.compile(_SAMPLE.format(name="vllm:request_success_created"), re.MULTILINE)
_RUNNING: Final = re.compile(_SAMPLE.format(name="vllm:num_requests_running"), re.MULTILINE)
_WAITING: Final = re.compile(_SAMPLE.format(name="vllm:num_requests_waiting"), re.MULTILINE)
_LORA: Final = re.compile(_SAMPLE.format(name="vllm:lora_requests_info"), re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Metrics:
    """One reading.

    Attributes:
        incarnation: new at every start of the server: when its process started, and when it made its counters. None
            when it does not tell.
        requests: those that the scheduler has, None when it does not tell.
        ranks: data parallel ranks.
        busy: names for which requests run, None when it does not tell.
        max_loras: adapter slots, None as long as it does not tell.
    """

    incarnation: str | None
    requests: int | None
    ranks: int
    busy: frozenset[str] | None
    max_loras: int | None

    @classmethod
    def read(cls, text: str) -> "Metrics":
        """Read Prometheus' text form."""
        running, waiting = _values(_RUNNING, text), _values(_WAITING, text)
        newest = max(_LORA.finditer(text), key=lambda match: float(match["value"]), default=None)
        labels = dict(_LABEL.findall(newest["labels"] or "")) if newest else {}
        slots = labels.get("max_lora", "")
        names = ",".join(labels.get(f"{state}_lora_adapters", "") for state in ("running", "waiting"))
        return cls(
            incarnation=_incarnation(text),
            requests=int(sum(running) + sum(waiting)) if running else None,
            ranks=max(1, len(running)),
            busy=frozenset(filter(None, names.split(","))) if newest else None,
            max_loras=int(slots) if slots.isdigit() else None,
        )

    def runs(self, name: str) -> bool | None:
        """Whether requests run for a name; None when that cannot be told."""
        if self.requests == 0:
            return False
        if self.requests is None or self.busy is None or self.ranks > 1:
            return None
        return name in self.busy


def started_at(incarnation: str) -> float:
    """When the life began that an incarnation names, in seconds since 1970; 0 when it is none of ours."""
    try:
        return float(incarnation.partition("-")[0])
    except ValueError:
        return 0.0


def _incarnation(text: str) -> str | None:
    start = _values(_START, text)
    if not start:
        return None
    made = min(_values(_MADE, text), default=0.0)
    # The clock by which the start is told may be set back: the second time tells two lives apart then, too.
    return f"{start[0]:.2f}-{made * 1000:.0f}"


def _values(pattern: re.Pattern[str], text: str) -> list[float]:
    return [float(match["value"]) for match in pattern.finditer(text)]
