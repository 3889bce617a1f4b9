"""The embedded Postgres runs for every kind of user, keeps its data through kill -9 and is never blocked by its past."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from loradock.dev.child import Child
from loradock.dev.ports import PortPool
from loradock.dev.postgres import EmbeddedPostgres, Isolation, choose_isolation, find_binaries
from tests.dev.processes import PROJECT, alive, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
Starter = Callable[..., tuple[EmbeddedPostgres, Child]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    children = []

    def run(
        isolation: Isolation | None = None, folder: Path = tmp_path / "postgres"
    ) -> tuple[EmbeddedPostgres, Child]:
        ports = PortPool()
        server = EmbeddedPostgres(
            folder, ports.take("postgres"), durable=False, isolation=isolation or choose_isolation()
        )
        server.prepare()
        ports.release()
        child = Child(server.spec(), tmp_path / "log")
        children.append(child)
        child.start()
        child.wait_ready()
        return server, child

    yield run
    for child in children:
        child.stop()


def test_the_binaries_are_those_of_postgres_18() -> None:
    done = subprocess.run(
        [find_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    assert " 18." in done.stdout


def test_data_survives_kill_9_of_the_server(start: Starter) -> None:
    server, child = start()
    url = server.create_database("kept")
    with psycopg.connect(url) as connection:
        connection.execute("create table t (n int)")
        connection.execute("insert into t values (7)")
    os.kill(child.pid, signal.SIGKILL)
    assert wait_until(lambda: not child.running)
    again, _ = start()
    with psycopg.connect(again.url("kept")) as connection:
        assert connection.execute("select n from t").fetchone() == (7,)


def test_a_server_that_outlived_its_stack_is_ended_by_the_next(start: Starter) -> None:
    _, first = start()
    second_server, second = start()
    assert wait_until(lambda: not first.running)
    assert second.running
    assert second_server.answers()


def test_a_lock_file_whose_number_is_another_process_now_does_not_block(start: Starter) -> None:
    server, child = start()
    child.stop()
    lines = ["1", str(server.data), "0", "5432", "", "127.0.0.1", "0 0", "ready"]
    stranger = subprocess.Popen(["sleep", "300"])
    try:
        (server.data / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        again, _ = start()
        assert again.answers()
        assert alive(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_kill_while_the_data_folder_is_made_leaves_nothing_half_made(
    start: Starter, tmp_path: Path
) -> None:
    folder = tmp_path / "postgres"
    (folder / "data.new-1").mkdir(parents=True)
    (folder / "data.new-1" / "PG_VERSION").write_text("18")
    server, _ = start()
    assert server.answers()
    assert not list(folder.glob("data.new-*"))


@as_root
@pytest.mark.parametrize("isolation", [Isolation.NAMESPACE, Isolation.NOBODY])
def test_root_can_use_each_way_and_change_between_them(
    start: Starter, isolation: Isolation, tmp_path: Path
) -> None:
    usable = subprocess.run([*isolation.wrapper, "id", "-u"], capture_output=True, check=False)
    if usable.returncode != 0:
        pytest.skip(f"{isolation} is barred on this machine")
    tmp_path.chmod(0o700)  # a closed home, as root's is
    _, first = start(isolation)
    first.stop()
    other = Isolation.NOBODY if isolation is Isolation.NAMESPACE else Isolation.NAMESPACE
    server, second = start(other)
    assert server.answers()
    second.stop()


ORDINARY = """
import os, sys
from pathlib import Path
from loradock.dev.child import Child
from loradock.dev.ports import PortPool
from loradock.dev.postgres import EmbeddedPostgres, Isolation
assert os.geteuid() != 0
folder, ports = Path(sys.argv[1]), PortPool()
server = EmbeddedPostgres(folder / "postgres", ports.take("postgres"), durable=False)
assert server.isolation is Isolation.NONE
server.prepare()
ports.release()
child = Child(server.spec(), folder / "log")
child.start()
child.wait_ready()
print(server.create_database("mine").rpartition("/")[2], flush=True)
child.stop()
"""


@as_root
def test_an_ordinary_user_can_run_it(tmp_path: Path) -> None:
    folder = tmp_path / "ordinary"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    # The capabilities only open the closed folders above: interpreter and packages may lie in root's home.
    user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    user += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    done = subprocess.run(
        [*user, sys.executable, "-B", "-c", ORDINARY, str(folder)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "HOME": str(folder)},
        cwd=folder,
        timeout=60,
        check=False,
    )
    assert done.stdout == "mine\n", done.stderr
