"""The web client reaches checked addresses only, and the https source believes nothing that it is told."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from loradock.artifacts.sources.archive import ArchiveLimits
from loradock.artifacts.sources.https import HttpsSource
from loradock.artifacts.sources.spool import Spool
from loradock.artifacts.sources.web import WebClient, WebRules, check_public
from tests.artifacts.helpers import read_all, refused
from tests.artifacts.source_places import HASTY, LIMITS, https_source, index_of, packed
from tests.artifacts.web_server import Authority, Reply, WebServer, make_authority, web_server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server(authority: Authority) -> Iterator[WebServer]:
    with web_server(authority) as running:
        running.files = {"/pub/a": b"content"}
        yield running


def client(authority: Authority, *, private: tuple[str, ...] = ("localhost",), host: str = "") -> WebClient:
    rules = WebRules(lambda url: not host or url.hostname == host, private_hosts=private)
    return WebClient(rules, tls=authority.client(), stall_seconds=2.0)


def get(web: WebClient, url: str, **options: Any) -> bytes:
    with web.get(url, **options) as body:
        return body.read_all(1000)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_no_address_but_a_public_one_is_reached(address: str) -> None:
    with refused("source_not_allowed"):
        check_public("host", address)


@pytest.mark.parametrize("address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_are_fine(address: str) -> None:
    check_public("host", address)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_private_address_is_refused_before_anything_is_sent(
    server: WebServer, authority: Authority, host: str
) -> None:
    with refused("source_not_allowed"):
        get(client(authority, private=()), f"https://{host}:{server.port}/pub/a")
    assert server.requests == []


def test_a_host_may_be_allowed_its_private_address(server: WebServer, authority: Authority) -> None:
    assert get(client(authority), f"{server.origin}/pub/a") == b"content"
    named = client(authority, private=(f"localhost:{server.port}",))
    assert get(named, f"{server.origin}/pub/a") == b"content"
    with refused("source_not_allowed"):
        get(client(authority, private=("localhost:1",)), f"{server.origin}/pub/a")


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 443)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 443)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: answers)
    with refused("source_not_allowed"):
        get(client(authority), "https://mixed.example/a")


def test_a_second_answer_of_the_dns_leads_nowhere_else(
    server: WebServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is resolved once; what was checked is what is connected to."""
    real, asked = socket.getaddrinfo, []

    def rebinding(host: str, port: int, **options: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert get(client(authority), f"{server.origin}/pub/a") == b"content"
    assert asked == ["localhost"]


@pytest.mark.parametrize(
    "location", ["https://127.0.0.1:{port}/pub/a", "https://169.254.169.254/latest/", "//[::1]/"]
)
def test_a_redirect_to_a_private_address_is_refused(
    server: WebServer, authority: Authority, location: str
) -> None:
    target = location.format(port=server.port)
    server.special = lambda path, _: Reply(302, {"Location": target}) if path == "/go" else None
    with refused("source_not_allowed"):
        get(client(authority), f"{server.origin}/go")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "location", ["http://localhost:{port}/pub/a", "file:///etc/passwd", "https://u:p@localhost/"]
)
def test_a_redirect_to_what_is_not_https_is_refused(
    server: WebServer, authority: Authority, location: str
) -> None:
    target = location.format(port=server.port)
    server.special = lambda path, _: Reply(302, {"Location": target}) if path == "/go" else None
    with refused("source_not_allowed"):
        get(client(authority), f"{server.origin}/go")


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(server: WebServer, authority: Authority) -> None:
    server.special = lambda path, _: (
        Reply(302, {"Location": "https://other.example/a"}) if path == "/go" else None
    )
    with refused("source_not_allowed"):
        get(client(authority, host="localhost"), f"{server.origin}/go")


def test_redirects_within_what_is_allowed_are_followed_but_not_for_ever(
    server: WebServer, authority: Authority
) -> None:
    def answer(path: str, _: dict[str, str]) -> Reply | None:
        return {"/go": Reply(307, {"Location": "/pub/a"}), "/round": Reply(302, {"Location": "/round"})}.get(
            path
        )

    server.special = answer
    assert get(client(authority), f"{server.origin}/go") == b"content"
    with refused("source_not_allowed"):
        get(client(authority), f"{server.origin}/round")


def test_a_token_goes_to_the_first_origin_only(server: WebServer, authority: Authority) -> None:
    with web_server(authority) as other:
        other.files = {"/x": b"there"}
        server.special = lambda path, _: (
            Reply(302, {"Location": f"{other.origin}/x"}) if path == "/go" else None
        )
        assert get(client(authority), f"{server.origin}/go", token=SecretStr("hunter2")) == b"there"
        assert server.requests[0][2]["Authorization"] == "Bearer hunter2"
        assert "Authorization" not in other.requests[0][2]


def test_an_unknown_authority_or_another_name_is_refused(
    server: WebServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = make_authority(tmp_path)
    with refused("source_denied"):
        get(client(stranger), f"{server.origin}/pub/a")
    with web_server(authority, "other.example") as named, refused("source_denied"):
        get(client(authority), f"https://localhost:{named.port}/pub/a")


@pytest.mark.parametrize(
    ("status", "code", "asked"),
    [
        (401, "source_denied", 1),
        (403, "source_denied", 1),
        (404, "source_not_found", 1),
        (418, "source_denied", 1),
        (429, "source_unavailable", HASTY.attempts),
        (503, "source_unavailable", HASTY.attempts),
    ],
)
def test_only_what_can_heal_is_asked_again(
    server: WebServer, authority: Authority, tmp_path: Path, status: int, code: str, asked: int
) -> None:
    server.special = lambda _path, _headers: Reply(status)
    with refused(code):
        https_source(server, authority, tmp_path).list(f"{server.origin}/pub/greeter")
    assert len(server.requests) == asked


def test_a_body_that_breaks_off_goes_on_where_it_was(
    server: WebServer, authority: Authority, tmp_path: Path
) -> None:
    data = bytes(index % 251 for index in range(3_000_000))
    for ranges in (True, False):
        server.files = {"/pub/g/a": data, "/pub/g/index.json": index_of({"a": data})}
        server.ranges, server.cut = ranges, [1_500_000, 1_000_000]
        source = https_source(server, authority, tmp_path)
        (file,) = source.list(f"{server.origin}/pub/g")
        assert read_all(source.fetch(f"{server.origin}/pub/g", file)) == data
        assert server.cut == []


def test_a_stalled_body_is_noticed(server: WebServer, authority: Authority, tmp_path: Path) -> None:
    data = bytes(300_000)
    server.files = {"/pub/g/a": data, "/pub/g/index.json": index_of({"a": data})}
    server.stall = [100_000]
    source = https_source(server, authority, tmp_path)
    (file,) = source.list(f"{server.origin}/pub/g")
    assert read_all(source.fetch(f"{server.origin}/pub/g", file)) == data
    assert [path for _, path, _ in server.requests] == ["/pub/g/index.json", "/pub/g/a", "/pub/g/a"]


def test_an_archive_that_breaks_off_goes_on_when_it_is_the_same_one(
    server: WebServer, authority: Authority, tmp_path: Path
) -> None:
    data = bytes(index * 7919 % 251 for index in range(500_000))
    server.files = {"/pub/a.tar.gz": packed({"a": data}, "tar.gz")}
    server.cut = [len(server.files["/pub/a.tar.gz"]) // 2]
    source = https_source(server, authority, tmp_path)
    (file,) = source.list(f"{server.origin}/pub/a.tar.gz")
    assert read_all(source.fetch(f"{server.origin}/pub/a.tar.gz", file)) == data


def test_bytes_of_another_hash_have_changed(server: WebServer, authority: Authority, tmp_path: Path) -> None:
    server.files = {"/pub/g/a": b"other", "/pub/g/index.json": index_of({"a": b"right"})}
    source = https_source(server, authority, tmp_path)
    (file,) = source.list(f"{server.origin}/pub/g")
    with refused("source_changed"):
        read_all(source.fetch(f"{server.origin}/pub/g", file))


def entry(**changes: object) -> bytes:
    return json.dumps({"files": [{"path": "a", "size": 1, "sha256": "0" * 64} | changes]}).encode()


@pytest.mark.parametrize(
    ("index", "code"),
    [
        (b"", "source_index_invalid"),
        (b"<html>", "source_index_invalid"),
        (b"[]", "source_index_invalid"),
        (b"[" * 100_000, "source_index_invalid"),
        (b'{"files": 3}', "source_index_invalid"),
        (entry(size=-1), "source_index_invalid"),
        (entry(size="1"), "source_index_invalid"),
        (entry(sha256="no"), "source_index_invalid"),
        (entry(path="../a"), "source_not_allowed"),
        (entry(path="/etc/passwd"), "source_not_allowed"),
        (json.dumps({"files": [json.loads(entry())["files"][0]] * 2}).encode(), "source_index_invalid"),
        (b" " * 5_000_000, "source_too_large"),
    ],
)
def test_an_index_that_is_none_is_refused(
    server: WebServer, authority: Authority, tmp_path: Path, index: bytes, code: str
) -> None:
    server.files = {"/pub/g/index.json": index}
    with refused(code):
        https_source(server, authority, tmp_path).list(f"{server.origin}/pub/g")


def test_an_archive_larger_than_allowed_is_not_even_read(
    server: WebServer, authority: Authority, tmp_path: Path
) -> None:
    server.special = lambda _path, _headers: Reply(200, {"Content-Length": str(LIMITS.max_bytes + 1)})
    with refused("source_too_large"):
        https_source(server, authority, tmp_path).list(f"{server.origin}/pub/a.tar.gz")


def test_an_archive_is_fetched_once_for_all_its_files(
    server: WebServer, authority: Authority, tmp_path: Path
) -> None:
    server.files = {"/pub/a.tar.zst": packed({"a": b"1", "b": b"2"}, "tar.zst")}
    source, uri = https_source(server, authority, tmp_path), f"{server.origin}/pub/a.tar.zst"
    assert [read_all(source.fetch(uri, file)) for file in source.list(uri)] == [b"1", b"2"]
    assert len(server.requests) == 1
    source.forget(uri)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_token_is_sent_and_never_told(server: WebServer, authority: Authority, tmp_path: Path) -> None:
    server.special = lambda _path, _headers: Reply(403)
    web = client(authority)
    source = HttpsSource(
        web,
        Spool(tmp_path),
        ArchiveLimits(10, 1000),
        token_for=lambda _: SecretStr("hunter2"),
        patience=HASTY,
    )
    with refused("source_denied") as caught:
        source.list(f"{server.origin}/pub/greeter")
    assert server.requests[0][2]["Authorization"] == "Bearer hunter2"
    assert "hunter2" not in str(caught.value)
