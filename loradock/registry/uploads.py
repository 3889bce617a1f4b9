"""Upload sessions: who may bring what until when, and which of them still count."""

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from loradock.core.errors import LoradockError
from loradock.core.models import ACTIVE_STATES, ManifestFile, Model, VersionState
from loradock.core.uploads import UploadState
from loradock.registry.audit import SYSTEM_ACTOR
from loradock.registry.database import Reader, Transaction
from loradock.registry.tables import OperationRow, UploadRow, VersionRow

MOST_STANDING: Final = 50
"""Sessions that one actor may have begun and not published."""

_STANDING: Final = (UploadState.OPEN, UploadState.COMPLETE)


class NewUpload(Model):
    """A session that somebody asks for.

    Attributes:
        digest: of the artifact that the files are.
        beside: paths of files that are no part of it.
        seconds: how long it lasts.
        reuse: where the adapter has a ready version of this digest, nothing need be sent.
    """

    id: str
    actor: str
    adapter: str
    digest: str
    files: tuple[ManifestFile, ...]
    beside: tuple[str, ...] = ()
    seconds: float
    reuse: bool = True

    @property
    def content(self) -> str:
        """The same for the same files, in whatever order they are named."""
        files = sorted((file.path, file.size, file.sha256) for file in self.files)
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


class UploadSession(Model):
    """A session as it stands."""

    id: str
    actor: str
    adapter: str
    digest: str
    files: tuple[ManifestFile, ...]
    beside: tuple[str, ...]
    begun: dict[str, str]
    stored: bool
    state: UploadState
    operation: str | None
    created_at: datetime
    expires_at: datetime

    @property
    def awaited(self) -> tuple[ManifestFile, ...]:
        """The files that must be sent: all, or with a stored artifact those beside it."""
        return tuple(file for file in self.files if not self.stored or file.path in self.beside)


async def open_session(tx: Transaction, new: NewUpload) -> tuple[UploadSession, bool]:
    """The session for a manifest: the one that the actor has for it already, be it that a publish is reading it, or a
    new one.

    A digest alone gives nobody anything: only where the *same adapter* has a ready version of it, which every operator
    may read and load, do its stored bytes stand for the upload's. The publish reads and hashes them all the same.

    Returns:
        The session, and whether it is new.

    Raises:
        LoradockError: `too_many_requests`, `database_unavailable`.
    """
    await _end_expired(tx, UploadRow.actor == new.actor)
    stored = new.reuse and await _is_published(tx, new.adapter, new.digest)
    if not stored:
        # One that would send nothing is no help to somebody who found that nothing is there.
        await _end(tx, _same(new) & UploadRow.stored, "not reused")
    if (found := await _standing(tx, new)) is not None:
        return _view(found), False
    if await _count_standing(tx, new.actor) >= MOST_STANDING:
        raise LoradockError("too_many_requests", f"{new.actor} has {MOST_STANDING} uploads under way")
    values = {
        "id": new.id,
        "actor": new.actor,
        "adapter": new.adapter,
        "digest": new.digest,
        "content": new.content,
        "beside": list(new.beside),
        "files": [file.model_dump(mode="json") for file in new.files],
        "stored": stored,
        "state": UploadState.COMPLETE if stored and not new.beside else UploadState.OPEN,
        "expires_at": await tx.now() + timedelta(seconds=new.seconds),
    }
    made = insert(UploadRow).values(values).on_conflict_do_nothing().returning(UploadRow)
    row: UploadRow | None = await tx.session.scalar(made)
    if row is not None:
        size = sum(file.size for file in new.files)
        tx.audit("upload.begun", **_about(row), bytes=size, files=len(new.files), stored=stored)
        return _view(row), True
    other = await _standing(tx, new)
    if other is None:
        raise LoradockError("database_unavailable", "the session that stood in the way has just ended")
    return _view(other), False


async def note_begun(tx: Transaction, session: str, begun: dict[str, str]) -> dict[str, str]:
    """Keep what the place of uploads gave for a session; of two that come at once the first counts.

    Returns:
        What is kept.

    Raises:
        LoradockError: `upload_not_found`.
    """
    row = await _locked(tx, session)
    if not row.begun:
        row.begun = begun
    return row.begun


async def get_open(tx: Reader, session: str, actor: str) -> UploadSession:
    """The actor's own session, while it counts.

    Raises:
        LoradockError: `upload_not_found` (also for another's), `upload_expired`, `upload_ended`.
    """
    row = await tx.session.get(UploadRow, session)
    if row is None or row.actor != actor:
        raise _not_found()
    await _check_counts(tx, row)
    return _view(row)


async def mark_complete(tx: Transaction, session: str, actor: str) -> UploadSession:
    """Note that all bytes are there. Repeatable.

    Raises:
        LoradockError: as `get_open`.
    """
    row = await _locked(tx, session)
    if row.actor != actor:
        raise _not_found()
    await _check_counts(tx, row)
    if row.state == UploadState.OPEN:
        row.state = UploadState.COMPLETE
        tx.audit("upload.completed", **_about(row))
    return _view(row)


async def get_for_publish(tx: Reader, session: str, actor: str, adapter: str) -> UploadSession:
    """The session that a publish names, whatever its state: a publish that is sent twice finds its operation.

    Raises:
        LoradockError: `upload_not_found`, also for another's, and for one of another adapter.
    """
    row = await tx.session.get(UploadRow, session)
    if row is None or row.actor != actor or row.adapter != adapter:
        raise _not_found()
    return _view(row)


async def bind(tx: Transaction, session: str, operation: str) -> None:
    """Give a complete session to the operation that publishes it; from then on it lasts as long as that.

    Raises:
        LoradockError: `upload_expired`, `upload_ended`, `upload_incomplete`.
    """
    row = await _locked(tx, session)
    await _check_counts(tx, row)
    if row.state != UploadState.COMPLETE:
        raise LoradockError("upload_incomplete", f"the upload {session} is {row.state}")
    row.state, row.operation = UploadState.PUBLISHING, operation


async def end_published(tx: Transaction, session: str) -> bool:
    """End a session whose operation has ended.

    Returns:
        Whether its bytes may go.
    """
    await _end(tx, (UploadRow.id == session) & _publish_is_over(), "published")
    row = await tx.session.get(UploadRow, session, populate_existing=True)
    return row is not None and row.state == UploadState.ENDED


async def end_useless(tx: Transaction, held: Collection[str]) -> list[str]:
    """End all sessions whose time is over or whose publish has ended; of what lies there, say what may go.

    Args:
        held: the sessions that anything lies of, listed before this transaction began.
    """
    await _end_expired(tx)
    await _end(tx, _publish_is_over(), "published")
    live = set(await tx.session.scalars(select(UploadRow.id).where(UploadRow.state != UploadState.ENDED)))
    return sorted(set(held) - live)


async def _end_expired(tx: Transaction, where: ColumnElement[bool] | None = None) -> None:
    over = UploadRow.state.in_(_STANDING) & (UploadRow.expires_at <= func.clock_timestamp())
    await _end(tx, over if where is None else over & where, "expired")


async def _end(tx: Transaction, where: ColumnElement[bool], why: str) -> None:
    # Who is just binding a session holds its row: we wait, and look at the condition again.
    ended = update(UploadRow).where(where, UploadRow.state != UploadState.ENDED)
    values = {"state": UploadState.ENDED, "ended_at": func.clock_timestamp()}
    statement = ended.values(values).returning(UploadRow)
    rows = await tx.session.scalars(statement, execution_options={"synchronize_session": False})
    for row in rows:
        tx.audit("upload.ended", **_about(row) | {"actor": SYSTEM_ACTOR}, of=row.actor, reason=why)


def _publish_is_over() -> ColumnElement[bool]:
    return and_(UploadRow.state == UploadState.PUBLISHING, ~_is_active())


def _is_active() -> ColumnElement[bool]:
    return exists().where(OperationRow.id == UploadRow.operation, OperationRow.state.in_(ACTIVE_STATES))


def _same(new: NewUpload) -> ColumnElement[bool]:
    return and_(
        UploadRow.actor == new.actor,
        UploadRow.adapter == new.adapter,
        UploadRow.content == new.content,
        UploadRow.state.in_(_STANDING),
    )


async def _standing(tx: Reader, new: NewUpload) -> UploadRow | None:
    read_now = and_(
        UploadRow.actor == new.actor,
        UploadRow.adapter == new.adapter,
        UploadRow.content == new.content,
        UploadRow.state == UploadState.PUBLISHING,
        _is_active(),
    )
    newest_first = select(UploadRow).where(or_(_same(new), read_now)).order_by(UploadRow.id.desc()).limit(1)
    row: UploadRow | None = await tx.session.scalar(newest_first)
    return row


async def _is_published(tx: Reader, adapter: str, digest: str) -> bool:
    ready = exists().where(
        VersionRow.adapter == adapter, VersionRow.digest == digest, VersionRow.state == VersionState.READY
    )
    return bool(await tx.session.scalar(select(ready)))


async def _count_standing(tx: Reader, actor: str) -> int:
    query = select(func.count()).where(UploadRow.actor == actor, UploadRow.state.in_(_STANDING))
    return await tx.session.scalar(query) or 0


async def _check_counts(tx: Reader, row: UploadRow) -> None:
    if row.state == UploadState.PUBLISHING or (row.state == UploadState.ENDED and row.operation):
        raise LoradockError("upload_ended", "the upload has been published", operation=row.operation)
    if row.state == UploadState.ENDED or row.expires_at <= await tx.now():
        raise LoradockError(
            "upload_expired", f"the upload was good until {row.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        )


async def _locked(tx: Transaction, session: str) -> UploadRow:
    query = select(UploadRow).filter_by(id=session).with_for_update()
    row: UploadRow | None = await tx.session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise _not_found()
    return row


def _not_found() -> LoradockError:
    return LoradockError("upload_not_found", "you have no such upload")


def _about(row: UploadRow) -> dict[str, Any]:
    return {
        "actor": row.actor,
        "adapter": row.adapter,
        "operation": row.operation,
        "upload": row.id,
        "digest": row.digest,
    }


def _view(row: UploadRow) -> UploadSession:
    return UploadSession(
        id=row.id,
        actor=row.actor,
        adapter=row.adapter,
        digest=row.digest,
        files=_files(row.files),
        beside=tuple(row.beside),
        begun=row.begun,
        stored=row.stored,
        state=UploadState(row.state),
        operation=row.operation,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _files(content: Sequence[dict[str, Any]]) -> tuple[ManifestFile, ...]:
    return tuple(ManifestFile.model_validate(one) for one in content)
