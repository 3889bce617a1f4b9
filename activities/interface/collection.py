"""Activities that collect what nobody needs any more."""

from typing import Final

from pydantic import Field

from activities.interface.common import ActivitySpec, Done
from loradock.core.models import Digest, Failure, Model


class CollectionRules(Model):
    """How much is kept; set where the schedule is made, so that a run shows what it went by.

    Attributes:
        keep_versions: ready versions of an adapter, the last published ones, that retention keeps; None for all.
        grace_seconds: how long bytes that nobody points to stay.
        leftovers_seconds: how long unfinished uploads, downloads and staged copies stay.
    """

    keep_versions: int | None = Field(default=None, ge=1)
    grace_seconds: float = Field(default=24 * 3600.0, ge=0)
    leftovers_seconds: float = Field(default=24 * 3600.0, ge=0)


class RetireInput(Model):
    """Retires versions beyond the number that is kept."""

    rules: CollectionRules


class Retired(Model):
    """Versions that retention took, as `adapter@version`."""

    versions: tuple[str, ...]


class FindGarbageInput(Model):
    """Compares the object store with the registry and sweeps what killed uploads and publishes left."""

    rules: CollectionRules


class FoundGarbage(Model):
    """What may be deleted now.

    Attributes:
        digests: at most `MOST_AT_ONCE`; the next run takes the rest.
        uploads: how many unfinished uploads, and upload sessions that nobody counts on, were removed.
        staged: how many staged copies were removed.
        agents: alive now, whose caches can be asked.
    """

    digests: tuple[Digest, ...]
    uploads: int
    staged: int
    agents: tuple[str, ...]


class DeleteArtifactInput(Model):
    """Deletes one artifact's bytes, unless somebody points to them by now."""

    digest: Digest


class DeletedArtifact(Model):
    """What became of it.

    Attributes:
        deleted: False when somebody points to it after all.
    """

    deleted: bool
    bytes: int = 0


class RemoveUploadInput(Model):
    """Removes what an upload session brought, when the publish that it was for has ended."""

    session: str


class RemovedUpload(Model):
    """What became of it.

    Attributes:
        removed: False while anybody still counts on it.
        bytes: of the whole files that went.
    """

    removed: bool
    bytes: int = 0


class CollectCacheInput(Model):
    """Brings one host's cache within its limits."""

    agent: str
    rules: CollectionRules


class EvictedAdapter(Model):
    """An adapter that had to go from a host's cache.

    Attributes:
        reason: `age`, `size`, `disk`, or `leftover` of a dead process.
    """

    served_name: str
    digest: str
    bytes: int
    reason: str


class CollectedCache(Model):
    """What had to go from one host's cache (at most the first 200 are named)."""

    agent: str
    evicted: tuple[EvictedAdapter, ...]
    count: int
    bytes: int


class RecordCollectionInput(Model):
    """Writes what happened on hosts, and what failed, into the audit.

    Attributes:
        failures: by what failed: an agent's id, or a digest.
    """

    caches: tuple[CollectedCache, ...]
    failures: dict[str, Failure]
    uploads: int
    staged: int


MOST_AT_ONCE: Final = 500

RETIRE_VERSIONS: Final = ActivitySpec("retire_versions", RetireInput, Retired)
FIND_GARBAGE: Final = ActivitySpec("find_garbage", FindGarbageInput, FoundGarbage)
DELETE_ARTIFACT: Final = ActivitySpec("delete_artifact", DeleteArtifactInput, DeletedArtifact)
REMOVE_UPLOAD: Final = ActivitySpec("remove_upload", RemoveUploadInput, RemovedUpload)
COLLECT_CACHE: Final = ActivitySpec("collect_cache", CollectCacheInput, CollectedCache)
RECORD_COLLECTION: Final = ActivitySpec("record_collection", RecordCollectionInput, Done)
