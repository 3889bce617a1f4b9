"""The file source's own dangers: links, devices, FIFOs, and folders outside the roots."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradock.artifacts.sources.file import FileSource
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import read_all, refused


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "adapter").mkdir(parents=True)
    (root / "adapter" / "a").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (root / "neighbour").mkdir()
    (root / "neighbour" / "n").write_bytes(b"neighbour")
    return root


@pytest.fixture
def source(root: Path) -> FileSource:
    return FileSource([root])


def test_without_roots_everything_is_denied(root: Path) -> None:
    with refused("source_not_allowed"):
        FileSource([]).list((root / "adapter").as_uri())


def test_a_root_that_only_shares_the_first_letters_is_another_folder(root: Path) -> None:
    other = root.with_name("root-2")
    other.mkdir()
    with refused("source_not_allowed"):
        FileSource([root]).list(other.as_uri())


def test_what_lies_outside_is_not_even_looked_for(source: FileSource, tmp_path: Path) -> None:
    with refused("source_not_allowed"):
        source.list((tmp_path / "does not exist").as_uri())


def test_a_folder_that_is_a_link_out_of_the_roots_is_refused(
    source: FileSource, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    with refused("source_not_allowed"):
        source.list((root / "link").as_uri())


def test_a_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    for base in (tmp_path / "alias", root):
        assert FileSource([tmp_path / "alias"]).exists((base / "adapter").as_uri())


@pytest.mark.parametrize(
    "target", ["../../secret", "../neighbour/n", "/etc/hostname", "../neighbour", "nowhere", "loop"]
)
def test_a_link_that_leaves_the_folder_is_refused(source: FileSource, root: Path, target: str) -> None:
    (root / "adapter" / "loop").symlink_to(target)
    with refused("source_not_allowed"):
        source.list((root / "adapter").as_uri())


def test_a_link_inside_the_folder_is_read(source: FileSource, root: Path) -> None:
    (root / "adapter" / "blobs").mkdir()
    (root / "adapter" / "blobs" / "1").write_bytes(b"blob")
    (root / "adapter" / "b").symlink_to("blobs/1")
    (root / "adapter" / "folder").symlink_to("blobs")
    uri = (root / "adapter").as_uri()
    files = {file.path: file for file in source.list(uri)}
    assert sorted(files) == ["a", "b", "blobs/1"]
    assert read_all(source.fetch(uri, files["b"])) == b"blob"


def test_a_file_swapped_for_a_link_after_the_listing_gives_nothing_from_outside(
    source: FileSource, root: Path
) -> None:
    uri = (root / "adapter").as_uri()
    (file,) = source.list(uri)
    (root / "adapter" / "a").unlink()
    (root / "adapter" / "a").symlink_to("../../secret")
    with refused("source_not_allowed", "source_changed"):
        read_all(source.fetch(uri, file))


def test_a_folder_swapped_for_a_link_after_the_listing_gives_nothing_from_outside(
    source: FileSource, root: Path, tmp_path: Path
) -> None:
    (root / "adapter" / "sub").mkdir()
    (root / "adapter" / "sub" / "secret").write_bytes(b"1234567")
    uri = (root / "adapter").as_uri()
    file = next(file for file in source.list(uri) if file.path == "sub/secret")
    (root / "adapter" / "sub").rename(root / "moved")
    (root / "adapter" / "sub").symlink_to(tmp_path)
    with refused("source_not_allowed", "source_changed"):
        read_all(source.fetch(uri, file))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("swap", [False, True])
def test_a_fifo_is_refused_without_waiting(source: FileSource, root: Path, swap: bool) -> None:
    uri = (root / "adapter").as_uri()
    (file,) = source.list(uri)
    if swap:
        (root / "adapter" / "a").unlink()
    os.mkfifo(root / "adapter" / ("a" if swap else "fifo"))
    with refused("source_not_allowed"):
        read_all(source.fetch(uri, file)) if swap else source.list(uri)


def test_a_socket_is_refused(source: FileSource, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "adapter")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with refused("source_not_allowed"):
            source.list((root / "adapter").as_uri())


def test_a_file_instead_of_a_folder_is_not_found(source: FileSource, root: Path) -> None:
    with refused("source_not_found"):
        source.list((root / "adapter" / "a").as_uri())


def test_a_file_that_grows_while_it_is_read_is_noticed(source: FileSource, root: Path) -> None:
    uri = (root / "adapter").as_uri()
    (file,) = source.list(uri)
    with refused("source_changed"), source.fetch(uri, file) as reader:
        assert reader.readinto(memoryview(bytearray(4))) == 4
        with (root / "adapter" / "a").open("ab") as handle:
            handle.write(b"more")
        while reader.readinto(memoryview(bytearray(4))):
            pass


def test_a_file_that_is_cut_while_it_is_read_is_noticed(source: FileSource, root: Path) -> None:
    uri = (root / "adapter").as_uri()
    (file,) = source.list(uri)
    with refused("source_changed"), source.fetch(uri, file) as reader:
        reader.readinto(memoryview(bytearray(1)))
        os.truncate(root / "adapter" / "a", 1)
        reader.readinto(memoryview(bytearray(9)))


def test_folders_nested_without_end_are_refused(source: FileSource, root: Path) -> None:
    (root / "adapter").joinpath(*["d"] * 40).mkdir(parents=True)
    with refused("source_too_large"):
        source.list((root / "adapter").as_uri())


def test_no_descriptor_is_left_open(source: FileSource, root: Path) -> None:
    uri = (root / "adapter").as_uri()

    def everything() -> Iterator[object]:
        (file,) = source.list(uri)
        yield read_all(source.fetch(uri, file))
        os.mkfifo(root / "adapter" / "fifo")
        try:
            source.list(uri)
        except LoradockError:
            yield None
        (root / "adapter" / "fifo").unlink()

    list(everything())
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        list(everything())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
