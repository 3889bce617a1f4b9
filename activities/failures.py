"""From our errors to Temporal's: one interceptor, so that no activity does it by hand."""

import logging
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, FailureError
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
)

from loradock.core.errors import LoradockError

_log = logging.getLogger(__name__)


class FailureInterceptor(Interceptor):
    """Turns what an activity raises into failures whose type is a code of the catalog."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap the activities of a worker."""
        return _FailureInbound(next)


class _FailureInbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        try:
            return await super().execute_activity(input)
        except LoradockError as error:
            raise as_application_error(error) from None
        except FailureError:
            raise
        except Exception as error:
            # The text of a foreign error may carry an address with a password: it goes to the log's traceback only
            # by its type, and to Temporal as nothing but that.
            _log.exception("%s failed unexpectedly", activity.info().activity_type)
            raise ApplicationError(
                f"{type(error).__name__} in {activity.info().activity_type}", type="internal_error"
            ) from None


def as_application_error(error: LoradockError) -> ApplicationError:
    """The failure that Temporal keeps: its type is our code, retried only where that can help."""
    return ApplicationError(
        error.message, {"details": error.details}, type=error.code, non_retryable=not error.retryable
    )
