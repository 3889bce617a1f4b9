"""How a worker process lives and ends, in real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dev.processes import PROJECT, environment, wait_until
from worker.lifetime import announce

PROGRAM = """
import asyncio, sys
from pathlib import Path
from worker.lifetime import run_until_stopped

class Worker:
    \"\"\"As temporalio's: it takes its time to stop.\"\"\"
    async def __aenter__(self): return self
    async def __aexit__(self, *_):
        await asyncio.sleep(float(sys.argv[2]))
        print("stopped", flush=True)

async def beat():
    while True:
        print("beat", flush=True)
        await asyncio.sleep(0.05)

async def fail():
    await asyncio.sleep(0.2)
    raise ValueError("the loop is over")

loops = [beat()] + ([fail()] if sys.argv[3:] else [])
asyncio.run(run_until_stopped([Worker()], loops, Path(sys.argv[1])))
"""


@contextmanager
def running(ready: Path, stop_seconds: float, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, str(ready), str(stop_seconds), *more]
    process = subprocess.Popen(
        command, env=environment(), cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_gracefully_and_its_loops_go_on_until_then(
    tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready"
    with running(ready, 0.5) as process:
        assert wait_until(ready.exists, 30)
        assert ready.read_text() == f"{process.pid}\n"
        process.send_signal(number)
        asked = time.monotonic()
        output, errors = process.communicate(timeout=10)
        assert time.monotonic() - asked >= 0.4
    assert process.returncode == 0, errors
    lines = output.splitlines()
    assert "stopped" in lines
    # An agent that waits for its last activities keeps its lease meanwhile.
    assert lines.index("stopped") > 0
    assert lines.count("beat") >= 5


def test_a_loop_that_fails_ends_the_process_and_says_why(tmp_path: Path) -> None:
    with running(tmp_path / "ready", 0.0, "fail") as process:
        output, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "the loop is over" in errors
    assert "stopped" in output


def test_a_ready_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    seen: set[str] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if ready.exists():
                seen.add(ready.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        announce(ready)
    done.set()
    reader.join()
    assert seen <= {f"{os.getpid()}\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]
