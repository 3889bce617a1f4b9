"""Workers without an engine: the extension's own desks over adapters that are only names."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loradock_vllm.staging.desk import StagingDesk
from loradock_vllm.staging.engine_loras import Reservation, StagingRefusedError
from loradock_vllm.staging.pace import Pace

SLOTS = 2


class FakeLoras:
    """One worker's adapters.

    Attributes:
        hold: a staging thread waits for it before it is done, pausing meanwhile.
        failure: raised by every preparation.
        refusal: the words with which a commit is refused.
    """

    def __init__(self) -> None:
        self.reserved: set[int] = set()
        self.resident: dict[int, str] = {}
        self.hold = threading.Event()
        self.hold.set()
        self.failure: Exception | None = None
        self.refusal = ""
        self.weights: list[Any] = []

    def busy(self) -> bool:
        return True

    def reserve(self, int_id: int) -> Reservation:
        if len(self.resident) + len(self.reserved) >= SLOTS:
            raise StagingRefusedError("No free lora slots")
        self.reserved.add(int_id)
        return Reservation(int_id, len(self.reserved))

    def prepare(self, reservation: Reservation, name: str, path: str, pace: Pace, max_bytes: int) -> Any:
        while not self.hold.wait(0.001):
            pace.pause()
        if self.failure is not None:
            raise self.failure
        return f"{name} from {path}"

    def commit(self, reservation: Reservation, lora: Any) -> None:
        if self.refusal:
            raise StagingRefusedError(self.refusal)
        self.reserved.discard(reservation.int_id)
        self.resident[reservation.int_id] = lora

    def release(self, reservation: Reservation) -> None:
        self.reserved.discard(reservation.int_id)

    def remove(self, int_id: int) -> None:
        self.resident.pop(int_id, None)

    @property
    def empty(self) -> bool:
        return not self.resident and not self.reserved


@dataclass
class FakeEngine:
    """An engine client over some workers, which answer one call after the other.

    Attributes:
        missing: what the workers say they lack.
        before: called before a method reaches the workers.
        swallowed: methods whose answers never come, though the workers do what they are asked.
    """

    loras: list[FakeLoras]
    missing: tuple[str, ...] = ()
    before: Callable[[str], None] = lambda _: None
    swallowed: set[str] = field(default_factory=set)
    called: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desks = [StagingDesk(loras, rank) for rank, loras in enumerate(self.loras)]

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = ()
    ) -> list[Any]:
        assert timeout is None
        await asyncio.sleep(0)
        self.called.append(method)
        self.before(method)
        answers = [self._answer(desk, method, args) for desk in self.desks]
        if method in self.swallowed:
            await asyncio.sleep(3600)
        return answers

    def _answer(self, desk: StagingDesk, method: str, args: tuple[Any, ...]) -> Any:
        if method == "loradock_probe":
            return {"state": "ready", "error": "", "missing": list(self.missing)}
        return getattr(desk, method.removeprefix("loradock_"))(*args)

    @property
    def empty(self) -> bool:
        """Whether nothing of any adapter is on any worker."""
        return all(loras.empty for loras in self.loras)
