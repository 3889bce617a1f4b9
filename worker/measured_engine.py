"""An engine whose calls are counted and timed; it does what the one behind it does."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from loradock.core.errors import LoradockError
from loradock.engines.protocol import (
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

CallWatch = Callable[[str, str, float], None]
"""Told call, outcome (the engine's word, or an error's code) and seconds; must not fail."""


@dataclass(slots=True)
class _Call:
    outcome: str = "cancelled"


class MeasuredEngine:
    """Tells of loads, unloads, drains and probes. The looks at its state, twice a second, are not counted.

    Args:
        behind: who does the work.
        watch: told of each call when it is over.
    """

    def __init__(self, behind: Engine, watch: CallWatch) -> None:
        self._behind = behind
        self._watch = watch

    async def state(self) -> EngineState:
        """As `Engine.state`."""
        return await self._behind.state()

    async def load(self, command: LoadCommand) -> LoadResult:
        """As `Engine.load`."""
        with self._measured("load") as call:
            result = await self._behind.load(command)
            call.outcome = result.outcome
            return result

    async def drain(self, command: DrainCommand) -> DrainResult:
        """As `Engine.drain`."""
        with self._measured("drain") as call:
            result = await self._behind.drain(command)
            call.outcome = result.outcome
            return result

    async def resume(self, command: ResumeCommand) -> ResumeResult:
        """As `Engine.resume`."""
        return await self._behind.resume(command)

    async def unload(self, command: UnloadCommand) -> UnloadResult:
        """As `Engine.unload`."""
        with self._measured("unload") as call:
            result = await self._behind.unload(command)
            call.outcome = result.outcome
            return result

    async def probe(self, served_name: str, prompt: str) -> ProbeResult:
        """As `Engine.probe`."""
        with self._measured("probe") as call:
            result = await self._behind.probe(served_name, prompt)
            call.outcome = "answered"
            return result

    async def aclose(self) -> None:
        """As `Engine.aclose`."""
        await self._behind.aclose()

    @contextmanager
    def _measured(self, name: str) -> Iterator[_Call]:
        call, began = _Call(), time.monotonic()
        try:
            yield call
        except LoradockError as error:
            call.outcome = error.code
            raise
        finally:
            self._watch(name, call.outcome, time.monotonic() - began)
