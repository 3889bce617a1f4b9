"""Addresses are taken apart strictly and never repeated with a secret in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.artifacts.sources.address import bucket_folder, file_path, parse_address
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import refused


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("FILE:///a/b/", "/a/b/"),
        ("file:///with%20space/%C3%A4", "/with space/ä"),
        ("file:///a/at@sign", "/a/at@sign"),
    ],
)
def test_file_addresses_name_an_absolute_path(uri: str, path: str) -> None:
    assert file_path(uri) == path


@pytest.mark.parametrize(
    "uri",
    [
        "file://host/a", "file://localhost/a", "file:a", "file:/a", "file://", "/a", "", "file:///a/../b",
        "file:///a/%2e%2e/b", "file:///a%2f..%2fb", "file:///a?x", "file:///a#x", "file:///a%00b", "file:///a%0Ab",
        "file:///%", "file:///%zz", "file:///%ff", "file:///a\nb", "file:///" + "a" * 3000, "s3://bucket/a",
        "file://user:secret@/a",
    ],
)  # fmt: skip
def test_malformed_file_addresses_are_refused(uri: str) -> None:
    with refused("invalid_source_uri"):
        file_path(uri)


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://my.bucket-1/a/b c/", ("my.bucket-1", "a/b c/")),
        ("s3://bucket/a@b%20", ("bucket", "a@b%20/")),
    ],
)
def test_s3_addresses_name_bucket_and_prefix(uri: str, parts: tuple[str, str]) -> None:
    assert bucket_folder(uri) == parts


@pytest.mark.parametrize(
    "uri",
    [
        "s3://", "s3:///a", "s3://B/a", "s3://bu_cket/a", "s3://bucket:80/a", "s3://bucket/../other", "s3://bucket/a//b",
        "s3://bucket/./a", "s3://bucket/a?versionId=1", "s3://bucket/a#b", "file:///a", "s3://-bucket/a", "s3:bucket",
    ],
)  # fmt: skip
def test_malformed_s3_addresses_are_refused(uri: str) -> None:
    with refused("invalid_source_uri"):
        bucket_folder(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:TOPSECRET@bucket/a", "s3://TOPSECRET@bucket", "https://user:TOPSECRET@host/x",
        "s3://bucket/a?X-Amz-Signature=TOPSECRET", "file://u:TOPSECRET@h/a", "s3://key:TOPSECRET/x@bucket/a",
    ],
)  # fmt: skip
def test_secrets_in_an_address_are_refused_and_not_repeated(uri: str) -> None:
    with refused("invalid_source_uri") as caught:
        parse_address(uri)
        bucket_folder(uri)
    assert "TOPSECRET" not in str(caught.value) + repr(caught.value) + str(caught.value.details)


@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9]{1,5}://[^\n]{0,40}", fullmatch=True))
def test_any_text_is_an_address_or_our_error(text: str) -> None:
    for parse in (parse_address, file_path, bucket_folder):
        try:
            parse(text)
        except LoradockError as error:
            assert error.code == "invalid_source_uri"


@given(st.text(max_size=60))
def test_no_accepted_file_address_climbs(text: str) -> None:
    try:
        path = file_path("file:///" + text)
    except LoradockError:
        return
    assert path.startswith("/")
    assert ".." not in path.split("/")
    assert "\0" not in path
