"""Where sibling processes meet, and nobody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loradock_vllm.binding import EngineFacts
from loradock_vllm.errors import ConfigurationError
from loradock_vllm.process import ProcessId, machine_mark
from loradock_vllm.record import LocalRecord
from loradock_vllm.records import open_record
from loradock_vllm.runtime_folder import engine_folder
from loradock_vllm.settings import ExtensionSettings

_SIBLING = "import sys; from pathlib import Path; from loradock_vllm.runtime_folder import engine_folder;"
_SIBLING += "print(engine_folder(Path(sys.argv[1]), int(sys.argv[2])))"


def in_a_child(root: Path, port: int) -> Path:
    command = [sys.executable, "-c", _SIBLING, str(root), str(port)]
    return Path(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    )


def facts(api_servers: int) -> EngineFacts:
    return EngineFacts(
        kind="simulated", version="1", tested=True, base_models=("base",), device="cpu", lora=True,
        max_loras=4, usable_slots=4, max_lora_rank=8, api_servers=api_servers, port=8000,
    )  # fmt: skip


def test_siblings_meet_and_strangers_do_not(tmp_path: Path) -> None:
    folder = in_a_child(tmp_path, 8000)
    assert in_a_child(tmp_path, 8000) == folder
    assert in_a_child(tmp_path, 8001) != folder
    assert engine_folder(tmp_path, 8000) != folder
    assert folder.stat().st_mode & 0o077 == 0


def test_the_folders_of_engines_that_are_gone_are_removed_and_no_others(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = ProcessId.of(child.pid)
    assert gone.alive
    child.communicate(b"\n")
    assert not gone.alive
    mine = ProcessId.of(os.getpid())
    kept = [
        tmp_path / f"{machine_mark()}-{mine.pid}-{mine.start}-8000",
        tmp_path / f"elsewhere-{gone.pid}-{gone.start}-8000",
        tmp_path / "notes",
    ]
    removed = [
        tmp_path / f"{machine_mark()}-{gone.pid}-{gone.start}-8000",
        tmp_path / f"{machine_mark()}-{mine.pid}-{mine.start + 1}-8000",
    ]
    for folder in (*kept, *removed):
        folder.mkdir()
    engine_folder(tmp_path, 8000)
    assert [folder.exists() for folder in kept] == [True] * 3
    assert [folder.exists() for folder in removed] == [False] * 2


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("open", "link", "file"):
        with pytest.raises(ConfigurationError):
            engine_folder(tmp_path / name, 8000)


def test_an_engine_with_one_process_writes_nothing_anywhere(tmp_path: Path) -> None:
    settings = ExtensionSettings(token="0" * 16, runtime_folder=tmp_path)
    assert isinstance(open_record(facts(1), settings), LocalRecord)
    assert list(tmp_path.iterdir()) == []
    one, other = open_record(facts(2), settings), open_record(facts(2), settings)
    assert one.incarnation == other.incarnation
    assert len(list(tmp_path.iterdir())) == 1


def test_processes_that_cannot_meet_are_told(tmp_path: Path) -> None:
    settings = ExtensionSettings(token="0" * 16, runtime_folder=tmp_path)
    folder = engine_folder(tmp_path, 8000)
    (folder / "counts").write_bytes(b"x")
    with pytest.raises(ConfigurationError):
        open_record(facts(2), settings)
