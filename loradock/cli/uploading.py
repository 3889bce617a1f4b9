"""Sending a folder's files into an upload session: what is there already is not sent again, however it came there."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

import httpx

from loradock.cli import text
from loradock.cli.client import ApiClient, Document, upload_path
from loradock.cli.failures import CommandFailure, ExitCode, unavailable
from loradock.cli.transfer_bar import TransferBar
from loradock.core.errors import CATALOG

PARTS_AT_ONCE: Final = 3
PARTS_ASKED: Final = 12
"""Addresses that are asked for at once: they are good for minutes only."""
ATTEMPTS: Final = 6
"""Tries in a row that bring nothing."""
BUSY_SECONDS: Final = 0.5
BUSY_ATTEMPTS: Final = 120
"""How often is looked whether somebody else, who sends the same, gets any further."""
MOST_SECONDS: Final = 10.0
_PIECE: Final = 256 * 1024
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_CAN_HEAL: Final = frozenset({408, 409, 429, 500, 502, 503, 504})


def send_upload(api: ApiClient, folder: Path, upload: Document, bar: TransferBar) -> Document:
    """Send what is missing of an open session, and complete it.

    Args:
        folder: holds the declared files.
        upload: as the API gave it.
        bar: counts what is sent; what was there is counted already.

    Returns:
        The session, complete.

    Raises:
        CommandFailure: refused (4), not reachable or broken for too long (5).
    """
    pieces = _Pieces(folder, bar)
    if upload["transfer"] == "parts":
        _send_parts(api, upload, pieces)
    else:
        for index, file in enumerate(upload["files"]):
            _send_stream(api, upload["id"], index, file, pieces)
    return _patiently(lambda: api.post(f"{upload_path(upload['id'])}/complete"))


class _StoppedError(Exception):
    """Ends what nobody needs any more, since another part has failed; never leaves this module."""


class _Pieces:
    """Ranges of the folder's files as they go out, counted."""

    def __init__(self, folder: Path, bar: TransferBar) -> None:
        self._folder = folder
        self.bar = bar
        self.stopped = threading.Event()

    def of(self, file: Document, start: int, size: int) -> Iterator[bytes]:
        """A range of a file.

        Raises:
            CommandFailure: it is not there any more.
        """
        name = text.clean(file["path"])
        try:
            with (self._folder / file["path"]).open("rb") as opened:
                opened.seek(start)
                while size:
                    if self.stopped.is_set():
                        raise _StoppedError
                    data = opened.read(min(_PIECE, size))
                    if not data:
                        raise _refused("source_changed", f"{name} became shorter while it was sent")
                    yield data
                    size -= len(data)
                    self.bar.advance(len(data))
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise _refused("source_denied", f"{name} cannot be read: {reason}") from None


# --- Part by part, straight to the object store


def _send_parts(api: ApiClient, upload: Document, pieces: _Pieces) -> None:
    # A client of its own: the API's token is not for the store.
    with (
        httpx.Client(timeout=_TIMEOUT) as store,
        ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="send") as pool,
    ):
        for index, file in enumerate(upload["files"]):
            sender = _PartSender(api, store, f"{upload_path(upload['id'])}/files/{index}/parts", file, pieces)
            missing = _missing(file)
            for at in range(0, len(missing), PARTS_ASKED):
                _send_together(pool, sender, missing[at : at + PARTS_ASKED], pieces)


def _missing(file: Document) -> list[int]:
    if not file["size"] or file["complete"]:
        return []
    count = -(-file["size"] // file["part_bytes"])
    return sorted(set(range(1, count + 1)) - set(file["parts"]))


def _send_together(
    pool: ThreadPoolExecutor, sender: "_PartSender", numbers: Sequence[int], pieces: _Pieces
) -> None:
    addresses = sender.addresses(numbers)
    futures = [pool.submit(sender.send, number, addresses.get(number)) for number in numbers]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        failures = [error for one in futures if one.done() and (error := one.exception())]
        if failures:
            raise failures[0]
    except BaseException:  # Ctrl-C too
        pieces.stopped.set()
        for future in futures:
            future.cancel()
        raise


class _PartSender:
    """Sends parts of one file, from several threads. Addresses carry a signature: no message ever has one."""

    def __init__(
        self, api: ApiClient, store: httpx.Client, path: str, file: Document, pieces: _Pieces
    ) -> None:
        self._api = api
        self._store = store
        self._path = path
        self._file = file
        self._pieces = pieces

    def addresses(self, numbers: Sequence[int]) -> dict[int, str]:
        """Fresh addresses, by part."""
        answer = _patiently(lambda: self._api.post(self._path, {"parts": list(numbers)}))
        return {part["number"]: part["url"] for part in answer["parts"]}

    def send(self, number: int, address: str | None) -> None:
        """Send one part, again where that can help.

        Raises:
            CommandFailure: refused (4), not reachable or broken for too long (5).
        """
        start = (number - 1) * self._file["part_bytes"]
        size = min(self._file["part_bytes"], self._file["size"] - start)
        what = f"part {number} of {text.clean(self._file['path'])}"
        renewed = False
        for attempt in range(1, ATTEMPTS + 1):
            url = address or self.addresses([number])[number]
            status, problem = self._put(url, start, size)
            if problem is None:
                return
            if status == 403 and not renewed:  # its time was over
                renewed, address = True, None
                continue
            if status == 404:
                raise _refused("upload_ended", f"the object store takes {what} no more")
            if status is not None and status not in _CAN_HEAL:
                raise CommandFailure(ExitCode.REFUSED, f"the object store refused {what}: {problem}")
            if attempt < ATTEMPTS and self._pieces.stopped.wait(_pause(attempt)):
                raise _StoppedError
        raise unavailable(f"{what} could not be sent: {problem}", "Repeat the command: it goes on from here.")

    def _put(self, url: str, start: int, size: int) -> tuple[int | None, str | None]:
        """Send it once; the store's status, and what was wrong with it."""
        sent = 0

        def counted() -> Iterator[bytes]:
            nonlocal sent
            for data in self._pieces.of(self._file, start, size):
                yield data
                sent += len(data)

        try:
            # Without a length httpx would send chunks, which no signature fits.
            answer = self._store.put(url, content=counted(), headers={"Content-Length": str(size)})
        except (httpx.TransportError, httpx.InvalidURL) as error:
            self._pieces.bar.advance(-sent)
            return None, type(error).__name__
        if answer.is_success:
            return answer.status_code, None
        self._pieces.bar.advance(-sent)
        return answer.status_code, f"HTTP status {answer.status_code}"


# --- File by file, to the API


def _send_stream(api: ApiClient, upload: str, index: int, file: Document, pieces: _Pieces) -> None:
    """Until the file is there: by one call, by others that go on where it broke off, or by somebody else's."""
    failures = 0
    while file["size"] and not file["complete"]:
        before, there = pieces.bar.done, file["received"]
        try:
            left = file["size"] - there
            content = pieces.of(file, there, left)
            api.put_bytes(f"{upload_path(upload)}/files/{index}", content, left, offset=there)
        except CommandFailure as failure:
            busy = failure.code == "upload_busy"
            if not busy and failure.exit_code is not ExitCode.UNAVAILABLE:
                raise
            file = _patiently(lambda: api.get(upload_path(upload)))["files"][index]
            # What was sent counts as far as it has arrived.
            pieces.bar.advance(file["received"] - there - (pieces.bar.done - before))
            failures = 0 if file["received"] > there else failures + 1
            if failures >= (BUSY_ATTEMPTS if busy else ATTEMPTS):
                raise
            if not file["complete"]:
                time.sleep(BUSY_SECONDS if busy else _pause(failures))
        else:
            return


def _patiently(call: Callable[[], Document]) -> Document:
    """A call that may be repeated: what was sent so far is not given up because the API is away for a moment."""
    for attempt in range(1, ATTEMPTS):
        try:
            return call()
        except CommandFailure as failure:
            if failure.exit_code is not ExitCode.UNAVAILABLE:
                raise
            time.sleep(_pause(attempt))
    return call()


def _pause(attempt: int) -> float:
    """Seconds to wait before another try: random, so that many do not come back at once."""
    return random.uniform(0, min(MOST_SECONDS, 0.5 * 2**attempt))  # noqa: S311 - no secret


def _refused(code: str, message: str) -> CommandFailure:
    return CommandFailure(ExitCode.REFUSED, message, code=code, remedy=CATALOG[code].remedy)
