"""An agent's engines get the driver that its setting names, and no other."""

from pathlib import Path

import pytest

from loradock.artifacts.build import open_cache
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings, load_settings
from loradock.engines import StockVllmEngine, VllmEngine
from worker.drivers import engine_maker, record_file, stock_options


def settings(tmp_path: Path, **more: object) -> Settings:
    return load_settings(
        _env_file=None, cache_dir=tmp_path / "cache", object_store=f"file://{tmp_path}/store", **more
    )


async def test_the_setting_alone_chooses_the_driver(tmp_path: Path) -> None:
    for kind, driver in (("vllm", VllmEngine), ("simulated", VllmEngine), ("stock-vllm", StockVllmEngine)):
        given = settings(tmp_path, engine_kind=kind, engine_token="x" * 20)
        engine = engine_maker(given, open_cache(given))("e1", "http://127.0.0.1:9")
        assert type(engine) is driver
        await engine.aclose()


def test_a_stock_engine_needs_no_token_of_an_extension(tmp_path: Path) -> None:
    given = settings(tmp_path, engine_kind="stock-vllm")
    engine_maker(given, open_cache(given))
    with pytest.raises(LoradockError, match="LORADOCK_ENGINE_TOKEN"):
        engine_maker(settings(tmp_path), open_cache(given))


def test_a_kind_that_is_none_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(LoradockError, match="LORADOCK_ENGINE_KIND"):
        settings(tmp_path, engine_kind="stock")


def test_what_the_operator_says_reaches_the_driver(tmp_path: Path) -> None:
    given = settings(
        tmp_path, stock_max_loras=3, stock_max_lora_rank=64, stock_device="cpu", stock_quiet_seconds=1
    )
    options = stock_options(given)
    assert (options.max_loras, options.max_lora_rank, options.on_cpu, options.quiet_seconds) == (
        3,
        64,
        True,
        1,
    )


def test_each_engine_has_a_record_of_its_own_below_the_cache(tmp_path: Path) -> None:
    assert record_file(tmp_path, "e1") == tmp_path / ".engines" / "e1.json"
    with pytest.raises(LoradockError):
        record_file(tmp_path, "../e1")
