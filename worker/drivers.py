"""Which driver an agent's engines get: by its setting alone, never by what an engine looks like."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
from pydantic import SecretStr

from loradock.artifacts.cache import HostCache
from loradock.core.names import check_simple_name
from loradock.core.settings import EngineKind, Settings
from loradock.engines.protocol import Engine
from loradock.engines.stock import StockOptions, StockVllmEngine
from loradock.engines.vllm import VllmEngine

RECORDS: Final = ".engines"
"""Folder in the host's cache for the records of stock engines."""


def engine_maker(settings: Settings, cache: HostCache) -> Callable[[str, str], Engine]:
    """Makes the driver of an engine, given its id and URL.

    Args:
        cache: of the host: it tells what lies at a path that a stock engine lists.

    Raises:
        LoradockError: `setting_invalid`.
    """
    # A client each: a pool that many engines share is searched from end to end for every call.
    tls = httpx.create_ssl_context(trust_env=False)
    if settings.engine_kind is EngineKind.STOCK_VLLM:
        options = stock_options(settings)

        def stock(name: str, url: str) -> Engine:
            record = record_file(cache.root, name)
            return StockVllmEngine(
                url, record, cache.digest_at, options=options, api_key=settings.engine_api_key, tls=tls
            )

        return stock
    token = SecretStr(settings.require_engine_token())

    def extended(_: str, url: str) -> Engine:
        return VllmEngine(url, token, api_key=settings.engine_api_key, tls=tls)

    return extended


def record_file(root: Path, engine: str) -> Path:
    """Where the record of a stock engine lies.

    Raises:
        LoradockError: `invalid_name`.
    """
    return root / RECORDS / f"{check_simple_name(engine)}.json"


def stock_options(settings: Settings) -> StockOptions:
    """What the operator says of stock engines."""
    return StockOptions(
        max_loras=settings.stock_max_loras,
        max_lora_rank=settings.stock_max_lora_rank,
        on_cpu=settings.stock_device == "cpu",
        quiet_seconds=settings.stock_quiet_seconds,
        grace_seconds=settings.stock_grace_seconds,
    )
