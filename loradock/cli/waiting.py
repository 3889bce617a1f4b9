"""Waiting for an operation's end: by its event stream, or by asking again where a stream does not hold."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from loradock.cli.client import ApiClient, Document, operation_path
from loradock.cli.failures import CommandFailure, ExitCode

ENDED: Final = frozenset({"succeeded", "failed", "rolled_back", "aborted"})
"""The states in which nothing happens any more."""

UNREACHABLE_LIMIT: Final = 60.0
"""Seconds without any answer after which waiting is given up."""

_STREAM_SILENCE: Final = 20.0
"""Seconds that a stream may say nothing: with less than that to wait, asking again keeps to the time better."""

_PAUSE: Final = 0.4


def has_ended(operation: Document) -> bool:
    """Whether the operation has ended."""
    return operation.get("state") in ENDED


def follow(
    client: ApiClient,
    operation: Document,
    *,
    timeout: float | None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Document]:
    """The operation as it stands, again at every change; the last one has ended.

    The API may go away meanwhile: as long as it comes back within `UNREACHABLE_LIMIT`, nothing is missed.

    Args:
        operation: as the API gave it first.
        timeout: seconds; None waits for ever.

    Raises:
        CommandFailure: timed out (6), refused (4), not reachable for too long (5).
    """
    deadline = None if timeout is None else now() + timeout
    heard = now()
    yield operation
    while not has_ended(operation):
        streaming = deadline is None or deadline - now() > _STREAM_SILENCE
        try:
            for news in _news(client, str(operation["id"]), streaming=streaming):
                heard = now()
                if news is not None:
                    operation = news
                    yield operation
                if has_ended(operation):
                    return
                if streaming and deadline is not None and deadline - now() <= _STREAM_SILENCE:
                    break
        except CommandFailure as failure:
            if failure.exit_code is not ExitCode.UNAVAILABLE or now() - heard > UNREACHABLE_LIMIT:
                raise
        if deadline is not None and now() >= deadline:
            raise CommandFailure(ExitCode.TIMEOUT, "the wait timed out; the operation goes on")
        sleep(_PAUSE)


def _news(client: ApiClient, operation: str, *, streaming: bool) -> Iterator[Document | None]:
    """What the stream tells; then, as it may have ended early, what a plain read tells."""
    if streaming:
        yield from client.events(operation)
    yield client.get(operation_path(operation))
