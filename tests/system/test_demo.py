"""`make demo`'s command on real engines, and what is left when a person kills what they started."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradock.dev.engine_environment import DEFAULT_FOLDER, EngineEnvironment
from loradock.dev.samples import Samples
from tests.dev.processes import PROJECT, alive, environment, wait_until
from tests.system.running import IMPORTS

pytestmark = [pytest.mark.slow]

STORY = (
    "publish greeter version 1", "load greeter@1", "ask greeter@1", "publish greeter version 2", "load greeter@2",
    "kill -9 the orchestrator", "the load goes on by itself", "kill -9 engine-2", "is put back",
    "greeter is loaded there again by itself", "unload greeter@1", "gone from list_loras", "audit history",
    "all as it should be",
)  # fmt: skip


class Watched:
    """A command in a session of its own, and every process that its stack started meanwhile.

    Args:
        project: where `.loradock/` comes to lie.
    """

    def __init__(self, command: list[str], project: Path, stack: str) -> None:
        self._records = project / ".loradock" / stack / "processes.json"
        self._output = project / "output"
        self.pids: set[int] = set()
        env = environment(HOME=str(project), PYTHONPATH=IMPORTS, COLUMNS="200")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=project, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def look(self) -> None:
        """Note the processes that are recorded now."""
        try:
            self.pids |= {entry["pid"] for entry in json.loads(self._records.read_text()).values()}
        except (OSError, ValueError):
            return

    def wait(self, seconds: float) -> int:
        """The exit status."""
        ends = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < ends, self.output[-3000:]
            self.look()
            time.sleep(0.2)
        return self.process.returncode

    def left(self) -> list[int]:
        return [pid for pid in self.pids if alive(pid)]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A fresh folder to start a stack in."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.engine
@pytest.mark.timeout(900)
def test_the_demo_on_real_engines(
    project: Path, engine_environment: EngineEnvironment, tiny_model: Samples
) -> None:
    (project / DEFAULT_FOLDER).symlink_to(engine_environment.folder)
    # Made once for all tests: how it is made is the concern of tests/dev/test_tiny_model.py.
    (project / ".loradock").mkdir()
    (project / ".loradock" / "samples").symlink_to(tiny_model.folder)
    demo = Watched([sys.executable, "-m", "loradock", "demo"], project, "demo")
    try:
        assert demo.wait(860) == 0, demo.output[-3000:]
    finally:
        demo.end()
    told = demo.output
    where = [told.find(line) for line in STORY]
    assert where == sorted(where), told
    assert -1 not in where, told
    assert "exactly the tokens of transformers+PEFT" in told
    assert "simulated" not in told
    assert "/namespaces/default/workflows/op" in told
    assert len(demo.pids) >= 11, "two engines, one of them twice, and nine others were seen"
    assert demo.left() == []
    assert not (project / ".loradock" / "dev.json").exists()


@pytest.mark.timeout(200)
def test_kill_9_of_make_leaves_no_process(project: Path) -> None:
    for name in ("Makefile", ".ci", ".venv", "pyproject.toml", "requirements", "vllm_extension"):
        (project / name).symlink_to(PROJECT / name)
    # -o: the environment is there; make must not install into it because of a stamp's age.
    command = ["make", "-o", ".venv/.installed", "dev", "ARGS=--engine simulated"]
    make = Watched(command, project, "dev")
    try:
        assert wait_until((project / ".loradock" / "dev.json").exists, 120), make.output
        make.look()
        make.pids |= _children(make.process.pid)
        assert len(make.pids) >= 10
        make.process.kill()
        make.process.wait()
        assert wait_until(lambda: not make.left(), 40), make.left()
    finally:
        make.end()
        for pid in make.left():
            os.kill(pid, 9)


def _children(pid: int) -> set[int]:
    """A process's descendants."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in listed}.union(*(_children(int(child)) for child in listed))
