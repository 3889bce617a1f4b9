"""Lock, ports, secrets and dev.json: what a stack keeps on disk."""

import json
import socket
import subprocess
from pathlib import Path

import pytest

from loradock.core.errors import LoradockError
from loradock.dev.dev_file import DevInfo, EngineInfo, ObjectStoreInfo
from loradock.dev.files import read_or_create_secret, write_private
from loradock.dev.lock import StackLock
from loradock.dev.ports import PortPool
from tests.dev.processes import environment, python

HOLDER = """
import sys, time
from pathlib import Path
from loradock.dev.lock import StackLock
StackLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(300)
"""


def test_a_second_stack_is_told_who_holds_the_folder_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / ".loradock" / "lock"
    holder = subprocess.Popen(python(HOLDER, str(path)), env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock = StackLock(path)
        with pytest.raises(LoradockError, match=f"already running.*pid {holder.pid}") as caught:
            lock.acquire()
        assert caught.value.code == "stack_running"
        assert not lock.held
        holder.kill()
        holder.wait()
        lock.acquire()
        assert lock.held
        lock.release()
    finally:
        holder.kill()
        holder.communicate()


def test_ports_are_held_until_they_are_released(tmp_path: Path) -> None:
    ports = PortPool()
    port = ports.take("a")
    assert ports.take("a") == port
    with socket.socket() as other, pytest.raises(OSError):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
    ports.release("a")
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_many_ports_are_all_different() -> None:
    ports = PortPool()
    try:
        assert len({ports.take(str(number)) for number in range(60)}) == 60
    finally:
        ports.release()


def test_the_last_runs_ports_are_used_again_unless_somebody_has_them(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    first = PortPool(file)
    kept, taken = first.take("kept"), first.take("taken")
    first.save()
    first.release()
    with socket.create_server(("127.0.0.1", taken)):
        second = PortPool(file)
        assert second.take("kept") == kept
        assert second.take("taken") != taken
        second.release()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": "x"}', '{"a": 1}', '{"a": 99999999}'])
def test_a_broken_file_of_ports_costs_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ports.json"
    file.write_text(content)
    ports = PortPool(file)
    assert 1024 < ports.take("a") < 65_536
    ports.release()


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "token"
    secret = read_or_create_secret(path)
    assert read_or_create_secret(path) == secret
    assert len(secret) >= 40
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_empty_secret_file_is_not_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.touch()
    assert len(read_or_create_secret(path)) >= 40


def test_a_private_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_dev_json_has_the_form_that_scripts_rely_on(tmp_path: Path) -> None:
    info = DevInfo(
        api="http://127.0.0.1:1",
        token="hush-token",
        temporal_ui="http://127.0.0.1:2",
        temporal_address="127.0.0.1:3",
        database_url="postgresql://postgres:hush-password@127.0.0.1:4/loradock",
        object_store=ObjectStoreInfo(
            endpoint="http://127.0.0.1:5",
            bucket="loradock",
            uri="s3://loradock",
            region="us-east-1",
            secret_access_key="hush-key",
        ),
        engines=(EngineInfo(id="engine-1", url="http://127.0.0.1:6", kind="vllm", base_model="tiny-llama"),),
        base_model_dir="/samples/tiny-llama",
        adapters={"poet": "/samples/poet"},
        metrics={"api": "http://127.0.0.1:1/metrics"},
    )
    path = tmp_path / ".loradock" / "dev.json"
    info.write(path)
    content = json.loads(path.read_text())
    assert set(content) == {
        "api", "token", "temporal_ui", "temporal_address", "database_url", "object_store", "engines",
        "base_model_dir", "adapters", "metrics",
    }  # fmt: skip
    assert set(content["engines"][0]) == {"id", "url", "kind", "base_model"}
    assert {"endpoint", "bucket"} <= set(content["object_store"])
    assert content["token"] == "hush-token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hush" not in repr(info)
