"""From Temporal's nested errors to our codes, and back."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    TerminatedError,
    TimeoutError,  # noqa: A004
    TimeoutType,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from loradock.core.errors import CATALOG, LoradockError
    from loradock.core.models import Failure


def root_cause(error: BaseException) -> BaseException:
    """The error below Temporal's wrappers: `str(ActivityError)` says only "Activity task failed"."""
    while isinstance(error, (ActivityError, ChildWorkflowError)) and error.cause is not None:
        error = error.cause
    return error


def failure_of(error: BaseException) -> Failure:
    """What to tell people of an error: a code of the catalog and a message."""
    cause = root_cause(error)
    match cause:
        case LoradockError():
            return Failure.of(cause)
        case ApplicationError() if cause.type in CATALOG:
            details = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
            return Failure(code=cause.type, message=cause.message, details=details.get("details", {}))
        case TimeoutError():
            return _timeout(error, cause)
        case TerminatedError():
            return Failure(code="workflow_terminated", message="a child workflow was ended by hand")
        case CancelledError() | asyncio.CancelledError():
            return Failure(code="operation_cancelled", message="the operation was cancelled")
    return Failure(code="internal_error", message=f"{type(cause).__name__}: {str(cause)[:500]}")


def _timeout(error: BaseException, cause: TimeoutError) -> Failure:
    step = error.activity_type if isinstance(error, ActivityError) else "a step"
    if cause.type == TimeoutType.SCHEDULE_TO_START:
        return Failure(code="agent_unreachable", message=f"nobody took {step} in time: is the agent running?")
    return Failure(code="agent_timeout", message=f"{step} did not come to an end in time")


def is_cancel(error: BaseException) -> bool:
    """Whether an error is a cancel, in any of the forms that it takes in a workflow."""
    return is_cancelled_exception(error)


def as_workflow_failure(failure: Failure, **details: object) -> ApplicationError:
    """The error that ends a workflow: its type is the code, so the Temporal UI shows it."""
    return ApplicationError(
        failure.message, {"details": failure.details, **details}, type=failure.code, non_retryable=True
    )
