"""What the agent's operator says of a stock vLLM, since the engine does not."""

from dataclasses import dataclass
from typing import Final

MAX_LORA_RANK: Final = 512
"""The highest `--max-lora-rank` that vLLM takes."""


@dataclass(frozen=True, slots=True)
class StockOptions:
    """Facts and times of a stock engine.

    Attributes:
        max_loras: its adapter slots; None asks the engine, which tells them after a first prompt.
        max_lora_rank: its `--max-lora-rank`, which it never tells; an adapter above it is refused by the engine itself.
        on_cpu: it runs on a CPU: there vLLM's last slot must never be used, and no slot comes back.
        quiet_seconds: how long nothing must be seen to run for a name that is gone, until it counts as drained.
        grace_seconds: how long after its name went that is believed where it cannot be told what runs.
    """

    max_loras: int | None = None
    max_lora_rank: int = MAX_LORA_RANK
    on_cpu: bool = False
    quiet_seconds: float = 2.0
    grace_seconds: float = 30.0
