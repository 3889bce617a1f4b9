"""PublishVersion: from a source's address to an immutable version whose bytes are in the object store."""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.artifacts import (
        STAGE_SOURCE,
        UPLOAD_ARTIFACT,
        StagedArtifact,
        StageInput,
        UploadedArtifact,
        UploadInput,
    )
    from activities.interface.collection import REMOVE_UPLOAD, RemoveUploadInput
    from activities.interface.versions import (
        BEGIN_PUBLISH,
        FAIL_VERSION,
        REGISTER_VERSION,
        RESERVE_VERSION,
        BeginPublishInput,
        FailVersionInput,
        RegisterInput,
        ReserveInput,
    )
    from loradock.core.ids import TRANSFER_QUEUE
    from loradock.core.requests import OperationResult, ReservedVersion
    from loradock.core.uris import parse_upload_uri
    from workflows.calls import LEFTOVERS, REGISTRY, SOURCE, STORE, call
    from workflows.failures import failure_of
    from workflows.inputs import PublishInput
    from workflows.operation import Operation
    from workflows.saga import finish_despite_cancel


@workflow.defn(name="PublishVersion")
class PublishVersion:
    """validate → fetch and inspect → reserve the number → upload → register.

    The reservation is written before the bytes are: what the store holds is always named by a row. However it ends, an
    upload that was its source is removed.
    """

    @workflow.init
    def __init__(self, given: PublishInput) -> None:
        self._request = given.request
        self._operation = Operation(given.start)
        self._saga = self._operation.saga

    @workflow.run
    async def run(self, given: PublishInput) -> OperationResult:
        """Publish, or end with nothing published."""
        del given  # kept by __init__
        try:
            result = await self._operation.tell_story(self._story)
        except (asyncio.CancelledError, Exception):
            await self._remove_upload()
            raise
        await self._remove_upload()
        return result

    async def _story(self) -> OperationResult:
        await self._begin()
        staged = await self._fetch_and_inspect()
        reserved = await self._reserve(staged)
        uploaded = await self._upload(reserved)
        return await self._register(staged, reserved, uploaded)

    async def _begin(self) -> None:
        begin = BeginPublishInput(run=self._operation.run, request=self._request)
        await self._saga.checked(call(BEGIN_PUBLISH, begin, REGISTRY, summary="mark as running"))

    async def _fetch_and_inspect(self) -> StagedArtifact:
        self._operation.begin_step("fetch")
        self._operation.tell("fetching", f"fetching and inspecting `{self._request.uri}`")
        stage = StageInput(
            operation=self._operation.run.operation,
            adapter=self._request.adapter,
            uri=self._request.uri,
            expect_digest=self._request.expect_digest,
        )
        staged = await self._saga.checked(
            call(
                STAGE_SOURCE,
                stage,
                SOURCE,
                queue=TRANSFER_QUEUE,
                summary=f"fetch and inspect {self._request.uri}",
            )
        )
        self._operation.note_steps(staged.step)
        return staged

    async def _reserve(self, staged: StagedArtifact) -> ReservedVersion:
        reserve = ReserveInput(
            run=self._operation.run,
            actor=self._operation.actor,
            adapter=self._request.adapter,
            uri=self._request.uri,
            base_model=self._request.base_model,
            labels=self._request.labels,
            manifest=staged.manifest,
            traits=staged.traits,
            report=staged.report,
            signature=staged.signature,
            steps=self._operation.steps,
        )
        failed = FailVersionInput(run=self._operation.run, adapter=self._request.adapter)
        self._saga.before(
            "mark the version failed",
            lambda: call(FAIL_VERSION, failed, REGISTRY, summary="mark the version failed"),
        )
        reserved = await self._saga.checked(
            call(
                RESERVE_VERSION, reserve, REGISTRY, summary=f"reserve a version for {staged.manifest.digest}"
            )
        )
        known = " (known already)" if reserved.already_published else ""
        self._operation.tell("uploading", f"`{reserved.ref.served_name}` is `{reserved.ref.digest}`{known}")
        return reserved

    async def _upload(self, reserved: ReservedVersion) -> UploadedArtifact:
        self._operation.begin_step("upload")
        upload = UploadInput(operation=self._operation.run.operation, uri=self._request.uri, ref=reserved.ref)
        uploaded = await self._saga.checked(
            call(
                UPLOAD_ARTIFACT,
                upload,
                STORE,
                queue=TRANSFER_QUEUE,
                summary=f"upload {reserved.ref.served_name}",
            )
        )
        self._operation.note_steps(uploaded.step)
        return uploaded

    async def _register(
        self, staged: StagedArtifact, reserved: ReservedVersion, uploaded: UploadedArtifact
    ) -> OperationResult:
        register = RegisterInput(
            run=self._operation.run,
            ref=reserved.ref,
            artifact_uri=uploaded.artifact_uri,
            already_published=reserved.already_published,
            note="" if staged.signature is None else staged.signature.warning,
            steps=self._operation.steps,
        )
        result = await self._saga.pivot(
            lambda: call(REGISTER_VERSION, register, REGISTRY, summary=f"register {reserved.ref.served_name}")
        )
        self._operation.tell("succeeded", f"published as **{reserved.ref.served_name}**")
        return result

    async def _remove_upload(self) -> None:
        """Remove the upload that was published; what fails here, the collector does."""
        upload = parse_upload_uri(self._request.uri)
        if upload is None:
            return
        remove = RemoveUploadInput(session=upload.session)
        try:
            await finish_despite_cancel(
                lambda: call(REMOVE_UPLOAD, remove, LEFTOVERS, summary="remove the upload")
            )
        except (asyncio.CancelledError, Exception) as error:
            workflow.logger.warning("the upload is left to the collector: %s", failure_of(error).code)
