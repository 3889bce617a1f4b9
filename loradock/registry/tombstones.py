"""Bytes that no version points to: marked, waited for, deleted. A publish lifts the mark before it counts on them."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from loradock.core.errors import LoradockError
from loradock.core.models import VersionState
from loradock.registry.arrays import rows_of
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Transaction
from loradock.registry.references import is_named
from loradock.registry.tables import ArtifactTombstoneRow, VersionRow


async def lift(tx: Transaction, digest: str) -> None:
    """Take the mark off bytes that a version is about to point to.

    Raises:
        LoradockError: `store_unavailable` while they are being deleted: worth trying again.
    """
    tombstone = ArtifactTombstoneRow
    free = or_(tombstone.deleting_at.is_(None), tombstone.deleted_at.is_not(None))
    await tx.session.execute(delete(tombstone).where(tombstone.digest == digest, free))
    if await tx.session.scalar(select(tombstone.digest).filter_by(digest=digest)) is not None:
        raise LoradockError("store_unavailable", f"old bytes of {digest} are being deleted in this moment")


async def mark(tx: Transaction, stored: Collection[str], grace_seconds: float) -> list[str]:
    """Mark what lies in the store and nobody points to, and take the mark off what somebody points to again.

    Args:
        stored: the digests that the store holds anything of.

    Returns:
        The digests that have been marked for longer than the grace period, or whose deletion was begun.
    """
    tombstone = ArtifactTombstoneRow
    there = rows_of(digest=sorted(set(stored))).c.digest
    unreferenced = select(there).where(~exists().where(VersionRow.digest == there, _refers())).order_by(there)
    made = insert(tombstone).from_select(["digest"], unreferenced, include_defaults=False)
    again = made.on_conflict_do_update(
        index_elements=[tombstone.digest],
        set_={"marked_at": func.now(), "deleting_at": None, "deleted_at": None},
        where=tombstone.deleted_at.is_not(None),  # deleted once, and somebody put bytes there again
    )
    await tx.session.execute(again)
    referenced = exists().where(VersionRow.digest == tombstone.digest, _refers())
    await tx.session.execute(
        delete(tombstone).where(referenced, tombstone.deleting_at.is_(None)),
        execution_options={"synchronize_session": False},
    )
    old = tombstone.marked_at <= func.now() - timedelta(seconds=grace_seconds)
    due = select(tombstone.digest).where(
        tombstone.deleted_at.is_(None), or_(old, tombstone.deleting_at.is_not(None))
    )
    return list(await tx.session.scalars(due.order_by(tombstone.digest)))


async def begin_delete(tx: Transaction, digest: str) -> bool:
    """Say that the bytes go now: from the commit on no version can come to point to them.

    Returns:
        False when somebody points to them after all, or the mark was lifted.
    """
    tombstone = ArtifactTombstoneRow
    # The row's lock first: a publish that lifts the mark has committed, and its version is seen, or waits for us.
    query = select(tombstone).filter_by(digest=digest, deleted_at=None).with_for_update()
    row = await tx.session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        return False
    if await tx.session.scalar(select(exists().where(VersionRow.digest == digest, _refers()))):
        if row.deleting_at is None:
            await tx.session.delete(row)
        return False
    row.deleting_at = row.deleting_at or await tx.now()
    return True


async def end_delete(tx: Transaction, digest: str, freed: int) -> None:
    """Note that the bytes are gone.

    Args:
        freed: bytes that were deleted.
    """
    tombstone = ArtifactTombstoneRow
    ended = update(tombstone).where(tombstone.digest == digest, tombstone.deleted_at.is_(None))
    found = await tx.session.scalar(
        ended.values(deleted_at=func.clock_timestamp()).returning(tombstone.digest),
        execution_options={"synchronize_session": False},
    )
    if found is not None:
        tx.audit("artifact.deleted", actor=SYSTEM_ACTOR, digest=digest, bytes=freed)


def _refers() -> ColumnElement[bool]:
    """SQL: the version counts on its bytes, or something names it whatever its state says."""
    live = VersionRow.state.in_([VersionState.PUBLISHING, VersionState.READY])
    return or_(live, is_named())
