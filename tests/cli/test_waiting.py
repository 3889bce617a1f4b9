"""Waiting for an operation: by its events, without them, through an outage, to a timeout, until Ctrl-C."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from loradock.cli.failures import CommandFailure, ExitCode
from loradock.cli.progress import steps_table
from loradock.cli.waiting import UNREACHABLE_LIMIT, follow
from tests.cli.conftest import TOKEN, FakeApi, Ran, Reply, event, operation, problem, step, stream

Cli = Callable[..., Ran]

EVENTS = "/v1/operations/op-1/events"
ERROR = {"code": "no_free_slot", "message": "engine-1 has no usable slot left", "details": {}}


@pytest.fixture
def loading(api: FakeApi) -> FakeApi:
    """An API that has taken a load."""
    api.on("POST", "/v1/adapters/greeter/load", Reply(operation("pending"), 202))
    return api


def test_each_step_is_told_as_the_events_bring_it(cli: Cli, loading: FakeApi) -> None:
    done = step(
        "download", "succeeded", started_at="2026-01-01T00:00:00Z", ended_at="2026-01-01T00:00:01.5Z",
        detail={"bytes": 84_000_000, "outcome": "downloaded"},
    )  # fmt: skip
    ended = operation(
        "succeeded", result={"engines": ["engine-1"]}, steps=[done, step("verify", "succeeded")]
    )
    chunks = (
        event(operation(steps=[step("download", "running", attempt=2)])),
        ": keep-alive\n\n",
        event(operation(steps=[done, step("verify", "running")])),
        event(ended),
        event(ended, "end"),
    )
    loading.on("GET", EVENTS, stream(*chunks))
    ran = cli("load", "greeter@1")
    assert ran.err.splitlines() == [
        "load greeter@1 in default: pending (op-1)",
        "load greeter@1 in default: running (op-1)",
        "  engine-1 download: running (try 2)",
        "  engine-1 download: succeeded (1.5 s, 84.0 MB, downloaded)",
        "  engine-1 verify: running",
        "load greeter@1 in default: succeeded (op-1)",
        "  engine-1 verify: succeeded",
    ]
    assert ran.out == "greeter@1 is served by engine-1\n"


def test_a_running_transfer_shows_a_bar_with_its_total(api: FakeApi) -> None:
    detail = {"bytes": 42_000_000, "bytes_per_second": 21_000_000, "total_bytes": 84_000_000}
    running = step("download", "running", detail=detail, started_at="2026-01-01T00:00:00Z")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(steps_table(operation(steps=[running])))
    assert f"{'━' * 10}{'─' * 10} 42.0 MB of 84.0 MB, 21.0 MB/s" in console.export_text()
    more = step("download", "running", detail={**detail, "bytes": 100_000_000})  # it was read twice
    console.print(steps_table(operation(steps=[more])))
    assert f"{'━' * 20} 100 MB of 84.0 MB" in console.export_text()
    done = step("download", "succeeded", detail=detail)
    console.print(steps_table(operation(steps=[done])))
    assert "━" not in console.export_text()


def test_a_bad_end_is_3_with_reason_remedy_and_link(cli: Cli, loading: FakeApi) -> None:
    loading.on("GET", EVENTS, stream(event(operation("failed", error=ERROR, repairs_pending=True), "end")))
    ran = cli("load", "greeter@1")
    assert ran.code == ExitCode.OPERATION_FAILED
    assert "error [no_free_slot]: load greeter@1 failed: engine-1 has no usable slot left" in ran.err
    assert "more --max-loras" in ran.err
    assert "http://temporal.test/op-1" in ran.err
    assert "reconciler" in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("state", ["aborted", "rolled_back"])
def test_every_other_end_is_3_too(cli: Cli, loading: FakeApi, state: str) -> None:
    loading.on("GET", EVENTS, stream(event(operation(state), "end")))
    assert cli("load", "greeter@1").code == ExitCode.OPERATION_FAILED


def test_with_json_stdout_is_the_ended_operation_alone(cli: Cli, loading: FakeApi) -> None:
    loading.on("GET", EVENTS, stream(event(operation("failed", error=ERROR), "end")))
    ran = cli("load", "greeter@1", "--json")
    assert ran.code == ExitCode.OPERATION_FAILED
    assert ran.json["error"] == ERROR


@pytest.mark.parametrize(
    "broken",
    [
        stream(event(operation("running"))),
        stream("data: {not json\n\n", "data: [1]\n\n", "event: x\n\n"),
        Reply(problem("database_unavailable", 503, "Postgres does not answer"), 503),
        Reply(raw=b"", status=502),
    ],
)
def test_a_stream_that_does_not_hold_is_replaced_by_asking(cli: Cli, loading: FakeApi, broken: Reply) -> None:
    loading.on("GET", EVENTS, broken)
    ended = Reply(operation("succeeded"))
    loading.on("GET", "/v1/operations/op-1", [Reply(operation("running")), ended])
    if broken.status != 200:
        loading.on("GET", EVENTS, [broken, stream(event(operation("succeeded"), "end"))])
    assert cli("load", "greeter@1").code == ExitCode.OK


def test_a_wait_that_times_out_is_6_and_says_how_to_go_on(cli: Cli, loading: FakeApi) -> None:
    loading.on("GET", "/v1/operations/op-1", Reply(operation("running")))
    ran = cli("load", "greeter@1", "--timeout", "300ms")
    assert ran.code == ExitCode.TIMEOUT
    assert "loradock ops wait op-1" in ran.err
    assert "loradock ops abort op-1" in ran.err


def test_ops_wait_follows_and_its_exit_code_is_the_operations(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/operations/op-1", Reply(operation("running")))
    api.on("GET", EVENTS, stream(event(operation("failed", error=ERROR), "end")))
    assert cli("ops", "wait", "op-1").code == ExitCode.OPERATION_FAILED


def test_ops_abort_succeeds_when_the_operation_ends_as_aborted(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/operations/op-1/abort", Reply(operation("compensating"), 202))
    api.on("GET", EVENTS, stream(event(operation("aborted"), "end")))
    assert cli("ops", "abort", "op-1").code == ExitCode.OK
    api.on("GET", EVENTS, stream(event(operation("succeeded"), "end")))
    assert cli("ops", "abort", "op-1").code == ExitCode.OPERATION_FAILED


def test_ctrl_c_is_130_and_says_that_the_operation_goes_on(loading: FakeApi) -> None:
    over = threading.Event()
    loading.on("GET", EVENTS, stream(event(operation("running")), hold=over))
    environment = {**os.environ, "LORADOCK_API_URL": loading.url, "LORADOCK_API_TOKEN": TOKEN}
    command = [sys.executable, "-m", "loradock", "load", "greeter@1"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(2)]
        assert "running" in lines[1]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        over.set()
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED
    assert out == ""
    assert "goes on" in err
    assert "loradock ops abort op-1" in err
    assert "Traceback" not in err


class _Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class _Down:
    """A client whose service is away until a moment."""

    def __init__(self, clock: _Clock, until: float) -> None:
        self._clock = clock
        self._until = until

    def events(self, operation: str) -> Iterator[dict[str, Any] | None]:
        yield self.get(operation)

    def get(self, path: str, **query: object) -> dict[str, Any]:
        if self._clock.time < self._until:
            raise CommandFailure(ExitCode.UNAVAILABLE, "cannot be reached")
        return operation("succeeded")


def _follow(away: float, timeout: float | None = None) -> list[str]:
    clock = _Clock()
    client: Any = _Down(clock, away)
    found = follow(client, operation(), timeout=timeout, now=clock.now, sleep=clock.sleep)
    return [str(document["state"]) for document in found]


def test_an_api_that_comes_back_in_time_loses_nothing() -> None:
    assert _follow(away=UNREACHABLE_LIMIT - 5) == ["running", "succeeded"]


def test_an_api_that_stays_away_is_5() -> None:
    with pytest.raises(CommandFailure) as caught:
        _follow(away=10 * UNREACHABLE_LIMIT)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


def test_the_timeout_counts_while_the_api_is_away() -> None:
    with pytest.raises(CommandFailure) as caught:
        _follow(away=50, timeout=10)
    assert caught.value.exit_code is ExitCode.TIMEOUT
