"""What every object store must do, on a real folder and a real S3."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradock.artifacts.protocol import NoProgress, ObjectStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import Cancelled, Counting, read_all, refused, together


def put(objects: ObjectStore, key: str, path: Path, data: bytes, progress: Counting | None = None) -> None:
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    objects.put_file(key, path, size=len(data), sha256=sha256, progress=progress or NoProgress())


def keys(objects: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in objects.list(prefix)]


@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * 1024 * 1024, 11 * 1024 * 1024 + 17])
def test_what_is_put_is_read(objects: ObjectStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    progress = Counting()
    put(objects, "a/b c.bin", tmp_path / "f", data, progress)
    assert read_all(objects.open("a/b c.bin")) == data
    assert progress.size == size
    info = objects.head("a/b c.bin")
    assert info is not None
    assert (info.key, info.size) == ("a/b c.bin", size)
    assert info.sha256 in (None, hashlib.sha256(data).hexdigest())


def test_a_file_replaces_what_was_there(objects: ObjectStore, tmp_path: Path) -> None:
    put(objects, "a", tmp_path / "f", b"old and long")
    put(objects, "a", tmp_path / "f", b"new")
    assert read_all(objects.open("a")) == b"new"


@pytest.mark.parametrize("size", [3, 11 * 1024 * 1024])
def test_a_file_that_is_not_as_announced_leaves_no_object(
    objects: ObjectStore, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    sha256 = hashlib.sha256(data).hexdigest()
    for wrong in (data[:-1], data + b"x", data[:-1] + bytes([data[-1] ^ 1])):
        (tmp_path / "f").write_bytes(wrong)
        with refused("artifact_corrupt"):
            objects.put_file("a", tmp_path / "f", size=size, sha256=sha256, progress=NoProgress())
    assert objects.head("a") is None
    assert keys(objects) == []


def test_a_local_file_that_is_gone_is_the_disks_fault(objects: ObjectStore, tmp_path: Path) -> None:
    with refused("disk_error"):
        objects.put_file("a", tmp_path / "gone", size=1, sha256="0" * 64, progress=NoProgress())


def test_a_cancelled_upload_leaves_no_object(objects: ObjectStore, tmp_path: Path) -> None:
    def cancel(size: int) -> None:
        if size > 5_000_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        put(objects, "a", tmp_path / "f", os.urandom(12_000_000), Counting(cancel))
    assert objects.head("a") is None
    assert keys(objects) == []


def test_what_is_not_there_is_told(objects: ObjectStore) -> None:
    assert objects.head("a/b") is None
    with refused("artifact_missing"):
        read_all(objects.open("a/b"))
    objects.delete("a/b")


def test_put_if_absent_never_overwrites(objects: ObjectStore) -> None:
    assert objects.put_if_absent("a/x.json", b"first")
    assert not objects.put_if_absent("a/x.json", b"second")
    assert read_all(objects.open("a/x.json")) == b"first"


def test_of_eight_writers_at_once_one_wins(objects: ObjectStore) -> None:
    for turn in range(2):
        results = together(8, lambda index, key=f"v/{turn}.json": objects.put_if_absent(key, b"%d" % index))
        assert sorted(map(str, results)) == ["False"] * 7 + ["True"]
        assert read_all(objects.open(f"v/{turn}.json")) == b"%d" % results.index(True)


def test_lists_below_a_prefix(objects: ObjectStore) -> None:
    for key in ("a/1", "a/2/3", "ab/4", "b"):
        objects.put_if_absent(key, key.encode())
    assert keys(objects, "a/") == ["a/1", "a/2/3"]
    assert sorted(keys(objects)) == ["a/1", "a/2/3", "ab/4", "b"]
    assert keys(objects, "nothing/") == []
    assert [info.size for info in objects.list("a/")] == [3, 5]


def test_deleted_is_gone_and_can_be_put_again(objects: ObjectStore) -> None:
    objects.put_if_absent("a/b/c", b"1")
    objects.delete("a/b/c")
    assert objects.head("a/b/c") is None
    assert keys(objects) == []
    assert objects.put_if_absent("a/b/c", b"2")


@pytest.mark.parametrize("key", ["../a", "/a", "a/../b", "", "a//b", "./a", "a\\b", "a\0", "a/..", "x" * 600])
def test_no_key_leaves_the_store(objects: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    empty = hashlib.sha256(b"").hexdigest()
    for call in (
        lambda: objects.put_if_absent(key, b"x"),
        lambda: objects.put_file(key, tmp_path / "f", size=0, sha256=empty, progress=NoProgress()),
        lambda: read_all(objects.open(key)),
        lambda: objects.head(key),
        lambda: objects.delete(key),
    ):
        with refused("artifact_missing"):
            call()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    key=st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "", "b"]), max_size=6).map("/".join)
)
def test_no_key_escapes_the_folder(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path / "deep" / "store")
    before = {path for path in tmp_path.rglob("*") if store_root(tmp_path) not in (path, *path.parents)}
    try:
        store.put_if_absent(key, b"x")
    except LoradockError:
        pass
    else:
        assert read_all(store.open(key)) == b"x"
        store.delete(key)
    after = {path for path in tmp_path.rglob("*") if store_root(tmp_path) not in (path, *path.parents)}
    assert after - before <= {tmp_path / "deep"}


def store_root(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store"


def test_a_range_is_read(objects: ObjectStore) -> None:
    objects.put_if_absent("a", b"0123456789")
    assert read_all(objects.open("a", start=3)) == b"3456789"
    assert read_all(objects.open("a", start=3, length=4)) == b"3456"
    assert read_all(objects.open("a", length=4)) == b"0123"
    assert read_all(objects.open("a", start=8, length=10)) == b"89"


def test_what_a_killed_upload_left_is_swept(objects: ObjectStore, tmp_path: Path) -> None:
    if isinstance(objects, FolderStore):
        (objects.local_path("a").parent / ".incoming" / ".tmp-0123456789abcdef").mkdir(parents=True)
    else:
        assert isinstance(objects, S3Store)
        objects._client.create_multipart_upload(Bucket=objects._bucket, Key=objects._key("a/b"))
        assert objects.sweep(older_than_seconds=3600) == []
    put(objects, "kept", tmp_path / "f", b"data")
    assert len(objects.sweep(older_than_seconds=-5)) == 1
    assert objects.sweep(older_than_seconds=-5) == []
    assert read_all(objects.open("kept")) == b"data"
