"""Engines: what can be asked of one, the driver for vLLM, and a simulated one."""

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
    "UnloadCommand",
    "UnloadResult",
    "VllmEngine",
]
