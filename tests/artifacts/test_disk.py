"""Locks among threads, and their files being taken away under them."""

import threading
import time
from pathlib import Path

import pytest

from loradock.artifacts.disk import (
    disk_errors,
    file_lock,
    open_plain,
    sweep_temporary,
    temporary_folder,
    try_file_lock,
    write_durably,
)
from tests.artifacts.helpers import refused, together


def test_one_holder_at_a_time_even_when_the_lock_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    inside = threading.Lock()

    def work(index: int) -> str:
        for _ in range(30):
            with file_lock(path):
                assert inside.acquire(blocking=False), "two holders at once"
                inside.release()
                path.unlink()  # from here on another one may hold the lock that has the name next
        return "done"

    assert together(4, work) == ["done"] * 4


def test_shared_holders_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path, shared=True), file_lock(path, shared=True), try_file_lock(path) as held:
        assert not held
    with try_file_lock(path) as held:
        assert held


def test_a_temporary_folder_is_gone_afterwards_and_never_swept_while_it_lives(tmp_path: Path) -> None:
    with temporary_folder(tmp_path) as folder:
        (folder / "x").touch()
        assert sweep_temporary(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_sweeping_while_folders_come_and_go_takes_no_living_one(tmp_path: Path) -> None:
    end = time.monotonic() + 1.0

    def make(index: int) -> int:
        made = 0
        while time.monotonic() < end:
            with temporary_folder(tmp_path) as folder:
                (folder / "x").touch()
                assert (folder / "x").exists()
            made += 1
        return made

    def sweep(index: int) -> int:
        while time.monotonic() < end:
            sweep_temporary(tmp_path)
        return 1

    results = together(4, lambda index: make(index) if index < 3 else sweep(index))
    assert all(isinstance(result, int) and result > 0 for result in results), results


def test_a_durable_write_replaces_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_durably(tmp_path / "a", b"old")
    write_durably(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("number", "code"), [(28, "disk_full"), (122, "disk_full"), (5, "disk_error"), (13, "denied_here")]
)
def test_the_disks_errors_are_ours(number: int, code: str) -> None:
    with refused("store_denied" if code == "denied_here" else code), disk_errors("x", denied="store_denied"):
        raise OSError(number, "said the disk")


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    for path in (tmp_path, tmp_path / "link", tmp_path / "nothing", Path("/dev/null")):
        with pytest.raises(OSError):
            open_plain(path)
