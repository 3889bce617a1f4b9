"""What every source must do, on a real folder and a real S3."""

import pytest

from loradock.artifacts.sources.registry import SourceSet
from tests.artifacts.conftest import SourcePlace
from tests.artifacts.helpers import read_all, refused


def test_lists_all_files_sorted_with_their_sizes(source_place: SourcePlace) -> None:
    source_place.write("b.json", b"12")
    source_place.write("a.bin", b"1")
    source_place.write("deep/er/c.txt", b"123")
    listed = source_place.source.list(source_place.uri)
    assert [(file.path, file.size) for file in listed] == [("a.bin", 1), ("b.json", 2), ("deep/er/c.txt", 3)]


def test_a_trailing_slash_names_the_same_folder(source_place: SourcePlace) -> None:
    source_place.write("a", b"1")
    assert source_place.source.list(source_place.uri + "/") == source_place.source.list(source_place.uri)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 3_000_001])
def test_fetches_exactly_the_bytes(source_place: SourcePlace, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    source_place.write("a b.json", data)
    (file,) = source_place.source.list(source_place.uri)
    assert read_all(source_place.source.fetch(source_place.uri, file)) == data


def test_identity_stays_while_nothing_changes(source_place: SourcePlace) -> None:
    source_place.write("a", b"1")
    assert source_place.source.list(source_place.uri) == source_place.source.list(source_place.uri)


def test_other_bytes_of_the_same_size_are_noticed(source_place: SourcePlace) -> None:
    source_place.write("a", b"old")
    (file,) = source_place.source.list(source_place.uri)
    source_place.write("a", b"new")
    with refused("source_changed"):
        read_all(source_place.source.fetch(source_place.uri, file))


def test_a_file_that_vanished_after_the_listing_has_changed(source_place: SourcePlace) -> None:
    source_place.write("a", b"old")
    source_place.write("b", b"stays")
    file = source_place.source.list(source_place.uri)[0]
    source_place.remove("a")
    with refused("source_changed"):
        read_all(source_place.source.fetch(source_place.uri, file))


def test_nothing_there_is_told(source_place: SourcePlace) -> None:
    with refused("source_not_found"):
        source_place.source.list(source_place.missing_uri)
    assert not source_place.source.exists(source_place.missing_uri)


def test_something_there_exists(source_place: SourcePlace) -> None:
    source_place.write("a", b"1")
    assert source_place.source.exists(source_place.uri)


def test_what_is_not_allowed_is_refused_by_every_call(source_place: SourcePlace) -> None:
    source_place.write("a", b"1")
    (file,) = source_place.source.list(source_place.uri)
    with refused("source_not_allowed"):
        source_place.source.list(source_place.forbidden_uri)
    with refused("source_not_allowed"):
        source_place.source.exists(source_place.forbidden_uri)
    with refused("source_not_allowed"):
        read_all(source_place.source.fetch(source_place.forbidden_uri, file))


def test_more_files_than_allowed_are_refused(source_place: SourcePlace) -> None:
    for index in range(4):
        source_place.write(f"{index}", b"")
    assert len(source_place.limited(4).list(source_place.uri)) == 4
    with refused("source_too_large"):
        source_place.limited(3).list(source_place.uri)


def test_a_neighbour_with_a_longer_name_is_not_part_of_the_folder(source_place: SourcePlace) -> None:
    source_place.write("../my adapter 2/b", b"2")
    source_place.write("a", b"1")
    assert [file.path for file in source_place.source.list(source_place.uri)] == ["a"]


@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "", ".", "a\0b", "a\\b"])
def test_fetch_takes_no_path_out_of_the_folder(source_place: SourcePlace, path: str) -> None:
    source_place.write("a", b"1")
    (file,) = source_place.source.list(source_place.uri)
    other = type(file)(path, file.size, file.identity)
    with refused("source_not_allowed"):
        read_all(source_place.source.fetch(source_place.uri, other))


def test_the_set_chooses_by_scheme(source_place: SourcePlace) -> None:
    scheme = source_place.uri.partition(":")[0]
    sources = SourceSet({scheme: source_place.source})
    source_place.write("a", b"1")
    (file,) = sources.list(source_place.uri)
    assert sources.exists(source_place.uri)
    assert sources.list(scheme.upper() + source_place.uri.removeprefix(scheme)) == [file]
    assert read_all(sources.fetch(source_place.uri, file)) == b"1"
    for address in ("ftp://host/folder", "gopher://x"):
        with refused("unsupported_scheme"):
            sources.list(address)
    with refused("invalid_source_uri"):
        sources.list("/a/plain/path")
