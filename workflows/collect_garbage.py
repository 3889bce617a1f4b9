"""CollectGarbage: what nobody needs any more goes; what anything names stays. Started by a schedule."""

from typing import TypeVar

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.collection import (
        COLLECT_CACHE,
        DELETE_ARTIFACT,
        FIND_GARBAGE,
        RECORD_COLLECTION,
        RETIRE_VERSIONS,
        CollectCacheInput,
        CollectedCache,
        CollectionRules,
        DeleteArtifactInput,
        DeletedArtifact,
        FindGarbageInput,
        FoundGarbage,
        RecordCollectionInput,
        RetireInput,
    )
    from loradock.core.ids import host_io_queue
    from loradock.core.models import Failure, Model
    from workflows.calls import HOST_CACHE, REGISTRY, STORE, call
    from workflows.failures import failure_of, is_cancel
    from workflows.fan_out import Outcome, fan_out

AT_ONCE = 20

Item = TypeVar("Item")
Result = TypeVar("Result")


class CollectInput(Model):
    """Input of CollectGarbage."""

    rules: CollectionRules = CollectionRules()


class CollectResult(Model):
    """What went.

    Attributes:
        failures: how many hosts or artifacts could not be seen to; the next run tries again.
    """

    retired: int
    artifacts: int
    artifact_bytes: int
    evicted: int
    evicted_bytes: int
    uploads: int
    staged: int
    failures: int


@workflow.defn(name="CollectGarbage")
class CollectGarbage:
    """retire by retention → mark what nobody points to → delete what was marked long ago, beside the hosts' caches.

    Nothing is undone: every step takes only what nobody needs. One that fails is noted, the others go on.
    """

    @workflow.init
    def __init__(self, given: CollectInput) -> None:
        self._rules = given.rules
        self._failures: dict[str, Failure] = {}

    @workflow.run
    async def run(self, given: CollectInput) -> CollectResult:
        """Collect once."""
        del given  # kept by __init__
        retired = await call(
            RETIRE_VERSIONS, RetireInput(rules=self._rules), STORE, summary="retire by retention"
        )
        found = await call(FIND_GARBAGE, FindGarbageInput(rules=self._rules), STORE, summary="mark and sweep")
        deleted = await self._delete(found)
        caches = await self._collect_caches(found)
        record = RecordCollectionInput(
            caches=caches, failures=self._failures, uploads=found.uploads, staged=found.staged
        )
        await call(RECORD_COLLECTION, record, REGISTRY, summary="audit")
        return CollectResult(
            retired=len(retired.versions),
            artifacts=sum(one.deleted for one in deleted),
            artifact_bytes=sum(one.bytes for one in deleted),
            evicted=sum(one.count for one in caches),
            evicted_bytes=sum(one.bytes for one in caches),
            uploads=found.uploads,
            staged=found.staged,
            failures=len(self._failures),
        )

    async def _delete(self, found: FoundGarbage) -> tuple[DeletedArtifact, ...]:
        outcomes = await fan_out(
            found.digests,
            lambda digest: call(
                DELETE_ARTIFACT, DeleteArtifactInput(digest=digest), STORE, summary=f"delete {digest[:19]}"
            ),
            limit=AT_ONCE,
            stop_at_first_failure=False,
        )
        return self._results(outcomes)

    async def _collect_caches(self, found: FoundGarbage) -> tuple[CollectedCache, ...]:
        outcomes = await fan_out(
            found.agents,
            lambda agent: call(
                COLLECT_CACHE,
                CollectCacheInput(agent=agent, rules=self._rules),
                HOST_CACHE,
                queue=host_io_queue(agent),
                summary=f"cache of {agent}",
            ),
            limit=AT_ONCE,
            stop_at_first_failure=False,
        )
        return self._results(outcomes)

    def _results(self, outcomes: list[Outcome[str, Result]]) -> tuple[Result, ...]:
        for outcome in outcomes:
            if outcome.error is not None:
                if is_cancel(outcome.error):
                    raise outcome.error
                self._failures[outcome.item] = failure_of(outcome.error)
        return tuple(outcome.result for outcome in outcomes if outcome.result is not None)
