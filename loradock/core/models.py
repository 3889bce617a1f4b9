"""The models that cross rooms: what an artifact is, what a run is, how something ended."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from loradock.core.errors import LoradockError

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
"""`sha256:` and 64 hex digits."""


def utc_now() -> datetime:
    """The time now, with its zone. Never called in a workflow."""
    return datetime.now(UTC)


class Model(BaseModel):
    """Base of our models: immutable, and unknown fields are a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestFile(Model):
    """One file of an artifact.

    Attributes:
        path: relative, with forward slashes, no `..`.
        size: bytes.
        sha256: 64 hex digits.
    """

    path: str
    size: int = Field(ge=0)
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Manifest(Model):
    """What exactly a version is: its files by hash, and one digest over them.

    Attributes:
        digest: over the sorted files' paths, sizes and hashes.
        files: the files that an engine needs, sorted by path.
        left_out: paths that lay in the source and were not taken (optimizer states …).
    """

    digest: Digest
    files: tuple[ManifestFile, ...]
    left_out: tuple[str, ...] = ()

    @property
    def total_size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


class AdapterTraits(Model):
    """What inspection read from the config and the weights' header.

    Attributes:
        peft_base_model: `base_model_name_or_path` as PEFT wrote it: shown, never trusted.
        rank: the highest rank of any module.
        target_modules: the modules that the weights really have, sorted.
        dtype: of the weights, e.g. `F32`; several are joined by a comma.
        tensors: how many.
        parameters: how many numbers in all.
        layers: one more than the highest layer index seen, 0 without layers.
    """

    peft_base_model: str | None
    rank: int = Field(ge=1)
    alpha: float
    use_rslora: bool = False
    target_modules: tuple[str, ...]
    dtype: str
    tensors: int
    parameters: int
    layers: int = 0


class VersionRef(Model):
    """A version, with all that an engine and a cache need to tell it from any other."""

    adapter: str
    version: int = Field(ge=1)
    digest: Digest
    int_id: int = Field(ge=1)

    @property
    def served_name(self) -> str:
        """`adapter@version`."""
        return f"{self.adapter}@{self.version}"


class RunRef(Model):
    """Who acts: carried by every call to registry, host and engine, so that a late one is refused.

    Attributes:
        operation: operation id.
        run_id: the workflow run's id (the operation's own workflow, not a child's).
        epoch: the fencing epoch that the operation holds.
    """

    operation: str
    run_id: str
    epoch: int = Field(ge=0)


class Failure(Model):
    """How something ended badly, for rows and for people."""

    code: str
    message: str
    details: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, error: LoradockError) -> "Failure":
        """The failure that an error is."""
        return cls(code=error.code, message=error.message, details=error.details)


class OperationKind(StrEnum):
    """What an operation does."""

    PUBLISH = "publish"
    LOAD = "load"
    UNLOAD = "unload"


class OperationState(StrEnum):
    """Where an operation stands."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPENSATING = "compensating"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def active(self) -> bool:
        """Whether the operation still holds its lock."""
        return self in ACTIVE_STATES


ACTIVE_STATES = frozenset(
    {OperationState.PENDING, OperationState.RUNNING, OperationState.PAUSED, OperationState.COMPENSATING}
)


class StepState(StrEnum):
    """Where one step of an operation stands."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNDONE = "undone"
    SKIPPED = "skipped"


class VersionState(StrEnum):
    """Where a version stands."""

    PUBLISHING = "publishing"
    READY = "ready"
    FAILED = "failed"
    RETIRED = "retired"
    """Deleted by somebody, or by retention: number and digest stay for history, a publish of the same bytes revives it."""


class CardState(StrEnum):
    """Where a deployment card stands. Traffic follows `serving` alone."""

    STAGED = "staged"
    """Resident and verified; becomes routable with the last transaction of its load."""
    SERVING = "serving"
    DRAINING = "draining"
    LOST = "lost"


class EngineStatus(StrEnum):
    """Whether an engine can be given work."""

    ALIVE = "alive"
    UNREACHABLE = "unreachable"
    """Its agent renews the lease and says that the engine does not answer."""
    LOST = "lost"
    """Its agent's lease ran out."""


class StepReport(Model):
    """A step of an operation as it stood at one moment.

    Attributes:
        engine: engine id, empty for a step that no single engine does.
        attempt: 1 for the first try; 0 while not begun, and in an end that is told without knowing the attempt.
    """

    name: str
    engine: str = ""
    state: StepState
    attempt: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: Failure | None = None
    detail: dict[str, Any] = Field(default_factory=dict)
