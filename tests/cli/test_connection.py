"""Where the API is looked for, and to whom the token is shown."""

import json
from pathlib import Path

import pytest

from loradock.cli.connection import find_connection
from loradock.cli.failures import CommandFailure, ExitCode

DEV = {"api": "http://127.0.0.1:1234", "token": "dev-token"}


@pytest.fixture
def dev_folder(elsewhere: Path) -> Path:
    (elsewhere / ".loradock").mkdir()
    (elsewhere / ".loradock" / "dev.json").write_text(json.dumps(DEV))
    inner = elsewhere / "a" / "b"
    inner.mkdir(parents=True)
    return inner


def test_nothing_to_go_by_is_a_usage_failure(elsewhere: Path) -> None:
    with pytest.raises(CommandFailure) as caught:
        find_connection()
    assert caught.value.exit_code is ExitCode.USAGE
    assert "make dev" in str(caught.value.remedy)


def test_a_running_dev_stack_is_found_from_below(dev_folder: Path) -> None:
    found = find_connection(folder=dev_folder)
    assert (found.url, found.token) == (DEV["api"], DEV["token"])


def test_options_beat_environment_beats_dotenv_beats_the_dev_stack(
    dev_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dev_folder / ".env").write_text("LORADOCK_API_URL=http://dotenv\nLORADOCK_API_TOKEN=dotenv-token\n")
    assert find_connection(folder=dev_folder).url == "http://dotenv"
    monkeypatch.setenv("LORADOCK_API_URL", "http://environment/")
    monkeypatch.setenv("LORADOCK_API_TOKEN", "environment-token")
    found = find_connection(folder=dev_folder)
    assert (found.url, found.token) == ("http://environment", "environment-token")
    found = find_connection("https://option", "option-token", folder=dev_folder)
    assert (found.url, found.token) == ("https://option", "option-token")


def test_the_dev_stacks_token_is_shown_to_no_other_address(dev_folder: Path) -> None:
    assert find_connection("http://elsewhere", folder=dev_folder).token is None
    assert find_connection(DEV["api"] + "/", folder=dev_folder).token == DEV["token"]


def test_a_token_alone_means_the_default_address(elsewhere: Path) -> None:
    assert find_connection(token="t").url == "http://127.0.0.1:8400"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"api": null}', '{"api": 7, "token": []}'])
def test_a_damaged_dev_file_is_a_usage_failure(elsewhere: Path, content: str) -> None:
    (elsewhere / ".loradock").mkdir()
    (elsewhere / ".loradock" / "dev.json").write_text(content)
    with pytest.raises(CommandFailure) as caught:
        find_connection()
    assert caught.value.exit_code is ExitCode.USAGE


def test_the_token_is_not_in_the_repr() -> None:
    assert "secret-token" not in repr(find_connection("http://x", "secret-token"))
