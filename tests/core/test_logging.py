"""Logging: lines for people, JSON for collectors, the level from the environment."""

import json
import logging
from collections.abc import Iterator

import pytest

from loradock.core.errors import LoradockError
from loradock.core.logging import configure_logging


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_line_has_level_process_logger_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("api 100%")
    logging.getLogger("api.server").info("ready on %s", "port 1")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.rstrip().endswith("INFO    api 100% api.server: ready on port 1")


def test_json_is_one_object_per_record_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("agent", json=True)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("x").exception("two\nlines %s", {"a": "ü"})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    told = json.loads(lines[0])
    assert (told["level"], told["process"], told["logger"]) == ("ERROR", "agent", "x")
    assert told["message"] == "two\nlines {'a': 'ü'}"
    assert "ValueError: first" in told["exception"]
    assert told["time"].endswith("+00:00")


def test_the_level_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORADOCK_LOG_LEVEL", "warning")
    configure_logging("api")
    logging.getLogger("x").info("not shown")
    logging.getLogger("x").warning("shown")
    assert "not shown" not in (shown := capsys.readouterr().err)
    assert "shown" in shown


def test_libraries_that_talk_about_themselves_are_quiet_unless_debugged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("api")
    logging.getLogger("httpx").info("request")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("LORADOCK_LOG_LEVEL", "DEBUG")
    configure_logging("api")
    logging.getLogger("httpx").info("request")
    assert "request" in capsys.readouterr().err


def test_setting_up_twice_does_not_say_things_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("api")
    configure_logging("api")
    logging.getLogger("x").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_an_unknown_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_LOG_LEVEL", "LOUD")
    with pytest.raises(LoradockError, match="LORADOCK_LOG_LEVEL"):
        configure_logging("api")
