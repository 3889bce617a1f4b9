"""Collecting what nobody needs any more: versions, bytes in the store, staged copies. Runs in the orchestrator."""

import asyncio

from temporalio import activity

from activities.heartbeats import heartbeats
from activities.interface.collection import (
    DELETE_ARTIFACT,
    FIND_GARBAGE,
    MOST_AT_ONCE,
    RECORD_COLLECTION,
    REMOVE_UPLOAD,
    RETIRE_VERSIONS,
    CollectionRules,
    DeleteArtifactInput,
    DeletedArtifact,
    FindGarbageInput,
    FoundGarbage,
    RecordCollectionInput,
    RemovedUpload,
    RemoveUploadInput,
    Retired,
    RetireInput,
)
from activities.interface.common import Done
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.core.errors import LoradockError
from loradock.registry import agents, retirement, tombstones, uploads
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Database


class CollectionActivities:
    """Activities of the collector.

    Args:
        database: the registry's: it alone says what is named.
        store: where artifacts are kept.
        staging: this worker's disk area.
    """

    def __init__(self, database: Database, store: ArtifactStore, staging: Staging) -> None:
        self._database = database
        self._store = store
        self._staging = staging

    @activity.defn(name=RETIRE_VERSIONS.name)
    async def retire(self, given: RetireInput) -> Retired:
        """Retire what was published before the last versions and is named by nothing; an adapter at a time."""
        keep = given.rules.keep_versions
        if keep is None:
            return Retired(versions=())
        async with heartbeats():
            retired = await self._retire(keep)
        return Retired(versions=tuple(retired[:MOST_AT_ONCE]))

    async def _retire(self, keep: int) -> list[str]:
        async with self._database.transaction() as tx:
            names = await retirement.with_more_than(tx, keep)
        retired: list[str] = []
        for name in names:
            async with self._database.transaction() as tx:
                retired += [f"{name}@{number}" for number in await retirement.retire_expired(tx, name, keep)]
        return retired

    @activity.defn(name=FIND_GARBAGE.name)
    async def find(self, given: FindGarbageInput) -> FoundGarbage:
        """List the store first and ask the registry then: bytes of a publish that begins meanwhile are not listed.

        Repeatable: a mark stays as it was set first.
        """
        async with heartbeats():
            return await self._find(given.rules)

    async def _find(self, rules: CollectionRules) -> FoundGarbage:
        stored = await asyncio.to_thread(self._store.digests, _Cancelled())
        async with self._database.transaction() as tx:
            due = await tombstones.mark(tx, stored, rules.grace_seconds)
            alive = await agents.alive_agents(tx)
        unfinished = await asyncio.to_thread(self._store.sweep, rules.leftovers_seconds)
        sessions = await self._remove_uploads()
        staged = await asyncio.to_thread(self._staging.sweep, older_than_seconds=rules.leftovers_seconds)
        return FoundGarbage(
            digests=tuple(due[:MOST_AT_ONCE]),
            uploads=len(unfinished) + sessions,
            staged=len(staged),
            agents=tuple(alive),
        )

    async def _remove_uploads(self) -> int:
        """End the sessions that nobody counts on, then remove what lies of any that has ended, whenever that was."""
        held = await asyncio.to_thread(self._store.uploads.sessions, _Cancelled())
        async with self._database.transaction() as tx:
            useless = await uploads.end_useless(tx, held)
        for session in useless:
            await asyncio.to_thread(self._store.uploads.remove, session, _Cancelled())
        return len(useless)

    @activity.defn(name=REMOVE_UPLOAD.name)
    async def remove_upload(self, given: RemoveUploadInput) -> RemovedUpload:
        """Remove an upload whose publish has ended; the session ends first, so that nobody counts on what is left."""
        async with heartbeats():
            async with self._database.transaction() as tx:
                if not await uploads.end_published(tx, given.session):
                    return RemovedUpload(removed=False)
            freed = await asyncio.to_thread(self._store.uploads.remove, given.session, _Cancelled())
        return RemovedUpload(removed=True, bytes=freed)

    @activity.defn(name=DELETE_ARTIFACT.name)
    async def delete(self, given: DeleteArtifactInput) -> DeletedArtifact:
        """Delete what nobody points to. One that died in the middle is followed by the next, who goes on."""
        async with heartbeats():
            return await self._delete(given.digest)

    async def _delete(self, digest: str) -> DeletedArtifact:
        async with self._database.transaction() as tx:
            if not await tombstones.begin_delete(tx, digest):
                return DeletedArtifact(deleted=False)
        freed = await asyncio.to_thread(self._store.delete, digest, _Cancelled())
        async with self._database.transaction() as tx:
            await tombstones.end_delete(tx, digest, freed)
        return DeletedArtifact(deleted=True, bytes=freed)

    @activity.defn(name=RECORD_COLLECTION.name)
    async def record(self, given: RecordCollectionInput) -> Done:
        """Audit what hosts let go, and what failed."""
        async with self._database.transaction() as tx:
            for cache in given.caches:
                for gone in cache.evicted:
                    tx.audit(
                        "cache.evicted", actor=f"agent:{cache.agent}", agent=cache.agent, **gone.model_dump()
                    )
            if given.uploads or given.staged:
                tx.audit("leftovers.swept", actor=SYSTEM_ACTOR, uploads=given.uploads, staged=given.staged)
            for what, failure in sorted(given.failures.items()):
                tx.audit(
                    "collection.failed", actor=SYSTEM_ACTOR, outcome=failure.code, subject=what,
                    message=failure.message[:300],
                )  # fmt: skip
        return Done()


class _Cancelled:
    """Ends the thread that does the work, once the activity is cancelled."""

    def advance(self, size: int) -> None:
        """Count nothing.

        Raises:
            LoradockError: `operation_cancelled`.
        """
        del size
        if activity.is_cancelled():
            raise LoradockError("operation_cancelled", "the collection was cancelled")
