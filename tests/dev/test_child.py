"""A child dies with its parent, tells its last words, and is ended with all of its group."""

import os
import shutil
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from loradock.core.errors import LoradockError
from loradock.dev.child import Child, ChildSpec
from tests.dev.processes import alive, environment, python, wait_until

PARENT = """
import signal, sys, time
from pathlib import Path
from loradock.dev.child import Child, ChildSpec
folder = Path(sys.argv[1])
if sys.argv[2] == "prctl":
    import shutil
    shutil.which = lambda name: None
spec = ChildSpec(name="sleeper", command=("sleep", "300"), env={"PATH": "/usr/bin:/bin"})
child = Child(spec, folder / "log")
child.start()
(folder / "pid.tmp").write_text(str(child.pid))
(folder / "pid.tmp").rename(folder / "pid")
time.sleep(300)
"""


def spec_of(code: str, **more: object) -> ChildSpec:
    return replace(ChildSpec(name="part", command=python(code), env=environment(), timeout=10.0), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["setpriv", "prctl"])
def test_a_child_dies_when_its_parent_is_killed_with_9(tmp_path: Path, way: str) -> None:
    if way == "setpriv" and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed here: the other way is used")
    parent = subprocess.Popen(python(PARENT, str(tmp_path), way), env=environment())
    try:
        assert wait_until((tmp_path / "pid").exists)
        pid = int((tmp_path / "pid").read_text())
        assert wait_until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not alive(pid), 5)
    finally:
        parent.kill()
        parent.wait()


def test_a_child_that_ends_too_early_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    child = Child(spec_of("print('the reason'); raise SystemExit(3)", ready=lambda: False), tmp_path / "log")
    child.start()
    with pytest.raises(LoradockError, match=r"status 3.*\n.*the reason") as caught:
        child.wait_ready()
    assert caught.value.code == "stack_failed"


def test_the_error_of_a_talkative_child_still_ends_with_its_last_line(tmp_path: Path) -> None:
    code = "import sys\nfor i in range(3000): print('x' * 300)\nprint('the last line'); sys.exit(1)"
    child = Child(spec_of(code, ready=lambda: False), tmp_path / "log")
    child.start()
    with pytest.raises(LoradockError) as caught:
        child.wait_ready()
    assert caught.value.message.endswith("the last line")


def test_a_child_that_does_not_get_ready_in_time_is_an_error(tmp_path: Path) -> None:
    child = Child(spec_of("import time; time.sleep(60)", ready=lambda: False, timeout=0.3), tmp_path / "log")
    child.start()
    try:
        with pytest.raises(LoradockError, match=r"not ready after 0\.3 s"):
            child.wait_ready()
    finally:
        child.stop()
    assert not alive(child.pid)


def test_a_ready_file_of_an_earlier_life_does_not_count(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    ready.touch()
    code = f"import time, pathlib; time.sleep(0.5); pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    child = Child(spec_of(code, ready_file=ready), tmp_path / "log")
    child.start()
    try:
        assert not child.is_ready()
        child.wait_ready()
        assert child.age >= 0.5
    finally:
        child.stop()


def test_stopping_kills_a_child_that_does_not_listen_and_its_grandchild(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, time, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '300']).pid, flush=True); time.sleep(300)"
    )
    child = Child(spec_of(code, stop_timeout=0.3), tmp_path / "log")
    child.start()
    assert wait_until(lambda: child.tail().strip().isdigit())
    grandchild = int(child.tail())
    child.stop()
    assert not alive(child.pid)
    assert wait_until(lambda: not alive(grandchild), 3)


def test_ctrl_c_in_the_terminal_does_not_reach_a_child(tmp_path: Path) -> None:
    child = Child(spec_of("import time; time.sleep(60)"), tmp_path / "log")
    child.start()
    try:
        assert os.getpgid(child.pid) == child.pid
        assert os.getsid(child.pid) != os.getsid(0)
    finally:
        child.stop()


def test_another_thread_may_not_start_a_child(tmp_path: Path) -> None:
    child, errors = Child(spec_of("pass"), tmp_path / "log"), []

    def start() -> None:
        try:
            child.start()
        except LoradockError as error:
            errors.append(error.code)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert errors == ["stack_failed"]


def test_the_stop_signal_is_the_specs_own(tmp_path: Path) -> None:
    code = (
        "import signal, time, sys; signal.signal(signal.SIGINT, lambda *_: (print('int'), sys.exit(0)));"
        "print('up', flush=True); time.sleep(60)"
    )
    child = Child(spec_of(code, stop_signal=signal.SIGINT), tmp_path / "log")
    child.start()
    assert wait_until(lambda: "up" in child.tail())
    child.stop()
    assert child.returncode == 0
    assert "int" in child.tail()


def test_a_specs_environment_is_not_in_its_repr() -> None:
    assert "hush" not in repr(spec_of("pass", env={"LORADOCK_API_TOKEN": "hush"}))
