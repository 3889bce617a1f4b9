"""Commands that run processes, and what starting the command costs."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from loradock.cli.failures import ExitCode
from loradock.dev.lock import StackLock
from tests.cli.conftest import Ran

Cli = Callable[..., Ran]


def test_a_client_command_loads_none_of_the_service() -> None:
    heavy = ("pydantic", "sqlalchemy", "temporalio", "fastapi", "boto3", "alembic", "uvicorn")
    code = f"import sys, loradock.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_python_dash_m_is_the_same_command() -> None:
    command = [sys.executable, "-m", "loradock", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("loradock ")


def test_a_process_without_its_settings_is_2_and_names_them(elsewhere: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    for command in ("migrate", "api", "orchestrator", "agent"):
        done = subprocess.run(
            [sys.executable, "-m", "loradock", command], env=environment, cwd=elsewhere,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == ExitCode.USAGE, (command, done.stderr)
        assert "error [setting_invalid]:" in done.stderr
        assert "Traceback" not in done.stderr


def _run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    return subprocess.run(
        [sys.executable, "-m", "loradock", *arguments], env={**environment, **settings},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_without_temporal_the_setup_says_where_it_looked_in_two_lines(elsewhere: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = _run("temporal-setup", LORADOCK_TEMPORAL_ADDRESS=address)
    assert done.returncode == ExitCode.UNAVAILABLE
    message, remedy = done.stderr.splitlines()
    assert message == f"error [temporal_unavailable]: Temporal does not answer at {address}"
    assert "LORADOCK_TEMPORAL_ADDRESS" in remedy


def test_an_address_of_temporal_that_is_none_is_2(elsewhere: Path) -> None:
    done = _run("temporal-setup", LORADOCK_TEMPORAL_ADDRESS="a b:3")
    assert done.returncode == ExitCode.USAGE
    assert "LORADOCK_TEMPORAL_ADDRESS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stack_that_runs_already_is_2(elsewhere: Path) -> None:
    lock = StackLock(elsewhere / ".loradock" / "lock")
    lock.acquire()
    try:
        done = _run("dev", "--engine", "simulated")
    finally:
        lock.release()
    assert done.returncode == ExitCode.USAGE
    assert "error [stack_running]:" in done.stderr


def test_an_unknown_log_level_is_2(elsewhere: Path) -> None:
    environment = {**os.environ, "LORADOCK_LOG_LEVEL": "LOUD"}
    command = [sys.executable, "-m", "loradock", "migrate"]
    done = subprocess.run(
        command, env=environment, cwd=elsewhere, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == ExitCode.USAGE
    assert "LORADOCK_LOG_LEVEL" in done.stderr
