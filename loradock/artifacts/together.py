"""Several transfers at once that succeed or end together."""

import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Lock
from typing import TypeVar

from loradock.artifacts.protocol import Progress

Result = TypeVar("Result")


class _SiblingFailedError(Exception):
    """Ends a transfer whose result nobody needs any more; never leaves this module."""


class _Shared:
    """One progress for several threads; ends all when one has failed."""

    def __init__(self, told: Progress) -> None:
        self._told = told
        self._lock = Lock()
        self._failed = False

    def fail(self) -> None:
        """End the others at their next word."""
        self._failed = True

    def advance(self, size: int) -> None:
        """As `Progress.advance`."""
        if self._failed:
            raise _SiblingFailedError
        with self._lock:
            self._told.advance(size)


def run_together(
    works: Sequence[Callable[[Progress], Result]], progress: Progress, *, at_once: int
) -> list[Result]:
    """Run all, so many at once; results in the order given.

    Args:
        progress: told by several threads, one at a time, each in the caller's context.

    Raises:
        BaseException: the first failure; the others have ended then.
    """
    shared = _Shared(progress)
    with ThreadPoolExecutor(max_workers=at_once, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(contextvars.copy_context().run, work, shared) for work in works]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failures = [error for future in done if (error := future.exception()) is not None]
        if failures:
            shared.fail()
            for future in futures:
                future.cancel()
    real = [error for error in failures if not isinstance(error, _SiblingFailedError)]
    if failures:
        raise (real or failures)[0]
    return [future.result() for future in futures]
