"""An agent's view of its engines, told to the API every few seconds: that is what keeps their cards alive."""

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from pydantic import ValidationError

from loradock import __version__
from loradock.core.base_config import BaseConfig
from loradock.core.errors import LoradockError
from loradock.core.requests import EngineReport, LeaseKeep, LeaseRenewal
from loradock.engines.protocol import AdapterState, Engine, EngineState
from worker.cache_watch import CacheNews
from worker.control_plane import ControlPlane

_log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
LOOKS_PER_SECOND: Final = 20
"""Of one agent at all its engines together. Beyond 10 engines each is looked at less often, and its death is known later by
that much: 50 engines every 2.5 s, 100 every 5 s. Each look may then take as long, too: a host so full answers late."""
FEW_ENGINES: Final = 25
ENGINES_TOLD_PER_SECOND: Final = 25
"""A full report of many engines costs API and agent much, and a load changes something in it all the time."""
PROBLEM_LENGTH: Final = 500
"""Characters of what is told of an engine that is not reached."""
STATE_TIMEOUT_SECONDS: Final = 2.2
"""An engine that does not tell its state in this time counts as unreachable. Both together, and a moment for the API,
are what a death takes to be known: 3 s, also when the process is stopped and its port still takes connections."""


@dataclass(frozen=True)
class HostIdentity:
    """Who the agent is: its id, pool and labels; the instance is new with each process."""

    agent: str
    pool: str
    labels: dict[str, str] = field(default_factory=dict)
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


class Superseded(Exception):  # noqa: N818
    """Another process has taken this agent's place."""


class LeaseWatch(Protocol):
    """Counts renewals. Never waits, never fails."""

    def renewed(self, how: str, seconds: float) -> None:
        """The API took one: all engines were `told` of, or the lease was `kept` without news."""

    def not_renewed(self, code: str) -> None:
        """The API did not take one."""


class LeaseKeeper:
    """Asks the engines how they are and renews the lease for all of them in one call.

    Args:
        urls: of the engines, by id.
        on_new_life: told engine and incarnation when an engine is first seen in a life; must not fail.
        cache: the host's cache as last looked at, None before; never waits. Told when it was looked at again.
        watch: told of every renewal.
    """

    def __init__(
        self,
        identity: HostIdentity,
        engines: Mapping[str, Engine],
        urls: Mapping[str, str],
        control_plane: ControlPlane,
        on_new_life: Callable[[str, str], Awaitable[None]] | None = None,
        *,
        cache: Callable[[], CacheNews | None] = lambda: None,
        watch: LeaseWatch | None = None,
    ) -> None:
        self._identity = identity
        self._engines = engines
        self._urls = urls
        self._control_plane = control_plane
        self._on_new_life = on_new_life
        self._cache = cache
        self._lease_watch = watch
        self._cache_told: CacheNews | None = None
        self._reports: dict[str, EngineReport] = {}
        self._changed = asyncio.Event()
        self._refused: dict[str, str] = {}
        self._told: tuple[str, LeaseRenewal] | None = None
        self._told_at = 0.0
        self._look_seconds = max(LOOK_SECONDS, len(engines) / LOOKS_PER_SECOND)

    async def keep(self, renew_seconds: float) -> None:
        """Renew for ever: every so often, and at once when an engine comes, goes or restarts.

        Raises:
            Superseded: this process must not touch the engines any more.
            LoradockError: `unauthorized`.
        """
        await self.look()
        tasks = [asyncio.create_task(self._watch(name)) for name in self._engines]
        tasks.append(asyncio.create_task(self._renew_again_and_again(renew_seconds)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # none ever ends by itself: this raises why
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Ask every engine once."""
        await asyncio.gather(*(self._look_at(name) for name in self._engines))

    def engines_seen(self) -> dict[str, int]:
        """How many engines are `reachable`, `unreachable`, and `refused` by the API, as far as is known."""
        seen = Counter(report.reachable for report in list(self._reports.values()))
        return {"reachable": seen[True], "unreachable": seen[False], "refused": len(self._refused)}

    async def renew(self) -> Literal["told", "kept"]:
        """One renewal, with what is known of the engines.

        Returns:
            Whether all of it was told, or the last report was quoted.

        Raises:
            Superseded: this process must not touch the engines any more.
            LoradockError: the API did not take it.
        """
        cache = self._cache()
        news = None if cache is self._cache_told else cache
        renewal = LeaseRenewal(
            agent=self._identity.agent,
            instance=self._identity.instance,
            pool=self._identity.pool,
            agent_version=__version__,
            labels=self._identity.labels,
            engines=tuple(self._reports[name] for name in self._engines),
            cache=news.figures if news else None,
            cached_digests=news.digests if news else None,
        )
        if await self._kept(renewal):
            return "kept"
        self._told = None
        answer = await self._control_plane.renew(renewal)
        self._cache_told = cache
        if answer.report is not None:
            self._told = (answer.report, renewal)
            self._told_at = asyncio.get_running_loop().time()
        if answer.superseded:
            raise Superseded
        for name, why in answer.refused.items():
            if name not in self._refused:
                _log.warning("the lease does not cover engine %s: %s", name, why)
        self._refused = answer.refused
        return "told"

    def check(self, engine: str) -> None:
        """See that the engine is not another agent's by now, as far as the last renewal told.

        A call that was under way meanwhile is refused by the engine itself: by its epoch, or its incarnation.

        Raises:
            LoradockError: `lease_lost`.
        """
        if engine in self._refused:
            raise LoradockError("lease_lost", self._refused[engine], engine=engine)

    async def _kept(self, renewal: LeaseRenewal) -> bool:
        """Renew by quoting what was told last, if that is all there is to say."""
        if self._told is None or (self._told[1] != renewal and self._must_tell(self._told[1], renewal)):
            return False
        keep = LeaseKeep(instance=renewal.instance, report=self._told[0], engines=len(renewal.engines))
        return await self._control_plane.keep(keep)

    def _must_tell(self, told: LeaseRenewal, now: LeaseRenewal) -> bool:
        """Whether news cannot wait. All of it is told at once by agents of few engines; of many, only who lives how."""
        if [_life(engine) for engine in told.engines] != [_life(engine) for engine in now.engines]:
            return True
        seconds = len(now.engines) / ENGINES_TOLD_PER_SECOND if len(now.engines) > FEW_ENGINES else 0.0
        return asyncio.get_running_loop().time() >= self._told_at + seconds

    async def _renew_again_and_again(self, seconds: float) -> None:
        complained = False
        while True:
            self._changed.clear()
            try:
                await self._renew_watched()
                complained = False
            except LoradockError as error:
                if error.code == "unauthorized":
                    raise
                if not complained:
                    _log.warning("the lease was not renewed: %s", error)
                complained = True
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()

    async def _renew_watched(self) -> None:
        began = time.monotonic()
        try:
            how = await self.renew()
        except LoradockError as error:
            if self._lease_watch is not None:
                self._lease_watch.not_renewed(error.code)
            raise
        if self._lease_watch is not None:
            self._lease_watch.renewed(how, time.monotonic() - began)

    async def _watch(self, name: str) -> None:
        seconds = self._look_seconds
        # Spread over the interval, or all engines would be asked in the same moment.
        await asyncio.sleep(seconds * list(self._engines).index(name) / len(self._engines))
        while True:
            await asyncio.sleep(seconds)
            await self._look_at(name)

    async def _look_at(self, name: str) -> None:
        before = self._reports.get(name)
        try:
            async with asyncio.timeout(max(STATE_TIMEOUT_SECONDS, self._look_seconds)):
                now = self._report(name, await self._engines[name].state())
        except Exception as error:  # whatever one engine's port says, the agent lives on for the others
            now = self._unreachable(name, before, _why(error)[:PROBLEM_LENGTH])
            if before is None or before.reachable or _code(before) != _code(now):
                _warn(name, error)
        self._reports[name] = now
        if before is None or (before.reachable, before.incarnation) != (now.reachable, now.incarnation):
            self._changed.set()
        lived = before.incarnation if before else None
        if self._on_new_life is not None and now.incarnation not in (None, lived):
            await self._on_new_life(name, str(now.incarnation))

    def _report(self, name: str, state: EngineState) -> EngineReport:
        return EngineReport(
            engine=name,
            url=self._urls[name],
            kind=state.engine.kind,
            reachable=True,
            incarnation=state.incarnation,
            base_model=state.base_model,
            engine_version=state.engine.version,
            max_loras=state.max_loras,
            usable_slots=state.usable_slots,
            free_slots=state.free_slots,
            max_lora_rank=state.max_lora_rank,
            resident=tuple(adapter.served_name for adapter in state.adapters if adapter.resident),
            served={
                adapter.served_name: adapter.digest
                for adapter in state.adapters
                if adapter.resident and adapter.state is AdapterState.SERVING
            },
            unknown_ids=state.foreign_int_ids,
            limitations=state.limitations,
            missing_promises=state.missing_promises,
            base_config=None if state.base_config is None else BaseConfig.of(state.base_config),
        )

    def _unreachable(self, name: str, before: EngineReport | None, why: str) -> EngineReport:
        if before is None:
            return EngineReport(
                engine=name, url=self._urls[name], kind="unknown", reachable=False, problem=why
            )
        return before.model_copy(update={"reachable": False, "problem": why})


def _code(report: EngineReport) -> str:
    """What is the matter with an engine, without the words that may change from look to look."""
    return (report.problem or "").partition(":")[0]


def _warn(name: str, error: Exception) -> None:
    expected = isinstance(error, LoradockError | TimeoutError | ValidationError)
    exc_info = None if expected else error
    _log.warning("engine %s does not tell its state: %s", name, _why(error), exc_info=exc_info)


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, LoradockError) else type(error).__name__


def _life(report: EngineReport) -> tuple[str, bool, str | None]:
    return report.engine, report.reachable, report.incarnation
