"""Activities on versions in the registry."""

from typing import Final

from activities.interface.common import ActivitySpec, Done
from loradock.core.inspection import InspectionReport
from loradock.core.models import (
    AdapterTraits,
    Manifest,
    Model,
    RunRef,
    StepReport,
    VersionRef,
)
from loradock.core.requests import (
    Labels,
    OperationResult,
    PublishRequest,
    ReservedVersion,
)
from loradock.core.signatures import SignatureVerdict


class BeginPublishInput(Model):
    """Begins a publish: marks the operation running and lists its steps."""

    run: RunRef
    request: PublishRequest


class ReserveInput(Model):
    """Binds the digest to a version number, before its bytes are stored.

    Attributes:
        report: compared with the base model here, where the base is known; None from an orchestrator of before.
        signature: kept with the version; None where policy asks for nothing.
    """

    run: RunRef
    actor: str
    adapter: str
    uri: str
    base_model: str | None
    labels: Labels
    manifest: Manifest
    traits: AdapterTraits
    report: InspectionReport | None = None
    signature: SignatureVerdict | None = None
    steps: tuple[StepReport, ...] = ()


class RegisterInput(Model):
    """Makes a reserved version ready and ends the operation, in one transaction.

    Attributes:
        note: one sentence for whoever asked, when something about it should be known.
    """

    run: RunRef
    ref: VersionRef
    artifact_uri: str
    already_published: bool
    note: str = ""
    steps: tuple[StepReport, ...] = ()


class FailVersionInput(Model):
    """Marks the version that this operation reserved, if it did, as failed: the undo of its reservation."""

    run: RunRef
    adapter: str


BEGIN_PUBLISH: Final = ActivitySpec("begin_publish", BeginPublishInput, Done)
RESERVE_VERSION: Final = ActivitySpec("reserve_version", ReserveInput, ReservedVersion)
REGISTER_VERSION: Final = ActivitySpec("register_version", RegisterInput, OperationResult)
FAIL_VERSION: Final = ActivitySpec("fail_version", FailVersionInput, Done)
