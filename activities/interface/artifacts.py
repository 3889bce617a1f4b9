"""Activities on sources and the object store, done by an orchestrator."""

from typing import Final

from activities.interface.common import ActivitySpec
from loradock.core.inspection import InspectionReport
from loradock.core.models import (
    AdapterTraits,
    Digest,
    Manifest,
    Model,
    StepReport,
    VersionRef,
)
from loradock.core.signatures import SignatureVerdict


class StageInput(Model):
    """Fetches a source to the worker's disk, hashes and inspects it, and checks its signature where policy asks for that.

    Attributes:
        adapter: what it is published as: the signature policy goes by the name.
        expect_digest: another digest fails with `digest_mismatch`.
    """

    operation: str
    adapter: str
    uri: str
    expect_digest: Digest | None = None


class StagedArtifact(Model):
    """What lies at a source: known by hash, inspected to the last number.

    Attributes:
        signature: None where policy asks for nothing.
    """

    manifest: Manifest
    traits: AdapterTraits
    report: InspectionReport | None = None
    signature: SignatureVerdict | None = None
    step: StepReport


class UploadInput(Model):
    """Stores an artifact. Fetches it again when this worker's disk does not have it any more."""

    operation: str
    uri: str
    ref: VersionRef


class UploadedArtifact(Model):
    """Where an artifact is stored."""

    artifact_uri: str
    step: StepReport


STAGE_SOURCE: Final = ActivitySpec("stage_source", StageInput, StagedArtifact)
UPLOAD_ARTIFACT: Final = ActivitySpec("upload_artifact", UploadInput, UploadedArtifact)
