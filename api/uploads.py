"""Upload sessions: begun, filled, completed, and taken as the source of a publish."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.requests import ClientDisconnect

from api.dependencies import ApiDependencies
from api.schemas import UploadBody, UploadedFileBody, UploadPartsBody
from loradock.core.errors import LoradockError
from loradock.core.ids import new_upload_id
from loradock.core.models import ManifestFile
from loradock.core.requests import PublishRequest
from loradock.core.uploads import ReceivedFile, UploadPlace, UploadState, UploadWriter
from loradock.core.uris import UPLOAD_SCHEME, UploadUri, parse_source_uri
from loradock.registry import uploads
from loradock.registry.database import Reader, Transaction
from loradock.registry.uploads import NewUpload, UploadSession

SILENCE_SECONDS = 30.0
"""A caller who sends nothing for so long has broken off."""
_WRITTEN_AT_ONCE = 1024 * 1024


def place_of(parts: ApiDependencies) -> UploadPlace:
    """Where uploads go.

    Raises:
        LoradockError: `uploads_off`.
    """
    if parts.uploads is None:
        raise LoradockError("uploads_off", "this service takes no uploads: its API has no object store")
    return parts.uploads


async def open_upload(
    parts: ApiDependencies, actor: str, adapter: str, files: Sequence[ManifestFile], *, reuse: bool
) -> tuple[UploadBody, bool]:
    """The actor's session for these files, and whether it is new.

    The row is written before the store hears of it: what lies there is always of a session, and goes with it.

    Raises:
        LoradockError: `uploads_off`, `upload_not_taken`, `source_too_large`, `weights_missing`, `config_missing`,
            `too_many_requests`, `store_unavailable`, `store_denied`.
    """
    place = place_of(parts)
    declared = place.check(files)
    new = NewUpload(
        id=new_upload_id(),
        actor=actor,
        adapter=adapter,
        digest=declared.digest,
        files=tuple(files),
        beside=declared.beside,
        seconds=parts.settings.upload_seconds,
        reuse=reuse,
    )
    async with parts.database.transaction() as tx:
        session, created = await uploads.open_session(tx, new)
    if session.state is UploadState.OPEN and not session.begun:
        session = await _begun(parts, place, session)
    return await _body(place, session), created


async def _begun(parts: ApiDependencies, place: UploadPlace, session: UploadSession) -> UploadSession:
    begun = await asyncio.to_thread(place.begin, session.id, session.awaited)
    async with parts.database.transaction() as tx:
        kept = await uploads.note_begun(tx, session.id, begun)
    if kept != begun:  # another call for the same session came first
        await asyncio.to_thread(place.forget, session.id, begun)
    return session.model_copy(update={"begun": kept})


async def read_upload(parts: ApiDependencies, actor: str, session: str) -> UploadBody:
    """The actor's session as it stands.

    Raises:
        LoradockError: `uploads_off`, `upload_not_found`, `upload_expired`, `upload_ended`, `store_unavailable`,
            `store_denied`.
    """
    place = place_of(parts)
    return await _body(place, await _read(parts, actor, session))


async def part_addresses(
    parts: ApiDependencies, actor: str, session: str, index: int, numbers: Sequence[int]
) -> UploadPartsBody:
    """Addresses for some parts of one file.

    Raises:
        LoradockError: as `read_upload`; `invalid_request`.
    """
    place = place_of(parts)
    found = await _read_open(parts, actor, session)
    file = _file(found, index)
    addresses = await asyncio.to_thread(place.part_addresses, found.id, file, found.begun, numbers)
    return UploadPartsBody(parts=tuple(addresses))


async def take_stream(
    parts: ApiDependencies,
    actor: str,
    session: str,
    *,
    index: int,
    offset: int,
    stream: AsyncIterator[bytes],
) -> int:
    """Write what comes of a file; how much of it is there then. What came before a break stays.

    Raises:
        LoradockError: as `read_upload`; `invalid_request`, `upload_busy`, `upload_mismatch`, `upload_incomplete` when
            the caller falls silent, `disk_full`.
    """
    place = place_of(parts)
    found = await _read_open(parts, actor, session)
    opened = place.writer(found.id, _file(found, index), offset)
    writer = await asyncio.to_thread(opened.__enter__)
    try:
        await _write_all(writer, stream)
        return await asyncio.to_thread(writer.finish)
    finally:
        # In this thread: it closes a file and gives a lock back, which must happen also when the call is cancelled.
        opened.__exit__(None, None, None)


async def _write_all(writer: UploadWriter, stream: AsyncIterator[bytes]) -> None:
    waiting = bytearray()
    try:
        while (chunk := await _next(stream)) is not None:
            waiting += chunk
            if len(waiting) >= _WRITTEN_AT_ONCE:
                data, waiting = bytes(waiting), bytearray()
                await asyncio.to_thread(writer.write, data)
    finally:
        if waiting:
            writer.write(bytes(waiting))


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(stream, None)
    except TimeoutError:
        raise LoradockError("upload_incomplete", f"nothing came for {SILENCE_SECONDS:.0f} s") from None
    except ClientDisconnect:  # nobody hears this; what came is kept
        raise LoradockError("upload_incomplete", "the caller went away") from None


async def complete_upload(parts: ApiDependencies, actor: str, session: str) -> UploadBody:
    """Say that all bytes are there. Repeatable.

    Raises:
        LoradockError: as `read_upload`; `upload_incomplete`.
    """
    place = place_of(parts)
    found = await _read(parts, actor, session)
    if found.state is UploadState.OPEN:
        await asyncio.to_thread(place.complete, found.id, found.awaited, found.begun)
        async with parts.database.transaction() as tx:
            found = await uploads.mark_complete(tx, session, actor)
    return await _body(place, found)


def named_by(uri: str) -> str | None:
    """The session that a source's address names, None when it names no upload."""
    address = parse_source_uri(uri)
    return address.bucket if address.scheme == UPLOAD_SCHEME else None


async def settled(tx: Reader, session: str, actor: str, request: PublishRequest) -> PublishRequest:
    """The request for a publish of an upload: read from where its bytes are, and of no other digest than declared.

    Raises:
        LoradockError: `upload_not_found`, `digest_mismatch`.
    """
    found = await uploads.get_for_publish(tx, session, actor, request.adapter)
    if request.expect_digest not in (None, found.digest):
        raise LoradockError(
            "digest_mismatch", f"{request.expect_digest} was expected, the upload is {found.digest}"
        )
    uri = UploadUri(session, found.digest if found.stored else None)
    return request.model_copy(update={"uri": str(uri), "expect_digest": found.digest})


async def bind(tx: Transaction, session: str, operation: str) -> None:
    """Give the upload to its publish.

    Raises:
        LoradockError: `upload_expired`, `upload_ended`, `upload_incomplete`.
    """
    await uploads.bind(tx, session, operation)


async def _read(parts: ApiDependencies, actor: str, session: str) -> UploadSession:
    async with parts.database.read() as reader:
        return await uploads.get_open(reader, session, actor)


async def _read_open(parts: ApiDependencies, actor: str, session: str) -> UploadSession:
    found = await _read(parts, actor, session)
    if found.state is not UploadState.OPEN:
        raise LoradockError("upload_ended", "the upload is complete: nothing is taken any more")
    return found


def _file(session: UploadSession, index: int) -> ManifestFile:
    if index >= len(session.files):
        raise LoradockError("invalid_request", f"the upload has {len(session.files)} files, counted from 0")
    file = session.files[index]
    if file not in session.awaited:
        raise LoradockError("invalid_request", f"{file.path} need not be sent: it is stored")
    return file


async def _body(place: UploadPlace, session: UploadSession) -> UploadBody:
    there = {file.path: ReceivedFile(received=file.size, complete=True) for file in session.files}
    if session.state is UploadState.OPEN:
        awaited = session.awaited
        found = await asyncio.to_thread(place.received, session.id, awaited, session.begun)
        there |= {file.path: one for file, one in zip(awaited, found, strict=True)}
    return UploadBody(
        id=session.id,
        uri=str(UploadUri(session.id)),
        adapter=session.adapter,
        digest=session.digest,
        state=session.state,
        stored=session.stored,
        transfer=place.transfer,
        created_at=session.created_at,
        expires_at=session.expires_at,
        files=tuple(UploadedFileBody(**dict(file), **dict(there[file.path])) for file in session.files),
    )
