"""What every source must do, as tests to inherit: Loradock's own sources pass exactly these.

    class TestMySource(SourceContract):
        @pytest.fixture
        def place(self, tmp_path):
            return SourcePlace(source=MySource(…), uri="mine://…", write=…, remove=…)

Nothing here needs pytest itself, only its way of finding classes, methods and the fixture `place`. See docs/sources.md.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from loradock.artifacts.protocol import Reader, Source, SourceFile
from loradock.artifacts.sources.registry import SourceSet
from loradock.core.errors import LoradockError

OUTSIDE = ("../a", "/etc/passwd", "a/../../b", "", ".", "a\0b", "a\\b")
SIZES = (0, 1, 64 * 1024, 3_000_001)


@dataclass
class SourcePlace:
    """A source with a folder that tests can write to.

    Attributes:
        uri: the folder's address, without a slash at its end; the folder is empty.
        write: path and content of a file to make, or to replace.
        remove: path of a file to take away.
        missing_uri: an address where nothing is, None when there is no such thing.
        forbidden_uri: an address that the source's policy denies, None when it has none.
        limited: makes the same source with a limit on files, None when it has none.
    """

    source: Source
    uri: str
    write: Callable[[str, bytes], None]
    remove: Callable[[str], None]
    missing_uri: str | None = None
    forbidden_uri: str | None = None
    limited: Callable[[int], Source] | None = None

    def read(self, file: SourceFile, uri: str | None = None) -> bytes:
        """A listed file's whole content."""
        return read_all(self.source.fetch(uri or self.uri, file))


class SourceContract:
    """Inherit, and give a fixture `place`."""

    def test_lists_all_files_sorted_with_their_sizes(self, place: SourcePlace) -> None:
        place.write("b.json", b"12")
        place.write("a.bin", b"1")
        place.write("deep/er/c.txt", b"123")
        listed = [(file.path, file.size) for file in place.source.list(place.uri)]
        assert listed == [("a.bin", 1), ("b.json", 2), ("deep/er/c.txt", 3)]

    def test_a_trailing_slash_names_the_same_folder(self, place: SourcePlace) -> None:
        place.write("a", b"1")
        (with_slash,) = place.source.list(place.uri + "/")
        (without,) = place.source.list(place.uri)
        assert with_slash == without

    def test_fetches_exactly_the_bytes(self, place: SourcePlace) -> None:
        contents = {f"a {size}.json": bytes(index % 251 for index in range(size)) for size in SIZES}
        for path, data in contents.items():
            place.write(path, data)
        files = place.source.list(place.uri)
        assert {file.path: place.read(file) for file in files} == contents

    def test_identity_stays_while_nothing_changes(self, place: SourcePlace) -> None:
        place.write("a", b"1")
        assert place.source.list(place.uri) == place.source.list(place.uri)

    def test_identity_changes_with_the_content(self, place: SourcePlace) -> None:
        place.write("a", b"old")
        before = place.source.list(place.uri)
        place.write("a", b"new")
        assert place.source.list(place.uri) != before

    def test_other_bytes_of_the_same_size_never_pass_for_the_listed_ones(self, place: SourcePlace) -> None:
        place.write("a", b"old")
        (file,) = place.source.list(place.uri)
        place.write("a", b"new")
        _old_or_changed(place, file, b"old")

    def test_a_file_that_vanished_after_the_listing_is_told_or_still_given(self, place: SourcePlace) -> None:
        place.write("a", b"old")
        place.write("b", b"stays")
        file = place.source.list(place.uri)[0]
        place.remove("a")
        _old_or_changed(place, file, b"old")

    def test_a_forgotten_address_can_still_be_read(self, place: SourcePlace) -> None:
        place.write("a", b"1")
        (file,) = place.source.list(place.uri)
        SourceSet({place.uri.partition(":")[0]: place.source}).forget(place.uri)
        assert place.read(file) == b"1"

    def test_nothing_there_is_told(self, place: SourcePlace) -> None:
        if place.missing_uri is not None:
            with refused("source_not_found"):
                place.source.list(place.missing_uri)
            assert place.source.exists(place.missing_uri) is False

    def test_something_there_exists(self, place: SourcePlace) -> None:
        place.write("a", b"1")
        assert place.source.exists(place.uri) is True

    def test_what_is_not_allowed_is_refused_by_every_call(self, place: SourcePlace) -> None:
        place.write("a", b"1")
        (file,) = place.source.list(place.uri)
        if (uri := place.forbidden_uri) is not None:
            for call in (place.source.list, place.source.exists, lambda uri: place.read(file, uri)):
                with refused("source_not_allowed"):
                    call(uri)

    def test_more_files_than_allowed_are_refused(self, place: SourcePlace) -> None:
        for index in range(4):
            place.write(f"{index}", b"")
        if place.limited is not None:
            assert len(place.limited(4).list(place.uri)) == 4
            with refused("source_too_large"):
                place.limited(3).list(place.uri)

    def test_fetch_takes_no_path_out_of_the_folder(self, place: SourcePlace) -> None:
        place.write("a", b"1")
        (file,) = place.source.list(place.uri)
        for path in OUTSIDE:
            with refused("source_not_allowed", "source_changed"):
                place.read(SourceFile(path, file.size, file.identity))

    def test_an_address_with_credentials_is_refused_without_repeating_them(self, place: SourcePlace) -> None:
        scheme, _, rest = place.uri.partition("://")
        for uri in (f"{scheme}://user:hunter2@{rest}", f"{place.uri}?token=hunter2"):
            sources = SourceSet({scheme: place.source})
            with refused("invalid_source_uri", "source_not_allowed") as caught:
                sources.list(uri)
            assert "hunter2" not in str(caught[0])


@contextmanager
def refused(*codes: str) -> Iterator[list[LoradockError]]:
    """Expect an error with one of these codes; it is in the list afterwards."""
    caught: list[LoradockError] = []
    try:
        yield caught
    except LoradockError as error:
        caught.append(error)
    assert caught, f"nothing was refused, expected {' or '.join(codes)}"
    assert caught[0].code in codes, f"{caught[0]}, expected {' or '.join(codes)}"


def read_all(opened: AbstractContextManager[Reader], chunk: int = 64 * 1024) -> bytes:
    """Everything that a reader gives."""
    data, buffer = bytearray(), memoryview(bytearray(chunk))
    with opened as reader:
        while count := reader.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def _old_or_changed(place: SourcePlace, file: SourceFile, old: bytes) -> None:
    try:
        assert place.read(file) == old
    except LoradockError as error:
        assert error.code == "source_changed", error
