"""What an engine can do for us, and the words it is done with. Field names are those of the extension's HTTP surface."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from loradock.core.models import Digest, Model, RunRef, VersionRef
from loradock.core.promises import EnginePromise

UNKNOWN_DIGEST = f"sha256:{'0' * 64}"
"""Stands for weights of which nothing tells what they are: it equals no version's digest."""

MAX_WAIT_SECONDS = 30.0
"""The longest single wait that a call to an engine may ask for."""

WaitSeconds = Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS)]


class Received(BaseModel):
    """Base of what engines send: a newer extension may send more than we know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AdapterState(StrEnum):
    """Whether an engine admits new requests for an adapter."""

    SERVING = "serving"
    DRAINING = "draining"


class EngineVersion(Received):
    """What the engine is.

    Attributes:
        kind: `vllm` (through the extension), `stock-vllm` or `simulated`.
        tested: whether the extension, or the driver for stock vLLM, was tested with this version.
    """

    kind: str
    version: str
    tested: bool


class AdapterReport(Received):
    """One adapter that was loaded.

    Attributes:
        digest: `UNKNOWN_DIGEST` when nothing tells it.
        int_id: 0 when nothing tells it.
        in_flight: requests that run now; None when the engine does not count them (`drain_count`).
        resident: whether the engine itself lists it; without `residency_check`, whether it lists the name or drains it.
        operation: the operation that loaded it; empty when that is not known.
        epoch: the highest epoch seen for the name.
    """

    served_name: str
    digest: Digest
    int_id: int
    path: str
    state: AdapterState
    in_flight: int | None
    resident: bool
    operation: str
    epoch: int
    loaded_at: datetime


class EngineState(Received):
    """What an engine holds at one moment.

    Attributes:
        incarnation: new at every start of the engine.
        max_loras: adapter slots; `usable_slots` of them can be used without harm, `free_slots` are free.
        foreign_int_ids: resident ids that the extension did not load.
        in_flight_base: running requests that use none of the adapters; None when the engine does not count them.
        base_config: part of the base model's `config.json`; None when the engine does not tell it.
        missing_promises: what this engine cannot promise.
        unfinished: names that are gone, for which requests may still run: their files are needed.
    """

    incarnation: str
    extension_version: str
    engine: EngineVersion
    base_model: str
    max_loras: int
    usable_slots: int
    free_slots: int
    max_lora_rank: int
    device: str
    capabilities: tuple[str, ...]
    limitations: tuple[str, ...]
    adapters: tuple[AdapterReport, ...]
    foreign_int_ids: tuple[int, ...]
    in_flight_base: int | None
    base_config: dict[str, Any] | None = None
    missing_promises: tuple[EnginePromise, ...] = ()
    unfinished: tuple[str, ...] = ()

    def adapter(self, served_name: str) -> AdapterReport | None:
        """The report on one adapter."""
        return next((adapter for adapter in self.adapters if adapter.served_name == served_name), None)


class Command(Model):
    """What every call carries: which name, which life of the engine, and who acts.

    Attributes:
        incarnation: the one that the caller means; another one refuses.
        epoch: the fencing epoch of the operation; an older one than the engine saw for the name is refused.
        undo: the call puts back what its run did. After one, calls of the same run and epoch that go forward are too
            late and are refused.
    """

    served_name: str
    incarnation: str
    operation: str
    run_id: str
    epoch: int = Field(ge=0)
    undo: bool = False


class LoadCommand(Command):
    """Load a version from a folder on the engine's own disk; the path carries the digest."""

    int_id: int = Field(ge=1)
    path: str
    digest: Digest

    @classmethod
    def of(
        cls, version: VersionRef, run: RunRef, *, incarnation: str, path: str, undo: bool = False
    ) -> "LoadCommand":
        """The load of a version by a run."""
        return cls(
            served_name=version.served_name,
            int_id=version.int_id,
            digest=version.digest,
            path=path,
            incarnation=incarnation,
            undo=undo,
            **run.model_dump(),
        )


class DrainCommand(Command):
    """Refuse new requests for a name; wait at most so long for the running ones."""

    wait_seconds: WaitSeconds = 0.0


class ResumeCommand(Command):
    """Admit requests for a name again: the undo of a drain."""


class UnloadCommand(Command):
    """Drain a name and remove its adapter.

    Attributes:
        only_operation: when given, nothing is done unless this operation loaded the adapter.
        on_timeout: what happens to requests that still run after `drain_seconds`.
    """

    only_operation: str | None = None
    drain_seconds: WaitSeconds = 0.0
    on_timeout: Literal["keep_draining", "abort"] = "keep_draining"


class LoadResult(Received):
    """A load that went well. `already_loaded` leaves the adapter with the operation that loaded it.

    Attributes:
        unkept: promises that this load could not keep.
    """

    outcome: Literal["loaded", "already_loaded"]
    incarnation: str
    adapter: AdapterReport
    seconds: float
    unkept: tuple[EnginePromise, ...] = ()


class DrainResult(Received):
    """How far a drain has come: `drained` when no request runs any more.

    Attributes:
        in_flight: None when the engine does not count (`drain_count`).
        unkept: promises that this drain could not keep.
    """

    outcome: Literal["drained", "draining"]
    in_flight: int | None
    unkept: tuple[EnginePromise, ...] = ()


class ResumeResult(Received):
    """The name is admitted again."""

    outcome: Literal["serving"]


class UnloadResult(Received):
    """What an unload found: `not_owned` when another operation loaded the adapter, which then stays.

    Attributes:
        unkept: promises that this unload could not keep.
    """

    outcome: Literal["unloaded", "not_loaded", "not_owned"]
    seconds: float
    unkept: tuple[EnginePromise, ...] = ()


class ProbeResult(Received):
    """The answer to a warm-up prompt.

    Attributes:
        served_name: the model that the engine says has answered.
        text: what it said, possibly nothing visible.
    """

    served_name: str
    text: str
    seconds: float


class Engine(Protocol):
    """One engine. All calls can be repeated without harm. What an engine cannot promise its state says.

    Every method raises `LoradockError`: the extension's own codes, `engine_unreachable` (retryable) when nothing answers
    or the answer does not come in time (with `details.refused` when nobody listens there: the process is gone),
    `engine_unauthorized`, `engine_error`.
    """

    async def state(self) -> EngineState:
        """What the engine holds now."""

    async def load(self, command: LoadCommand) -> LoadResult:
        """Load a version; the same name with the same digest is no mistake."""

    async def drain(self, command: DrainCommand) -> DrainResult:
        """Refuse new requests for a name."""

    async def resume(self, command: ResumeCommand) -> ResumeResult:
        """Admit requests again."""

    async def unload(self, command: UnloadCommand) -> UnloadResult:
        """Drain and remove; what is not there is no mistake."""

    async def probe(self, served_name: str, prompt: str) -> ProbeResult:
        """Have one token answered under this name.

        Raises:
            LoradockError: `engine_not_verified` when the engine answers under another name or not at all.
        """

    async def aclose(self) -> None:
        """Close the connections."""
