"""Every end of a command has its exit code and a message for people; never a traceback."""

import socket
from collections.abc import Callable

import pytest

from loradock.cli.failures import EXIT_CODE_MEANING, ExitCode
from tests.cli.conftest import FakeApi, Ran, Reply, problem

Cli = Callable[..., Ran]


def test_a_refusal_is_4_with_code_remedy_and_the_operation_in_the_way(cli: Cli, api: FakeApi) -> None:
    busy = problem("adapter_busy", 409, "'greeter' is busy", operation="op-7")
    api.on("POST", "/v1/adapters/greeter/load", Reply(busy, 409))
    ran = cli("load", "greeter@1")
    assert ran.code == ExitCode.REFUSED
    assert ran.out == ""
    assert ran.err.splitlines() == [
        "error [adapter_busy]: 'greeter' is busy",
        "  What to do about it.",
        "  operation: op-7",
        "  request_id: req-1",
    ]


def test_with_json_a_refusal_is_the_problem_on_stdout(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/adapters/nobody", Reply(problem("adapter_not_found", 404, "no adapter 'nobody'"), 404))
    ran = cli("show", "nobody", "--json")
    assert ran.code == ExitCode.REFUSED
    assert ran.json["code"] == "adapter_not_found"


def test_every_wrong_field_is_named(cli: Cli, api: FakeApi) -> None:
    errors = [{"field": "body.a", "message": "wrong"}, {"field": "body.b", "message": "wrong too"}]
    refused = problem("invalid_request", 422, "body.a: wrong (and 1 more)", errors=errors)
    api.on("POST", "/v1/adapters/greeter/load", Reply(refused, 422))
    ran = cli("load", "greeter@1")
    assert "body.b: wrong too" in ran.err


def test_a_problem_of_the_service_is_5(cli: Cli, api: FakeApi) -> None:
    api.on(
        "GET", "/v1/adapters", Reply(problem("database_unavailable", 503, "Postgres does not answer"), 503)
    )
    ran = cli("ls")
    assert ran.code == ExitCode.UNAVAILABLE
    assert "[database_unavailable]" in ran.err


@pytest.mark.parametrize(
    "reply",
    [
        Reply(raw=b"<html>hello</html>", content_type="text/html"),
        Reply(raw=b"[1, 2]"),
        Reply(raw=b"<html>bad gateway</html>", status=502, content_type="text/html"),
        Reply({"code": 7}, status=500),
        Reply(raw=b"", status=307),
    ],
)
def test_an_answer_that_is_not_ours_is_5_and_names_the_address_as_the_likely_cause(
    cli: Cli, api: FakeApi, reply: Reply
) -> None:
    api.on("GET", "/v1/adapters", reply)
    ran = cli("ls")
    assert ran.code == ExitCode.UNAVAILABLE
    assert "--api-url" in ran.err


def test_no_service_is_5_with_the_address(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ran = cli("ls", "--api-url", url)
    assert ran.code == ExitCode.UNAVAILABLE
    assert f"{url} cannot be reached" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("load", "greeter"),
        ("load", "greeter@"),
        ("load", "greeter@1", "2"),
        ("load", "@1"),
        ("load",),
        ("nonsense",),
        ("ls", "nonsense"),
        ("load", "greeter@1", "--policy", "some"),
        ("unload", "greeter", "--drain", "long"),
        ("publish", "greeter", "s3://b/p", "--label", "no-equals-sign"),
        ("publish", "greeter", "s3://b/p", "--label", "a=1", "--label", "a=2"),
        ("publish", "greeter", "no-such-folder"),
        ("audit", "--follow", "--json"),
        ("audit", "--since", "yesterday-ish"),
        ("ls", "--api-url", "ftp://host"),
        ("ls", "--api-url", "http://[broken"),
        ("ls", "--token", "line\nbreak"),
    ],
)
def test_a_wrong_command_line_is_2_and_nothing_is_sent(
    cli: Cli, api: FakeApi, arguments: tuple[str, ...]
) -> None:
    ran = cli(*arguments)
    assert ran.code == ExitCode.USAGE
    assert ran.err
    assert api.seen == []


def test_what_nobody_foresaw_is_1_without_a_traceback(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/adapters", Reply({"items": [1, 2], "next": None}))
    ran = cli("ls")
    assert ran.code == ExitCode.UNEXPECTED
    assert "please report" in ran.err


def test_text_from_outside_cannot_steer_the_terminal(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/adapters", Reply(problem("internal_error", 500, "red \x1b[31m [bold]text"), 500))
    ran = cli("ls")
    assert "\x1b" not in ran.err
    assert "[bold]text" in ran.err


def test_help_and_readme_name_every_exit_code(cli: Cli, pytestconfig: pytest.Config) -> None:
    shown = cli("--help").out
    readme = (pytestconfig.rootpath / "README.md").read_text()
    for code, meaning in EXIT_CODE_MEANING.items():
        assert f"{code.value}  {meaning}" in shown
        assert f"| {code.value} | {meaning} |" in readme
