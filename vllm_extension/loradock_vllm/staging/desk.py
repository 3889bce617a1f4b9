"""One adapter at a time on its way into a worker: staged in a thread, committed in the step loop."""

import contextlib
import socket
import threading
import time
from enum import StrEnum
from typing import Any, Final, Protocol

from loradock_vllm.staging.engine_loras import Reservation, StagingRefusedError, TooLargeToStageError
from loradock_vllm.staging.pace import Pace, StagingCancelledError

TEXT_LIMIT: Final = 2000


class StagingState(StrEnum):
    """How far a staging is.

    `ending`: called off, its thread still runs. `gone`: nothing of it is left.
    """

    STAGING = "staging"
    READY = "ready"
    FAILED = "failed"
    REFUSED = "refused"
    TOO_LARGE = "too_large"
    COMMITTED = "committed"
    ENDING = "ending"
    GONE = "gone"
    UNKNOWN = "unknown"


class Loras(Protocol):
    """What a staging needs of the engine; see `EngineLoras`."""

    def busy(self) -> bool:
        """Whether requests run now."""

    def reserve(self, int_id: int) -> Reservation:
        """Keep a free slot."""

    def prepare(self, reservation: Reservation, name: str, path: str, pace: Pace, max_bytes: int) -> Any:
        """Read an adapter and write it to its slot, in a thread."""

    def commit(self, reservation: Reservation, lora: Any) -> None:
        """Make it one of the engine's adapters."""

    def release(self, reservation: Reservation) -> None:
        """Give the slot back."""

    def remove(self, int_id: int) -> None:
        """Take a committed adapter out again."""


class Staging:
    """One adapter between its file and its commit.

    Args:
        order: what the server asked for: `token`, `name`, `int_id`, `path`, `seconds` until it is given up,
            `max_bytes`, `work_seconds`, `rest_seconds`, `notify` (a socket's name, or empty).
    """

    def __init__(self, loras: Loras, order: dict[str, Any], rank: int) -> None:
        self.token = str(order["token"])
        self.int_id = int(order["int_id"])
        self.state = StagingState.STAGING
        self.error = ""
        self._order = order
        self._rank = rank
        self._loras = loras
        self._lora: Any = None
        self._lock = threading.Lock()
        self._settled = threading.Event()
        self._still = threading.Event()
        self._started = time.monotonic()
        self._deadline = self._started + float(order["seconds"])
        self._ready_after = 0.0
        self._pace = Pace(
            loras.busy,
            work_seconds=float(order["work_seconds"]),
            rest_seconds=float(order["rest_seconds"]),
            deadline=self._deadline,
        )
        self.reservation = loras.reserve(self.int_id)
        try:
            threading.Thread(target=self._run, name="loradock-staging", daemon=True).start()
        except BaseException:
            loras.release(self.reservation)
            raise

    @property
    def is_over(self) -> bool:
        """Whether it will never be committed and its thread touches nothing any more: its slot can be freed."""
        return self._still.is_set() and self.state not in (StagingState.READY, StagingState.COMMITTED)

    def report(self) -> dict[str, Any]:
        """Where it stands, for the server."""
        return {
            "state": self.state.value,
            "error": self.error,
            "seconds": round(self._ready_after, 6),
            "rested_seconds": round(self._pace.rested, 6),
        }

    def commit(self) -> None:
        """Hand the adapter to the engine. Only in the step loop.

        Raises:
            StagingRefusedError: it is not ready, or the engine cannot take it.
        """
        with self._lock:
            if self.state is not StagingState.READY:
                raise StagingRefusedError(f"the staging is {self.state.value} {self.error}".strip())
            self._loras.commit(self.reservation, self._lora)
            self._lora = None
            self.state = StagingState.COMMITTED
        self._settled.set()

    def cancel(self, why: str) -> None:
        """Have it end; what it holds goes as soon as its thread has stopped."""
        with self._lock:
            if self.state in (StagingState.STAGING, StagingState.READY):
                self._fail(why)
        self._pace.cancel()
        self._settled.set()

    def _fail(self, error: str, state: StagingState = StagingState.FAILED) -> None:
        self._lora = None
        self.state, self.error = state, error[:TEXT_LIMIT]

    def _run(self) -> None:
        order = self._order
        try:
            lora = self._loras.prepare(
                self.reservation, order["name"], order["path"], self._pace, int(order["max_bytes"])
            )
            with self._lock:
                if self.state is StagingState.STAGING:
                    self._lora, self.state = lora, StagingState.READY
            del lora
        except TooLargeToStageError as error:
            self._end(str(error), StagingState.TOO_LARGE)
        except StagingCancelledError as error:
            self._end(str(error))
        except BaseException as error:
            self._end(str(error) or repr(error))
        self._ready_after = time.monotonic() - self._started
        self._still.set()
        self._notify()
        # Nobody may come for it any more: then the weights must not stay until the next load.
        if not self._settled.wait(max(0.0, self._deadline - time.monotonic())):
            self.cancel("nobody committed it in time")

    def _end(self, error: str, state: StagingState = StagingState.FAILED) -> None:
        with self._lock:
            if self.state is StagingState.STAGING:
                self._fail(error, state)

    def _notify(self) -> None:
        """Wake the server that waits. Only a hint: a server that hears nothing asks from time to time."""
        name = str(self._order["notify"])
        if not name:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(f"{self.token} {self._rank} {self.state.value}".encode(), f"\0{name}")


class StagingDesk:
    """The worker's side of staged loads: at most one at a time. All methods run in the step loop, none raises for a
    foreseen reason, and none waits.

    Args:
        rank: of this worker, for the server's eyes.
    """

    def __init__(self, loras: Loras, rank: int) -> None:
        self._loras = loras
        self._rank = rank
        self._current: Staging | None = None

    def stage(self, order: dict[str, Any]) -> dict[str, Any]:
        """Begin to stage an adapter, or refuse to. The same order again finds what is under way."""
        self.sweep()
        current = self._current
        if current is not None and current.token == order["token"]:
            return current.report()
        if current is not None and current.state is not StagingState.COMMITTED:
            return _refused(f"int id {current.int_id} is being staged")
        try:
            self._current = Staging(self._loras, order, self._rank)
        except StagingRefusedError as error:
            return _refused(str(error))
        return self._current.report()

    def staged(self, token: str) -> dict[str, Any]:
        """Where a staging stands."""
        current = self._current
        if current is None or current.token != token:
            return {"state": StagingState.UNKNOWN.value, "error": "no such staging"}
        return current.report()

    def commit(self, token: str) -> dict[str, Any]:
        """Hand a staged adapter to the engine."""
        current = self._current
        if current is None or current.token != token:
            return _refused("no such staging")
        if current.state is not StagingState.COMMITTED:
            try:
                current.commit()
            except StagingRefusedError as error:
                return _refused(str(error))
        return current.report()

    def discard(self, token: str) -> dict[str, Any]:
        """Have nothing left of a staging, committed or not: `gone`, or `ending` while its thread still stops."""
        current = self._current
        if current is not None and current.token == token:
            if current.state is StagingState.COMMITTED:
                self._loras.remove(current.int_id)
                self._current = None
            else:
                current.cancel("it was discarded")
        self.sweep()
        left = self._current is not None and self._current.token == token
        return {"state": (StagingState.ENDING if left else StagingState.GONE).value, "error": ""}

    def sweep(self) -> None:
        """Free the slot of a staging that came to nothing."""
        if self._current is not None and self._current.is_over:
            self._loras.release(self._current.reservation)
            self._current = None


def _refused(reason: str) -> dict[str, Any]:
    return {"state": StagingState.REFUSED.value, "error": reason[:TEXT_LIMIT]}
