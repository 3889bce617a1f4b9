"""Every source passes the one contract, on a real folder, S3, web server, hub and custom source."""

import pytest

from loradock.artifacts.sources.registry import SourceSet
from loradock.testing.source_contract import SourceContract, SourcePlace
from tests.artifacts.helpers import read_all, refused


@pytest.fixture
def place(source_place: SourcePlace) -> SourcePlace:
    return source_place


class TestContract(SourceContract):
    pass


@pytest.mark.parametrize("source_place", ["file", "s3"], indirect=True)
def test_a_neighbour_with_a_longer_name_is_not_part_of_the_folder(place: SourcePlace) -> None:
    place.write("../my adapter 2/b", b"2")
    place.write("a", b"1")
    assert [file.path for file in place.source.list(place.uri)] == ["a"]


def test_the_set_chooses_by_scheme(place: SourcePlace) -> None:
    scheme = place.uri.partition(":")[0]
    sources = SourceSet({scheme: place.source})
    place.write("a", b"1")
    (file,) = sources.list(place.uri)
    assert sources.exists(place.uri)
    assert sources.list(scheme.upper() + place.uri.removeprefix(scheme)) == [file]
    assert read_all(sources.fetch(place.uri, file)) == b"1"
    for address in ("ftp://host/folder", "gopher://x"):
        with refused("unsupported_scheme"):
            sources.list(address)
    with refused("invalid_source_uri"):
        sources.list("/a/plain/path")
