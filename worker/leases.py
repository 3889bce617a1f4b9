"""An agent's view of its engines, told to the API every few seconds: that is what keeps their cards alive."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from loradock import __version__
from loradock.core.errors import LoradockError
from loradock.core.requests import EngineReport, LeaseRenewal
from loradock.engines.protocol import Engine, EngineState
from worker.control_plane import ControlPlane

_log = logging.getLogger(__name__)

STATE_TIMEOUT_SECONDS = 2.5
"""An engine that does not tell its state in this time is reported as unreachable (a death is to be known in 3 s)."""


@dataclass(frozen=True)
class HostIdentity:
    """Who the agent is: its id, pool and labels; the instance is new with each process."""

    agent: str
    pool: str
    labels: dict[str, str] = field(default_factory=dict)
    instance: str = field(default_factory=lambda: uuid.uuid4().hex)


class Superseded(Exception):  # noqa: N818
    """Another process has taken this agent's place."""


class LeaseKeeper:
    """Asks the engines how they are and renews the lease for all of them in one call."""

    def __init__(
        self,
        identity: HostIdentity,
        engines: Mapping[str, Engine],
        urls: Mapping[str, str],
        control_plane: ControlPlane,
    ) -> None:
        self._identity = identity
        self._engines = engines
        self._urls = urls
        self._control_plane = control_plane
        self._last: dict[str, EngineState] = {}

    async def renew(self) -> None:
        """One renewal.

        Raises:
            Superseded: this process must not touch the engines any more.
            LoradockError: the API did not take it.
        """
        reports = await asyncio.gather(*(self._look_at(name) for name in self._engines))
        renewal = LeaseRenewal(
            agent=self._identity.agent,
            instance=self._identity.instance,
            pool=self._identity.pool,
            agent_version=__version__,
            labels=self._identity.labels,
            engines=tuple(reports),
        )
        if not await self._control_plane.renew(renewal):
            raise Superseded

    async def _look_at(self, name: str) -> EngineReport:
        reachable = True
        try:
            async with asyncio.timeout(STATE_TIMEOUT_SECONDS):
                self._last[name] = await self._engines[name].state()
        except (LoradockError, TimeoutError) as error:
            if name in self._last:
                _log.warning("engine %s: %s", name, error)
            reachable = False
        state = self._last.get(name)
        if state is None:
            return EngineReport(engine=name, url=self._urls[name], kind="unknown", reachable=False)
        return EngineReport(
            engine=name,
            url=self._urls[name],
            kind=state.engine.kind,
            reachable=reachable,
            incarnation=state.incarnation,
            base_model=state.base_model,
            engine_version=state.engine.version,
            max_loras=state.max_loras,
            usable_slots=state.usable_slots,
            free_slots=state.free_slots,
            max_lora_rank=state.max_lora_rank,
            resident=tuple(adapter.served_name for adapter in state.adapters if adapter.resident),
            limitations=state.limitations,
        )
