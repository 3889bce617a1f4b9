"""What Temporal is told when an activity fails: our codes, and of everything else no more than its type."""

import asyncio
import logging
from typing import Any

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.failures import ATTEMPTS_OF_THE_UNKNOWN, FailureInterceptor
from loradock.core.errors import CATALOG, LoradockError
from tests.activities.parts import Bench

SECRET = "postgresql://loradock:hunter2@db/registry"


class Failing(ActivityInboundInterceptor):
    """The activity itself, at the end of the chain."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        raise self._error


async def raised(error: BaseException, attempt: int = 1) -> BaseException:
    """What comes out of the interceptor when the activity raises this."""
    inbound = FailureInterceptor().intercept_activity(Failing(error))

    async def run() -> None:
        given = ExecuteActivityInput(fn=print, args=[], executor=None, headers={})
        await inbound.execute_activity(given)

    with pytest.raises(BaseException) as caught:
        await Bench(attempt=attempt).run(run)
    return caught.value


async def shown(error: BaseException) -> str:
    """All that Temporal keeps of a failure, causes and stack included."""
    failure = DataConverter.default.failure_converter
    kept = Failure()
    failure.to_failure(error, DataConverter.default.payload_converter, kept)
    return str(kept)


@pytest.mark.parametrize("code", sorted(CATALOG))
async def test_each_code_becomes_the_type_and_is_retried_only_where_that_helps(code: str) -> None:
    error = await raised(LoradockError(code, "what happened", engine="e1"))
    assert isinstance(error, ApplicationError)
    assert (error.type, error.message) == (code, "what happened")
    assert error.non_retryable is not CATALOG[code].retryable
    assert error.details == ({"details": {"engine": "e1"}},)


async def test_what_lay_below_one_of_our_errors_is_not_told() -> None:
    try:
        try:
            raise ValueError(SECRET)
        except ValueError as below:
            raise LoradockError("store_unavailable", "the store is away") from below
    except LoradockError as error:
        assert "hunter2" not in await shown(await raised(error))


async def test_a_foreign_error_is_told_by_its_type_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        error = await raised(ValueError(SECRET))
    assert isinstance(error, ApplicationError)
    assert (error.type, error.non_retryable) == ("internal_error", False)
    assert "ValueError" in error.message
    assert "hunter2" not in await shown(error)
    assert "hunter2" not in caplog.text
    assert "test_failures.py" in caplog.text  # where it was, so that somebody can find it


async def test_temporals_own_failures_pass_untouched() -> None:
    for error in (CancelledError("cancelled"), ApplicationError("theirs", type="theirs")):
        assert await raised(error) is error


async def test_failures_are_told_by_activity_and_code_and_a_cancel_is_none() -> None:
    told: list[tuple[str, str]] = []
    interceptor = FailureInterceptor(lambda activity, code: told.append((activity, code)))
    for error in (LoradockError("no_free_slot", "x"), ValueError("x"), CancelledError("x")):
        inbound = interceptor.intercept_activity(Failing(error))

        async def run(inbound: ActivityInboundInterceptor = inbound) -> None:
            await inbound.execute_activity(ExecuteActivityInput(fn=print, args=[], executor=None, headers={}))

        bench = Bench()
        with pytest.raises(BaseException):  # noqa: B017
            await bench.run(run)
    assert told == [(bench.info.activity_type, "no_free_slot"), (bench.info.activity_type, "internal_error")]


async def test_a_cancel_passes_untouched() -> None:
    assert isinstance(await raised(asyncio.CancelledError()), asyncio.CancelledError)


async def test_what_nobody_foresaw_is_not_tried_for_ever() -> None:
    last = await raised(ValueError("x"), attempt=ATTEMPTS_OF_THE_UNKNOWN)
    assert isinstance(last, ApplicationError)
    assert last.non_retryable
