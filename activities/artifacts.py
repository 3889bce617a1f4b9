"""Sources and the object store: fetch, inspect, upload. Runs in the orchestrator."""

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio import activity

from activities.interface.artifacts import (
    STAGE_SOURCE,
    UPLOAD_ARTIFACT,
    StagedArtifact,
    StageInput,
    UploadedArtifact,
    UploadInput,
)
from activities.metering import Moved, NoMeter, Transfer, TransferMeter, metered
from activities.progress import ProgressReporter, StepClock, TransferProgress, TransferSlots
from loradock.artifacts.signatures.policy import NO_CHECKS, SignatureChecks
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.core.errors import LoradockError
from loradock.core.uris import parse_upload_uri


class ArtifactActivities:
    """Activities on sources and the artifact store.

    Args:
        staging: this worker's disk area for what is being published.
        store: where artifacts are kept.
        slots: how many transfers run at once.
        reporter: told of transfers while they go on.
        signatures: which adapters must be signed, and who checks it.
        meter: told of every transfer.
    """

    def __init__(
        self,
        staging: Staging,
        store: ArtifactStore,
        slots: TransferSlots,
        reporter: ProgressReporter | None = None,
        signatures: SignatureChecks = NO_CHECKS,
        *,
        meter: TransferMeter | None = None,
    ) -> None:
        self._staging = staging
        self._store = store
        self._slots = slots
        self._reporter = reporter
        self._signatures = signatures
        self._meter = meter or NoMeter()

    @activity.defn(name=STAGE_SOURCE.name, no_thread_cancel_exception=True)
    def stage(self, given: StageInput) -> StagedArtifact:
        """Fetch a source, hash and inspect it, and check its signature.

        Raises:
            LoradockError: what is wrong with the source, the adapter or its signature; `digest_mismatch`.
        """
        clock = StepClock("fetch")
        with self._transfer(Transfer.FETCH, given.operation, clock) as (progress, moved):
            staged = self._staging.stage(given.uri, progress, check=self._signatures.check_for(given.adapter))
            moved.bytes = staged.manifest.total_size
            digest = staged.manifest.digest
            if given.expect_digest is not None and digest != given.expect_digest:
                self._staging.discard(digest)
                code = "upload_mismatch" if parse_upload_uri(given.uri) else "digest_mismatch"
                raise LoradockError(code, f"{given.expect_digest} was expected, the source is {digest}")
        facts = {} if staged.signature is None else {"signature": str(staged.signature.status)}
        step = clock.succeeded(bytes=staged.manifest.total_size, files=len(staged.manifest.files), **facts)
        return StagedArtifact(
            manifest=staged.manifest,
            traits=staged.traits,
            report=staged.report,
            signature=staged.signature,
            step=step,
        )

    @activity.defn(name=UPLOAD_ARTIFACT.name, no_thread_cancel_exception=True)
    def upload(self, given: UploadInput) -> UploadedArtifact:
        """Store the artifact under its digest and point the version at it.

        Another worker, or a lost disk, is no harm: the source is fetched again and must still have the same digest. So it
        has the files whose signature was checked, and that is not done again.
        """
        clock = StepClock("upload")
        ref = given.ref
        with self._transfer(Transfer.UPLOAD, given.operation, clock) as (progress, moved):
            sent = moved.bytes = self._upload(given, progress)
            self._store.publish_pointer(ref.adapter, ref.version, ref.digest)
            self._staging.discard(ref.digest)
        return UploadedArtifact(artifact_uri=self._store.uri(ref.digest), step=clock.succeeded(bytes=sent))

    @contextmanager
    def _transfer(
        self, transfer: Transfer, operation: str, clock: StepClock
    ) -> Iterator[tuple[TransferProgress, Moved]]:
        def tell(figures: dict[str, int]) -> None:
            if self._reporter is not None:
                self._reporter.report(operation, clock.running(**figures))

        with (
            TransferProgress(tell) as progress,
            self._slots.take(progress),
            metered(self._meter, transfer) as moved,
        ):
            yield progress, moved

    def _upload(self, given: UploadInput, progress: TransferProgress) -> int:
        try:
            return self._upload_staged(given.ref.digest, progress)
        except LoradockError as error:
            if error.code != "staging_lost":
                raise
        staged = self._staging.stage(given.uri, progress)
        if staged.manifest.digest != given.ref.digest:
            self._staging.discard(staged.manifest.digest)
            raise LoradockError(
                "source_changed",
                f"{given.ref.served_name} was inspected as {given.ref.digest} and is another now",
            )
        return self._upload_staged(given.ref.digest, progress)

    def _upload_staged(self, digest: str, progress: TransferProgress) -> int:
        with self._staging.hold(digest) as staged:
            return self._store.upload(staged.path, staged.manifest, progress)
