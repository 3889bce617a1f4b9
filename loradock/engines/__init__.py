"""Engines: what can be asked of one, the drivers for vLLM with our extension and without, and a simulated one."""

from loradock.engines.protocol import (
    AdapterReport,
    AdapterState,
    DrainCommand,
    DrainResult,
    Engine,
    EngineState,
    LoadCommand,
    LoadResult,
    ProbeResult,
    ResumeCommand,
    ResumeResult,
    UnloadCommand,
    UnloadResult,
)
from loradock.engines.stock import StockOptions, StockVllmEngine
from loradock.engines.vllm import VllmEngine

__all__ = [
    "AdapterReport",
    "AdapterState",
    "DrainCommand",
    "DrainResult",
    "Engine",
    "EngineState",
    "LoadCommand",
    "LoadResult",
    "ProbeResult",
    "ResumeCommand",
    "ResumeResult",
    "StockOptions",
    "StockVllmEngine",
    "UnloadCommand",
    "UnloadResult",
    "VllmEngine",
]
