"""What calls take and give, where it is not a view of the registry as it stands."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from api.fields import (
    AdapterField,
    Count,
    Duration,
    SimpleField,
    SourceField,
    VersionChoice,
    VersionNumber,
)
from loradock.core.models import Digest, ManifestFile, StepReport
from loradock.core.requests import MAX_LABELS, Labels, LoadPolicy
from loradock.core.uploads import (
    MAX_UPLOAD_FILES,
    MOST_PARTS_AT_ONCE,
    PartAddress,
    ReceivedFile,
    UploadState,
    UploadTransfer,
)
from loradock.registry.views import OperationView

DEFAULT_DRAIN_SECONDS = 30.0


class Body(BaseModel):
    """Base of request bodies: unknown fields are a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Body):
    """Where the weights lie."""

    uri: SourceField = Field(
        description="A folder written by PEFT's save_pretrained: `file:///folder` (on the orchestrator's disk) or "
        "`s3://bucket/prefix`. Without credentials, query and fragment."
    )


class PublishBody(Body):
    """Publish a folder of weights as a version. The same weights always give the same version number."""

    source: Source = Field(description="The folder to publish.")
    base_model: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = Field(
        default=None,
        description="The base model that the adapter is for. Kept from the first version on; may be left out later, "
        "and where all engines serve one base model.",
        examples=["meta-llama/Llama-3.1-8B-Instruct"],
    )
    expect_digest: Digest | None = Field(
        default=None,
        description="The publish fails with `digest_mismatch` when the weights are others.",
        examples=["sha256:" + "9f" * 32],
    )
    labels: Labels = Field(
        default_factory=dict, description="Kept with the version.", examples=[{"run": "7", "team": "search"}]
    )


class NewUploadBody(Body):
    """Bring the files of an adapter."""

    files: Annotated[tuple[ManifestFile, ...], Field(min_length=1, max_length=MAX_UPLOAD_FILES)] = Field(
        description="What will be sent: names as in the folder, sizes and hashes. Only files that an adapter needs."
    )
    reuse: bool = Field(
        default=True,
        strict=True,
        description="Send nothing where the adapter has a version of these very files; false: send in any case, for "
        "instance because the stored copy turned out to be damaged.",
    )


class UploadedFileBody(ReceivedFile):
    """A file of an upload, and how much of it is there."""

    path: str
    size: int
    sha256: str


class UploadBody(BaseModel):
    """An upload session as it stands."""

    id: str = Field(examples=["up-0197b1c2d3e4f5061728394a5b6c7d8e"])
    uri: str = Field(description="The source's address for the publish, for you alone.")
    adapter: str
    digest: str = Field(description="Of the declared files.")
    state: UploadState
    stored: bool = Field(
        description="A version of the adapter is these files: nothing need be sent but a signature."
    )
    transfer: UploadTransfer = Field(
        description="`parts`: PUT parts at addresses of the object store; `stream`: PUT each file here."
    )
    created_at: datetime
    expires_at: datetime = Field(
        description="What was sent is removed then, unless a publish of it is under way."
    )
    files: tuple[UploadedFileBody, ...]


class WantedPartsBody(Body):
    """Which parts to give addresses for."""

    parts: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=1, le=10_000)], ...],
        Field(min_length=1, max_length=MOST_PARTS_AT_ONCE),
    ] = Field(description="Their numbers, from 1.", examples=[[1, 2, 3]])


class UploadPartsBody(BaseModel):
    """Addresses for parts."""

    parts: tuple[PartAddress, ...]


class ReceivedBody(BaseModel):
    """How much of a file is there."""

    received: int = Field(description="Bytes.")


class LoadBody(Body):
    """Load a version on the engines of a pool."""

    version: VersionChoice = Field(
        description="A version's number, or an alias, which is resolved now.", examples=[1, "stable"]
    )
    pool: SimpleField | None = Field(
        default=None, description="May be left out where one pool alone serves the adapter's base model."
    )
    engines: Annotated[tuple[SimpleField, ...], Field(min_length=1, max_length=2000)] | None = Field(
        default=None,
        description="These engines only; else every engine of the pool that is alive.",
        examples=[["e0"]],
    )
    labels: Annotated[Labels, Field(max_length=MAX_LABELS)] = Field(
        default_factory=dict,
        description="Engines with all of these labels only; an agent is given them by `--label`.",
        examples=[{"zone": "a"}],
    )
    replicas: Count | Literal["all"] = Field(
        default="all",
        description="On so many of these engines. Those that serve the version already stay; then those with its bytes "
        "and room are chosen, and what is chosen hardly changes when engines come and go.",
        examples=["all", 2],
    )
    policy: LoadPolicy = Field(
        default=LoadPolicy.ALL,
        description="`all`: when one engine fails, every engine is put back. `best_effort`: those that became ready "
        "serve, if they are at least `min_ready`.",
    )
    min_ready: Count = Field(default=1, description="For `best_effort`: how many engines must become ready.")

    @model_validator(mode="after")
    def _enough_engines_named(self) -> "LoadBody":
        if self.engines is not None and self.min_ready > len(set(self.engines)):
            raise ValueError("min_ready is more than the engines that are named")
        if isinstance(self.replicas, int):
            if self.engines is not None and self.replicas > len(set(self.engines)):
                raise ValueError("replicas is more than the engines that are named")
            if self.min_ready > self.replicas:
                raise ValueError("min_ready is more than replicas")
        return self


class UnloadBody(Body):
    """Unload a version, or every version, of an adapter."""

    version: VersionChoice | None = Field(
        default=None, description="A number or an alias; left out: every loaded version.", examples=[1]
    )
    pool: SimpleField | None = Field(
        default=None, description="May be left out where the adapter is loaded in one pool alone."
    )
    engines: Annotated[tuple[SimpleField, ...], Field(min_length=1, max_length=2000)] | None = Field(
        default=None, description="These engines only."
    )
    drain: Duration = Field(
        default=DEFAULT_DRAIN_SECONDS,
        description="How long requests that run may go on: seconds, or `500ms`, `30s`, `2m`; at most a day.",
    )
    force: bool = Field(
        default=False,
        strict=True,
        description="Unload a version that takes traffic, and cut requests that outlast the drain.",
    )


class AliasBody(Body):
    """Where an alias is to point."""

    version: VersionNumber = Field(description="A version that is ready.")


class LoraSource(BaseModel):
    """Where the weights lie, as the seed system's clients say it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    uri: SourceField


class LoraBody(BaseModel):
    """The seed system's load: fields that it does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    lora_name: AdapterField = Field(description="The adapter's name.")
    source: LoraSource = Field(description="The folder to serve.")
    base_model: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = Field(
        default=None, description="Ours: as for a publish."
    )
    pool: SimpleField | None = Field(
        default=None, description="Ours: needed where several pools serve the base model."
    )


class LoraChanged(BaseModel):
    """What became of a load or unload, in the seed system's words."""

    status: Literal["success"] = "success"
    message: str = Field(examples=["LoRA adapter 'greeter' loaded successfully"])
    lora_name: str = Field(examples=["greeter"])
    lora_id: int = Field(description="The seed system's number for the name.", examples=[1213123])


class Loras(BaseModel):
    """The names that are served, in the seed system's words."""

    status: Literal["success"] = "success"
    loras: dict[str, int] = Field(description="Name to the seed system's number for it.")
    count: int


class LoraError(BaseModel):
    """An error in the seed system's words; `code` is ours."""

    status: Literal["error"] = "error"
    message: str
    lora_name: str | None = Field(default=None, description="Where the call named one.")
    code: str = Field(description="Stable code (docs/errors.md).", examples=["source_not_found"])


class ProgressBody(BaseModel):
    """A step of an operation as an agent sees it now, for people who watch. Fields of later agents are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    operation: Annotated[str, StringConstraints(min_length=1, max_length=100)] = Field(
        description="Operation id."
    )
    report: StepReport = Field(description="The step as it stands.")


class OperationBody(OperationView):
    """One requested change, how far it is, and where to see it in Temporal's UI."""

    temporal_url: str | None = Field(
        default=None,
        description="Its workflow in Temporal's UI; null when the service does not know the UI's address.",
    )


class Health(BaseModel):
    """The process is there."""

    status: str = Field(examples=["ok"])
    version: str = Field(description="Of the service.", examples=["0.1.0"])


class PartState(BaseModel):
    """One part that the service stands on."""

    state: str = Field(
        description="`ok`, or a code of the error catalog.", examples=["ok", "temporal_unavailable"]
    )
    detail: str | None = Field(default=None, description="What was seen, when it is not `ok`.")


class Readiness(BaseModel):
    """Whether the service can do its work.

    Without Postgres it cannot, and answers 503. Without Temporal it is `degraded`: reads work, and what is asked for is
    kept and begins when Temporal is back; so a load balancer must not take it out.
    """

    status: str = Field(description="`ready` or `degraded`.", examples=["ready"])
    parts: dict[str, PartState] = Field(description="`postgres` and `temporal`.")
