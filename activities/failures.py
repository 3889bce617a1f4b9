"""From our errors to Temporal's: one interceptor, so that no activity does it by hand."""

import logging
import traceback
from collections.abc import Callable
from typing import Any, Final

from temporalio import activity
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from loradock.core.errors import LoradockError

_log = logging.getLogger(__name__)

ATTEMPTS_OF_THE_UNKNOWN: Final = 10
"""What we did not foresee may heal, or be a mistake of ours that would be retried for ever with a lock held."""


class FailureInterceptor(Interceptor):
    """Turns what an activity raises into failures whose type is a code of the catalog.

    Args:
        on_failure: told the activity's type and the code of each; never waits, never fails.
    """

    def __init__(self, on_failure: Callable[[str, str], None] = lambda _type, _code: None) -> None:
        self._on_failure = on_failure

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap the activities of a worker."""
        return _FailureInbound(next, self._on_failure)


class _FailureInbound(ActivityInboundInterceptor):
    def __init__(self, behind: ActivityInboundInterceptor, on_failure: Callable[[str, str], None]) -> None:
        super().__init__(behind)
        self._on_failure = on_failure

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        try:
            return await super().execute_activity(input)
        except LoradockError as error:
            self._on_failure(activity.info().activity_type, error.code)
            raise as_application_error(error) from None
        except FailureError:
            raise
        except Exception as error:
            # The text of a foreign error may carry an address with a password: neither the log nor Temporal gets more
            # than its type and where it was.
            name, step = type(error).__name__, activity.info().activity_type
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s failed unexpectedly: %s\n%s", step, name, where)
            self._on_failure(step, "internal_error")
            lasts = activity.info().attempt >= ATTEMPTS_OF_THE_UNKNOWN
            raise ApplicationError(f"{name} in {step}", type="internal_error", non_retryable=lasts) from None


def as_application_error(error: LoradockError) -> ApplicationError:
    """The failure that Temporal keeps: its type is our code, retried only where that can help."""
    return ApplicationError(
        error.message, {"details": error.details}, type=error.code, non_retryable=not error.retryable
    )
