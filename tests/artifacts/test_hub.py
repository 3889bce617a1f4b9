"""The hub's own matters: pinned commits, gated repositories, redirects, and the cache when offline."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from pydantic import SecretStr

from loradock.artifacts.sources.hub import HubFolder, HubSource, hub_client, hub_folder, hub_offline
from loradock.artifacts.sources.places import AllowedPlaces
from loradock.artifacts.staging import Staging
from tests.artifacts.helpers import manifest_of, read_all, refused
from tests.artifacts.hub_server import Hub, hub_server
from tests.artifacts.samples import make_adapter
from tests.artifacts.source_places import HASTY
from tests.artifacts.web_server import Reply, web_server


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


def source(
    hub: Hub, *, offline: bool = False, cache: Path | None = None, token: str | None = None
) -> HubSource:
    return HubSource(
        AllowedPlaces(["acme"]),
        hub_client(hub.endpoint, stall_seconds=2.0),
        endpoint=hub.endpoint,
        offline=offline,
        cache=cache,
        token_for=lambda _: None if token is None else SecretStr(token),
        patience=HASTY,
    )


def test_a_listing_pins_the_commit(hub: Hub) -> None:
    repository = hub.repository("acme/greeter")
    first = repository.commit({"a.safetensors": b"old", "b.json": b"{}"})
    listed = source(hub).list("hf://acme/greeter")
    repository.commit({"a.safetensors": b"new"})
    assert all(file.identity.startswith(f"{first} ") for file in listed)
    assert [read_all(source(hub).fetch("hf://acme/greeter", file)) for file in listed] == [b"old", b"{}"]


@pytest.mark.parametrize(
    "uri", ["hf://acme/greeter@v1", "hf://acme/greeter@refs%2Fpr%2F1", "hf://acme/greeter@{sha}"]
)
def test_a_branch_a_tag_a_pull_request_and_a_commit_are_revisions(hub: Hub, uri: str) -> None:
    repository = hub.repository("acme/greeter")
    sha = repository.commit({"a": b"old"})
    repository.refs |= {"v1": sha, "refs/pr/1": sha}
    repository.commit({"a": b"new"})
    uri = uri.format(sha=sha)
    (file,) = source(hub).list(uri)
    assert read_all(source(hub).fetch(uri, file)) == b"old"


def test_no_such_revision_or_repository_is_not_found(hub: Hub) -> None:
    hub.repository("acme/greeter").commit({"a": b""})
    for uri in ("hf://acme/greeter@v9", "hf://acme/nobody", "hf://acme/greeter/nothing"):
        with refused("source_not_found"):
            source(hub).list(uri)
        assert not source(hub).exists(uri)


def test_a_gated_repository_needs_its_token_which_is_never_told(hub: Hub) -> None:
    repository = hub.repository("acme/greeter")
    repository.commit({"a": b"1"})
    repository.token = "hunter2"
    for token in (None, "hunter3"):
        with refused("source_denied") as caught:
            source(hub, token=token).list("hf://acme/greeter")
        assert "hunter" not in str(caught.value)
    opened = source(hub, token="hunter2")
    (file,) = opened.list("hf://acme/greeter")
    assert read_all(opened.fetch("hf://acme/greeter", file)) == b"1"


def test_only_the_listed_repositories_are_asked_for(hub: Hub) -> None:
    for uri in ("hf://other/greeter", "hf://acme2/greeter", "hf://ACME/greeter"):
        with refused("source_not_allowed"):
            source(hub).list(uri)
    assert hub.server.requests == []


@pytest.mark.parametrize("path", ["a.safetensors", "a.json"])
def test_bytes_changed_on_the_way_are_noticed(hub: Hub, path: str) -> None:
    """Large files by their hash, small ones by their git id."""
    hub.repository("acme/greeter").commit({path: b"right"})
    (file,) = source(hub).list("hf://acme/greeter")
    hub.server.special = lambda target, _: Reply(200, {}, b"wrong") if "/resolve/" in target else None
    with refused("source_changed"):
        read_all(source(hub).fetch("hf://acme/greeter", file))


def test_a_body_that_breaks_off_goes_on(hub: Hub) -> None:
    data = bytes(index % 251 for index in range(2_500_000))
    hub.repository("acme/greeter").commit({"a.safetensors": data})
    (file,) = source(hub).list("hf://acme/greeter")
    hub.server.cut = [1_200_000]
    assert read_all(source(hub).fetch("hf://acme/greeter", file)) == data
    assert "Range" in hub.server.requests[-1][2]


def test_a_redirect_to_a_private_address_is_refused(hub: Hub) -> None:
    hub.repository("acme/greeter").commit({"a": b"1"})
    (file,) = source(hub).list("hf://acme/greeter")
    with web_server(None, "127.0.0.1") as internal:
        internal.files = {"/a": b"1"}
        hub.server.special = lambda *_: Reply(302, {"Location": f"{internal.origin}/a"})
        with refused("source_not_allowed"):
            read_all(source(hub).fetch("hf://acme/greeter", file))
        assert internal.requests == []


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (403, 1), (500, HASTY.attempts)])
def test_only_what_can_heal_is_asked_again(hub: Hub, status: int, asked: int) -> None:
    hub.server.special = lambda *_: Reply(status)
    with refused("source_denied", "source_unavailable"):
        source(hub).list("hf://acme/greeter")
    assert len(hub.server.requests) == asked


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"id": "acme/greeter", "sha": "../x"}', b"<html>"])
def test_an_answer_that_is_none_is_told(hub: Hub, body: bytes) -> None:
    hub.server.special = lambda *_: Reply(200, {"Content-Type": "application/json"}, body)
    with refused("source_unavailable"):
        source(hub).list("hf://acme/greeter")


def test_offline_the_clients_cache_is_read_with_the_same_identities(hub: Hub, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in adapter.iterdir()} | {"optimizer.pt": b"large"}
    hub.repository("acme/greeter").commit(files)
    online = source(hub).list("hf://acme/greeter")
    cache = tmp_path / "hub cache"
    for name in ("README.md", "adapter_config.json", "adapter_model.safetensors"):
        huggingface_hub.hf_hub_download("acme/greeter", name, endpoint=hub.endpoint, cache_dir=cache)
    asked = len(hub.server.requests)
    offline = source(hub, offline=True, cache=cache)
    assert offline.list("hf://acme/greeter") == [file for file in online if file.path != "optimizer.pt"]
    staged = Staging(tmp_path / "staging", offline, max_bytes=10_000_000).stage("hf://acme/greeter")
    assert staged.manifest.digest == manifest_of(adapter).digest
    assert len(hub.server.requests) == asked


def test_offline_a_damaged_cache_is_noticed(hub: Hub, tmp_path: Path) -> None:
    hub.repository("acme/greeter").commit({"a.json": b"right"})
    path = Path(
        huggingface_hub.hf_hub_download("acme/greeter", "a.json", endpoint=hub.endpoint, cache_dir=tmp_path)
    )
    offline = source(hub, offline=True, cache=tmp_path)
    (file,) = offline.list("hf://acme/greeter")
    path.resolve().write_bytes(b"wrong")
    with refused("source_changed"):
        read_all(offline.fetch("hf://acme/greeter", file))


def test_offline_a_link_out_of_the_cache_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repository("acme/greeter").commit({"a.json": b"right"})
    path = Path(
        huggingface_hub.hf_hub_download("acme/greeter", "a.json", endpoint=hub.endpoint, cache_dir=tmp_path)
    )
    path.unlink()
    path.symlink_to("/etc/passwd")
    with refused("source_not_allowed"):
        source(hub, offline=True, cache=tmp_path).list("hf://acme/greeter")


def test_offline_what_was_never_fetched_is_not_found(hub: Hub, tmp_path: Path) -> None:
    with refused("source_not_found"):
        source(hub, offline=True, cache=tmp_path).list("hf://acme/greeter")
    assert hub.server.requests == []


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("hf://acme/greeter", HubFolder("acme/greeter", "main", "")),
        ("hf://acme/greeter@v1", HubFolder("acme/greeter", "v1", "")),
        ("hf://acme/greeter@feature%2Fx/a%20b/c/", HubFolder("acme/greeter", "feature/x", "a b/c/")),
    ],
)
def test_an_address_names_repository_revision_and_folder(uri: str, place: HubFolder) -> None:
    assert hub_folder(uri) == place


@pytest.mark.parametrize("uri", ["hf://acme/greeter/%2e%2e/x", "hf://acme/greeter/a%2F..%2Fb"])
def test_no_folder_climbs(uri: str) -> None:
    with refused("source_not_allowed", "invalid_source_uri"):
        hub_folder(uri)


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_clients_own_variable_says_offline(
    monkeypatch: pytest.MonkeyPatch, value: str, offline: bool
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub_offline() == offline


def test_an_endpoint_that_is_none_is_a_wrong_setting() -> None:
    for endpoint in ("", "ftp://x", "https://user:hunter2@hub.example"):
        with refused("setting_invalid") as caught:
            hub_client(endpoint)
        assert "hunter2" not in str(caught.value)
