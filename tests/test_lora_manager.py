"""Code written against the seed's `LoRAManager` runs on ours unchanged."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from loradock import lora_manager
from loradock.artifacts.sources.file import FileSource
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.lora_manager import LoRAManager, default_cache_path, get_lora_manager
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter


def plain(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "made" / "my adapter")


class LoopBound:
    """A source of the seed's form whose client belongs to the loop that it was made in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = asyncio.get_running_loop()
        self.asked: list[str] = []

    async def exists(self, lora_uri: str) -> bool:
        assert asyncio.get_running_loop() is self.loop
        self.asked.append(f"exists {lora_uri}")
        return "nothing" not in lora_uri

    async def download(self, lora_uri: str, dest_path: Path) -> Path:
        assert asyncio.get_running_loop() is self.loop
        self.asked.append(f"download {lora_uri}")
        if "broken" in lora_uri:
            raise RuntimeError("token=hunter2 was refused")
        await asyncio.to_thread(make_adapter, dest_path, seed=5)
        return dest_path


async def test_a_folder_is_fetched_and_the_result_has_the_seeds_form(adapter: Path, tmp_path: Path) -> None:
    manager = LoRAManager(cache_path=tmp_path / "cache", settings=plain())
    uri = adapter.as_uri()
    assert manager.is_cached(uri) is False
    result = await manager.download_lora(uri)
    assert result.keys() == {"status", "local_path"}
    assert result["status"] == "success"
    assert manifest_of(Path(result["local_path"])) == manifest_of(adapter)
    assert Path(result["local_path"]).is_relative_to(tmp_path / "cache")
    assert manager.is_cached(uri) is True


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("file:///no/such/folder", "source_not_found"),
        ("ftp://host/a", "unsupported_scheme"),
        ("no address", "invalid_source_uri"),
        ("https://models.example/greeter/", "source_not_allowed"),
    ],
)
async def test_a_failure_is_an_answer(tmp_path: Path, uri: str, code: str) -> None:
    result = await LoRAManager(tmp_path, settings=plain()).download_lora(uri)
    assert result["status"] == "error"
    assert isinstance(result["message"], str)
    assert result["code"] == code


async def test_a_host_agents_cache_in_the_same_place_leaves_the_copies_alone(
    adapter: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cache"
    manager = LoRAManager(root, settings=plain())
    await manager.download_lora(adapter.as_uri())
    assert list(root.glob("*/sha256-*")) == []
    assert list(root.glob("*/*/sha256-*")) != []


async def test_a_custom_source_runs_in_the_callers_loop(tmp_path: Path) -> None:
    manager, source = LoRAManager(tmp_path, settings=plain()), LoopBound(tmp_path)
    manager.register_custom_source("mine", source)
    result = await manager.download_lora("mine://a/b")
    assert result["status"] == "success", result
    assert manifest_of(Path(result["local_path"])) == manifest_of(make_adapter(tmp_path / "same", seed=5))
    assert source.asked == ["exists mine://a/b", "download mine://a/b"]
    assert manager.is_cached("mine://a/b")
    assert not list(tmp_path.rglob(".tmp-*"))


async def test_a_custom_source_that_fails_is_told_without_its_words(tmp_path: Path) -> None:
    manager = LoRAManager(tmp_path, settings=plain())
    manager.register_custom_source("mine", LoopBound(tmp_path))
    assert (await manager.download_lora("mine://nothing"))["code"] == "source_not_found"
    broken = await manager.download_lora("mine://broken")
    assert broken["code"] == "source_unavailable"
    assert "hunter2" not in str(broken)


async def test_a_cancel_reaches_a_custom_source(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Endless:
        async def exists(self, lora_uri: str) -> bool:
            return True

        async def download(self, lora_uri: str, dest_path: Path) -> Path:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()
            return dest_path

    manager = LoRAManager(tmp_path, settings=plain())
    manager.register_custom_source("mine", Endless())
    task = asyncio.create_task(manager.download_lora("mine://a"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 2)


async def test_a_custom_source_may_take_the_place_of_ours(adapter: Path, tmp_path: Path) -> None:
    manager = LoRAManager(tmp_path / "cache", settings=plain())
    manager.register_custom_source("file", FileSource([tmp_path / "elsewhere"]))
    assert (await manager.download_lora(adapter.as_uri()))["code"] == "source_not_allowed"


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoradockError) as caught:
        LoRAManager(tmp_path, settings=plain()).register_custom_source("mine", object())  # type: ignore[arg-type]
    assert caught.value.code == "setting_invalid"


async def test_settings_that_are_given_restrict_it(adapter: Path, tmp_path: Path) -> None:
    manager = LoRAManager(tmp_path / "cache", settings=plain(file_roots=(tmp_path / "allowed",)))
    assert (await manager.download_lora(adapter.as_uri()))["code"] == "source_not_allowed"


async def test_a_source_that_does_not_answer_is_no_change(tmp_path: Path, adapter: Path) -> None:
    manager = LoRAManager(tmp_path / "cache", settings=plain())

    class Silent(FileSource):
        silent = False

        def list(self, uri: str, progress: Any = None) -> Any:
            if self.silent:
                raise LoradockError("source_unavailable", "no answer")
            return super().list(uri, progress)

    source = Silent([tmp_path])
    manager.register_custom_source("file", source)
    before = await manager.download_lora(adapter.as_uri())
    source.silent = True
    assert await manager.download_lora(adapter.as_uri()) == before
    other = make_adapter(tmp_path / "other").as_uri()
    assert (await manager.download_lora(other))["code"] == "source_unavailable"


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"LORADOCK_CACHE_DIR": "/a", "DYN_LORA_PATH": "/b", "HOME": "/h"}, "/a"),
        ({"DYN_LORA_PATH": "/b", "HOME": "/h"}, "/b"),
        ({"HOME": "/h"}, "/h/.cache/dynamo_loras"),
        ({}, "/tmp/dynamo_loras"),
        ({"DYN_LORA_PATH": "", "HOME": ""}, "/tmp/dynamo_loras"),
    ],
)
def test_the_folder_is_the_seeds_unless_ours_is_named(environment: dict[str, str], path: str) -> None:
    assert default_cache_path(environment) == Path(path)


@pytest.mark.parametrize(
    ("environment", "enabled"),
    [
        ({}, False),
        ({"DYN_LORA_ENABLED": "false"}, False),
        ({"DYN_LORA_ENABLED": "True"}, True),
        ({"DYN_LORA_ENABLED": "1", "LORADOCK_LORA_ENABLED": "false"}, False),
        ({"LORADOCK_LORA_ENABLED": "true"}, True),
    ],
)
def test_a_process_has_one_manager_when_it_is_enabled(
    environment: dict[str, str], enabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_manager, "_managers", lora_manager._Managers())
    monkeypatch.chdir(tmp_path)
    for name in ("DYN_LORA_ENABLED", "LORADOCK_LORA_ENABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DYN_LORA_PATH", str(tmp_path / "dynamo"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    manager = get_lora_manager()
    assert (manager is not None) == enabled
    assert get_lora_manager() is manager
    assert (tmp_path / "dynamo").exists() == enabled
