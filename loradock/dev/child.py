"""One child process that dies with its parent, with its log and its readiness check."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loradock.core.errors import LoradockError

_NO_END = frozenset({signal.SIGSTOP, signal.SIGCONT})
_TAIL_LINES = 20
_TAIL_CHARACTERS = 1400  # of the 2,000 that an error message keeps
_PR_SET_PDEATHSIG = 1

# The parent may die before setpriv has asked for the death signal: the shell then sees another parent and never starts.
_GUARD = 'test "$PPID" = "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start one process and how to know that it is ready.

    Attributes:
        name: unique in a stack; names the log file.
        command: program and arguments.
        env: the whole environment of the child.
        ready: quick check, called again and again from any thread until it says True.
        ready_file: a file that the child writes when it is ready; removed before the start.
        timeout: seconds until it must be ready.
        wrapper: a command put before everything, for instance `unshare …`.
        death_signal: what the child gets when its parent dies.
        stop_signal: what asks it to end.
        stop_timeout: seconds from the stop signal to SIGKILL.
        stop_order: children with the highest number are stopped first, those with the same together.
        before_start: called right before each start: last preparations, release of held ports.
        after_stop: called when `stop` has ended it: removal of what it leaves lying about.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    ready: Callable[[], bool] | None = None
    ready_file: Path | None = None
    timeout: float = 30.0
    cwd: Path | None = None
    wrapper: tuple[str, ...] = ()
    death_signal: signal.Signals = signal.SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 10.0
    stop_order: int = 0
    before_start: Callable[[], None] | None = None
    after_stop: Callable[[], None] | None = None


class Child:
    """A process of a `ChildSpec`. Has a session of its own: Ctrl-C in the terminal reaches only the parent.

    Args:
        log: output of the process is appended here.
    """

    def __init__(self, spec: ChildSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.expected_end = False
        """Whether we asked for its end ourselves."""
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0

    @property
    def pid(self) -> int:
        """Process id of the child as last started.

        Raises:
            LoradockError: `stack_failed` when it was never started.
        """
        if self._process is None:
            raise LoradockError("stack_failed", f"{self.spec.name} was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs or before its start."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._started

    def start(self) -> None:
        """Start the process. Only from the main thread: the death signal is bound to the thread that forks.

        Raises:
            LoradockError: `stack_failed` when the program cannot be run.
        """
        if threading.current_thread() is not threading.main_thread():
            raise LoradockError("stack_failed", f"{self.spec.name} must be started from the main thread")
        spec = self.spec
        if spec.ready_file is not None:
            spec.ready_file.unlink(missing_ok=True)
        if spec.before_start is not None:
            spec.before_start()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command, preexec = _dies_with_parent(spec)
        self.expected_end = False
        self._started = time.monotonic()
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(spec.env),
                    cwd=spec.cwd,
                    start_new_session=True,
                    preexec_fn=preexec,  # noqa: PLW1509 - only without setpriv; all is loaded before
                )
        except OSError as error:
            raise LoradockError("stack_failed", f"{spec.name} cannot be run: {error.strerror}") from error

    def is_ready(self) -> bool:
        """Ask once.

        Raises:
            LoradockError: `stack_failed` with the last log lines when it has ended or took too long.
        """
        spec = self.spec
        if not self.running:
            raise self.failure(f"ended with {describe_exit(self.returncode)} before it was ready")
        written = spec.ready_file is None or spec.ready_file.exists()
        ready = written and (spec.ready is None or spec.ready())
        if not ready and self.age > spec.timeout:
            raise self.failure(f"was not ready after {spec.timeout:g} s")
        return ready

    def wait_ready(self) -> None:
        """Wait, blocking, until it is ready.

        Raises:
            LoradockError: `stack_failed`, see `is_ready`.
        """
        while not self.is_ready():
            time.sleep(0.03)

    def wait_end(self) -> None:
        """Wait, blocking, until it has done its work and ended with status 0.

        Raises:
            LoradockError: `stack_failed` when it ended otherwise or took too long.
        """
        while not self.has_ended():
            time.sleep(0.03)

    def has_ended(self) -> bool:
        """Ask once whether it has done its work.

        Raises:
            LoradockError: `stack_failed` when it ended otherwise or took too long.
        """
        if self.running:
            if self.age > self.spec.timeout:
                raise self.failure(f"had not ended after {self.spec.timeout:g} s")
            return False
        if self.returncode != 0:
            raise self.failure(f"ended with {describe_exit(self.returncode)}")
        return True

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process, and with SIGKILL to all of its group; no error when it has ended."""
        if self._process is None:
            return
        if number not in _NO_END:
            self.expected_end = True
        if number == signal.SIGKILL:
            self._kill_group()
        elif self._process.poll() is None:
            self._process.send_signal(number)

    def end_group(self) -> None:
        """End the process and all that it started, without it counting as wanted; no error when there is none."""
        if self._process is not None:
            self._kill_group()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)

    def stop(self) -> None:
        """End the process: ask, wait, kill. Blocks at most `stop_timeout` and a moment."""
        if self._process is None:
            return
        self.kill(self.spec.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.spec.stop_timeout)
        self._kill_group()
        self._process.wait(10)
        if self.spec.after_stop is not None:
            self.spec.after_stop()

    def tail(self, lines: int = _TAIL_LINES) -> str:
        """The last lines of its log."""
        return log_tail(self.log, lines)

    def _kill_group(self) -> None:
        assert self._process is not None  # noqa: S101 - both callers have checked
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def failure(self, what: str) -> LoradockError:
        """The error that says what happened to this child, with its last log lines."""
        return LoradockError(
            "stack_failed",
            f"{self.spec.name} {what}; its last log lines:\n{self.tail()}",
            part=self.spec.name,
            log=str(self.log),
        )


def log_tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a file, at most 1,400 characters."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            content = file.read().decode("utf-8", "replace")
    except OSError:
        return "(no log)"
    text = "\n".join(content.splitlines()[-lines:])
    return text[-_TAIL_CHARACTERS:] or "(the log is empty)"


def describe_exit(code: int | None) -> str:
    """An exit status in words."""
    if code is None:
        return "no status"
    if code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"status {code}"


def _dies_with_parent(spec: ChildSpec) -> tuple[list[str], Callable[[], None] | None]:
    """The command line, and what runs between fork and exec, that bind the child's life to ours."""
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        name = spec.death_signal.name.removeprefix("SIG")
        guard = [setpriv, "--pdeathsig", name, "--", "/bin/sh", "-c", _GUARD, str(os.getpid())]
        return [*spec.wrapper, *guard, *spec.command], None
    libc = ctypes.CDLL(None, use_errno=True)
    command = [*spec.wrapper, *spec.command]
    if not hasattr(libc, "prctl"):
        # No such thing on this system: the next start finds the recorded process and ends it (records.py).
        return command, None
    parent, number = os.getpid(), int(spec.death_signal)

    def bind_to_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return command, bind_to_parent
