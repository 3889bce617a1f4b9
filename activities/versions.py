"""Versions in the registry: reserved before their bytes are stored, ready or failed after."""

from temporalio import activity

from activities.interface.common import Done
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
from loradock.core.models import Failure, OperationState
from loradock.core.requests import OperationResult, ReservedVersion, ThenLoad
from loradock.registry import follow_ups, operation_steps, runs, versions
from loradock.registry.database import Database

PUBLISH_STEPS = (("fetch", ""), ("upload", ""))


class VersionActivities:
    """Activities on versions; needs the registry's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name=BEGIN_PUBLISH.name)
    async def begin_publish(self, given: BeginPublishInput) -> Done:
        """Mark the operation as running and list its steps."""
        async with self._database.transaction() as tx:
            await runs.begin(tx, given.run, PUBLISH_STEPS)
        return Done()

    @activity.defn(name=RESERVE_VERSION.name)
    async def reserve(self, given: ReserveInput) -> ReservedVersion:
        """Bind the digest to a version number: the same digest always gives the same number.

        Raises:
            LoradockError: `base_model_mismatch` for an adapter that does not fit what is known of its base model.
        """
        async with self._database.transaction() as tx:
            reserved = await versions.reserve(
                tx,
                given.run,
                adapter=given.adapter,
                manifest=given.manifest,
                traits=given.traits,
                source_uri=given.uri,
                base_model=given.base_model,
                labels=given.labels,
                actor=given.actor,
                report=given.report,
                signature=given.signature,
            )
            await runs.set_version(tx, given.run, reserved.ref.version)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
        return reserved

    @activity.defn(name=REGISTER_VERSION.name)
    async def register(self, given: RegisterInput) -> OperationResult:
        """Make the version ready and end the operation, in one transaction."""
        result = OperationResult(
            version=given.ref.version,
            digest=given.ref.digest,
            already_published=given.already_published,
            note=given.note,
        )
        async with self._database.transaction() as tx:
            operation = await runs.claim(tx, given.run)
            if operation.state == OperationState.SUCCEEDED:  # tried again: the answer was lost, not the work
                return OperationResult.model_validate(operation.result)
            await versions.mark_ready(tx, given.run, given.ref, given.artifact_uri)
            await operation_steps.record_steps(tx, given.run.operation, given.steps)
            if operation.request.get("then"):
                then = ThenLoad.model_validate(operation.request["then"])
                following = await follow_ups.load_published(tx, operation, then, given.ref.version)
                result = result.model_copy(
                    update={"next": following.next, "next_failed": following.next_failed}
                )
            await runs.finish(tx, given.run, OperationState.SUCCEEDED, result=result)
        return result

    @activity.defn(name=FAIL_VERSION.name)
    async def fail(self, given: FailVersionInput) -> Done:
        """Mark the version that the operation reserved as failed; a ready one is left alone."""
        why = Failure(code="version_not_ready", message=f"its publish failed: see {given.run.operation}")
        async with self._database.transaction() as tx:
            await versions.mark_reserved_failed(tx, given.run, given.adapter, why)
        return Done()
