"""The cheap check of a source's address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.core.errors import LoradockError
from loradock.core.uris import SourceUri, check_source_uri, parse_source_uri


def code_of(uri: str) -> str:
    with pytest.raises(LoradockError) as caught:
        parse_source_uri(uri)
    return caught.value.code


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("file:///srv/adapters/greeter", SourceUri("file", "", "/srv/adapters/greeter")),
        ("FILE:///srv/a", SourceUri("file", "", "/srv/a")),
        ("file:///srv/a b", SourceUri("file", "", "/srv/a b")),
        ("file:///srv/with%20space%23and%3Fmore/", SourceUri("file", "", "/srv/with space#and?more/")),
        ("file:///srv/gr%C3%BC%C3%9Fe", SourceUri("file", "", "/srv/grüße")),
        ("s3://trained/greeter/run-7", SourceUri("s3", "trained", "greeter/run-7")),
        ("s3://trained/greeter/", SourceUri("s3", "trained", "greeter")),
        ("s3://trained/run 7/100%", SourceUri("s3", "trained", "run 7/100%")),
        ("s3://trained", SourceUri("s3", "trained", "")),
        ("hf://acme/greeter", SourceUri("hf", "acme", "greeter")),
        ("hf://Acme/greeter@v1.2/weights/", SourceUri("hf", "Acme", "greeter@v1.2/weights")),
        ("hf://acme/greeter@refs%2Fpr%2F1", SourceUri("hf", "acme", "greeter@refs%2Fpr%2F1")),
        ("https://models.example/pub/greeter/", SourceUri("https", "models.example", "/pub/greeter/")),
        ("https://models.example:8443/a.tar.zst", SourceUri("https", "models.example:8443", "/a.tar.zst")),
        ("https://[2606:4700::1]/a%20b", SourceUri("https", "[2606:4700::1]", "/a%20b")),
    ],
)
def test_a_good_address_is_taken_apart(uri: str, parsed: SourceUri) -> None:
    assert parse_source_uri(uri) == parsed
    assert check_source_uri(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://host/a",
        "ftp://host/a",
        "gs://bucket/a",
        "javascript:alert(1)",
        "C:/adapters",
    ],
)
def test_another_scheme_is_not_supported(uri: str) -> None:
    assert code_of(uri) == "unsupported_scheme"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/srv/adapters",
        "greeter",
        "file://srv/adapters",
        "file:relative",
        "file:///",
        "file://",
        "file:///srv/../etc",
        "file:///srv/%2e%2e/etc",
        "file:///srv/a%00b",
        "file:///srv/a%0Ab",
        "file:///srv/%ff",
        "file:///srv/a?x=1",
        "file:///srv/a#top",
        "file:///srv/a%2",
        "file://localhost/srv/a",
        "file:///srv/a\nb",
        "file:///srv/\ud800",
        "file:///" + "a" * 2000,
        "s3://",
        "s3:bucket/a",
        "s3://Bucket/a",
        "s3://b/a",
        "s3://bucket/../a",
        "s3://bucket/a//b",
        "s3://bucket:9000/a",
        "s3://bucket/a?versionId=1",
        "s3://[/a",
        "hf://acme",
        "hf://acme/",
        "hf:///greeter",
        "hf://acme/greeter@",
        "hf://acme/greeter@a%2F..%2Fb",
        "hf://acme/greeter@.",
        "hf://acme/greeter@%zz",
        "hf://acme/greeter/../other",
        "hf://acme/greeter@v1?x",
        "hf://acme:80/greeter",
        "https://",
        "https://host",
        "https://host/",
        "https:///path",
        "https://host/../a",
        "https://host/%2e%2e/a",
        "https://host/a%0ab",
        "https://host/a%zz",
        "https://host:99999/a",
        "https://host:/a",
        "https://ho st/a",
        "https://user@host/a",
        "https://host/a?sig=1",
    ],
)
def test_a_malformed_address_is_refused(uri: str) -> None:
    assert code_of(uri) == "invalid_source_uri"


@pytest.mark.parametrize(
    "uri", ["s3://AKIAX:hunter2@bucket/a", "file://user:hunter2@/srv/a", "s3://bucket/a?sig=hunter2"]
)
def test_credentials_are_refused_and_never_repeated(uri: str) -> None:
    with pytest.raises(LoradockError) as caught:
        parse_source_uri(uri)
    assert caught.value.code == "invalid_source_uri"
    assert "hunter2" not in str(caught.value)


@given(
    st.text(max_size=200)
    | st.builds(
        "{}{}".format,
        st.sampled_from(["file:///", "s3://", "s3://bucket/", "hf://a/b", "https://host/", "https://"]),
        st.text(max_size=80),
    )
)
def test_any_text_is_either_taken_apart_or_refused(uri: str) -> None:
    try:
        parsed = parse_source_uri(uri)
    except LoradockError as error:
        assert error.code in {"invalid_source_uri", "unsupported_scheme"}
    else:
        assert parsed.path.strip("/") or parsed.bucket
        assert ".." not in parsed.path.split("/")
        assert parsed.path.isprintable()
