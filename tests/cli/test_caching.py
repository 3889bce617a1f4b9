"""`loradock cache` without any server, and `loradock delete`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loradock.artifacts.cache import HostCache
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.cli.failures import ExitCode
from loradock.core.models import VersionRef
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter
from tests.cli.conftest import FakeApi, Ran, Reply, problem

Cli = Callable[..., Ran]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with `org/greeter@3`; the folder that engines read."""
    folder = make_adapter(tmp_path / "adapter")
    manifest = manifest_of(folder)
    store = ArtifactStore(FolderStore(tmp_path / "objects"))
    store.upload(folder, manifest)
    monkeypatch.setenv("LORADOCK_CACHE_DIR", str(tmp_path / "cache"))
    ref = VersionRef(adapter="org/greeter", version=3, digest=manifest.digest, int_id=1)
    return HostCache(tmp_path / "cache", store).ensure(ref).path


def test_ls_shows_what_is_there(cli: Cli, cached: Path) -> None:
    shown = cli("cache", "ls", "--json").json
    (item,) = shown["items"]
    assert (item["served_name"], item["complete"], item["holders"]) == ("org/greeter@3", True, [])
    assert item["path"] == str(cached)
    assert shown["figures"]["adapters"] == 1
    plain = cli("cache", "ls")
    assert plain.code == ExitCode.OK
    assert "org/greeter@3" in plain.out


def test_an_empty_cache_is_no_error(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_CACHE_DIR", str(tmp_path / "none"))
    assert "empty" in cli("cache", "ls").out
    assert cli("cache", "gc").code == ExitCode.OK


def test_verify_finds_damage(cli: Cli, cached: Path) -> None:
    assert cli("cache", "verify").code == ExitCode.OK
    weights = cached / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    ran = cli("cache", "verify", "org/greeter@3")
    assert ran.code == ExitCode.OPERATION_FAILED
    assert "adapter_model.safetensors" in ran.out


def test_a_pin_keeps_what_would_go(cli: Cli, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_CACHE_MAX_BYTES", "1")
    assert cli("cache", "pin", "org/greeter@3").code == ExitCode.OK
    assert cli("cache", "gc", "--json").json == {"evicted": []}
    assert cached.is_dir()
    cli("cache", "unpin", "org/greeter@3")
    (gone,) = cli("cache", "gc", "--json").json["evicted"]
    assert (gone["served_name"], gone["reason"]) == ("org/greeter@3", "size")
    assert not cached.exists()


def test_a_version_that_is_not_cached_is_told(cli: Cli, cached: Path) -> None:
    assert cli("cache", "pin", "org/greeter@4").code == ExitCode.REFUSED
    assert cli("cache", "verify", "greeter").code == ExitCode.USAGE


def test_delete_retires_one_version(cli: Cli, api: FakeApi) -> None:
    path = "/v1/adapters/acme/greeter/versions/2"
    api.on("DELETE", path, Reply({"served_name": "acme/greeter@2", "state": "retired"}))
    ran = cli("delete", "acme/greeter@2")
    assert (ran.code, ran.out) == (ExitCode.OK, "acme/greeter@2 is retired\n")
    api.on("DELETE", path, Reply(problem("version_in_use", 409, "an alias names it"), 409))
    assert cli("delete", "acme/greeter@2").code == ExitCode.REFUSED


@pytest.mark.parametrize("name", ["greeter", "greeter@stable"])
def test_delete_wants_a_number(cli: Cli, api: FakeApi, name: str) -> None:
    assert cli("delete", name).code == ExitCode.USAGE
    assert api.seen == []
