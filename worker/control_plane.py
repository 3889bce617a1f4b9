"""An agent's line to the API: its lease, and what it tells of its progress. Agents have no database."""

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import Final

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loradock.core.errors import LoradockError
from loradock.core.ids import is_repair
from loradock.core.models import StepReport
from loradock.core.requests import LeaseKeep, LeaseRenewal

_log = logging.getLogger(__name__)

PROGRESS_QUEUE: Final = 1000
"""Progress is for people who watch: when more than so many reports wait, the oldest are dropped."""


class LeaseAnswer(BaseModel):
    """What the API says to a renewal; a newer one may say more.

    Attributes:
        superseded: another process has taken this agent's place: this one must stop working.
        refused: engines that the lease does not cover, with a sentence why.
        report: what to quote while there is nothing new to tell; None: tell all each time.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    superseded: bool = False
    refused: dict[str, str] = Field(default_factory=dict)
    report: str | None = None


class KeptAnswer(BaseModel):
    """What the API says to a renewal without news.

    Attributes:
        kept: False: nothing was renewed, the agent must tell all.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kept: bool


class ControlPlane:
    """Calls of a host agent to the API.

    Args:
        url: the API's address.
        token: the agent's bearer token.
        agent: the agent's id.
    """

    def __init__(self, url: str, token: str, agent: str) -> None:
        self._agent = agent
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(5.0),
            # Below the 5 s after which the API's server closes an idle connection, perhaps in this very moment.
            limits=httpx.Limits(keepalive_expiry=3.0),
        )
        self._reports: deque[tuple[str, StepReport]] = deque(maxlen=PROGRESS_QUEUE)
        self._reported = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def renew(self, renewal: LeaseRenewal) -> LeaseAnswer:
        """Renew the lease of all engines at once.

        Raises:
            LoradockError: `not_ready` when the API does not take it, `unauthorized`.
        """
        answer = await self._send("PUT", f"/v1/agents/{self._agent}/lease", renewal.model_dump(mode="json"))
        try:
            return LeaseAnswer.model_validate_json(answer.content)
        except ValidationError:
            raise LoradockError("not_ready", "what answers at the API's address is not the API") from None

    async def keep(self, keep: LeaseKeep) -> bool:
        """Renew the lease with nothing new to tell; False when the API wants to be told all.

        Raises:
            LoradockError: as `renew`.
        """
        answer = await self._send("PUT", f"/v1/agents/{self._agent}/lease/keep", keep.model_dump())
        try:
            return KeptAnswer.model_validate_json(answer.content).kept
        except ValidationError:
            raise LoradockError("not_ready", "what answers at the API's address is not the API") from None

    def report(self, operation: str, step: StepReport) -> None:
        """Queue a report of progress; never waits, never fails. Called from any thread: transfers run in threads.

        A repair has no row whose steps anybody could watch: nothing is sent.
        """
        if is_repair(operation):
            return
        self._reports.append((operation, step))
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended: nobody sends any more
                self._loop.call_soon_threadsafe(self._reported.set)

    async def send_reports(self) -> None:
        """Send queued reports for ever, in their order; one that is refused is dropped."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._reported.clear()
            while self._reports:
                await self._send_report(*self._reports.popleft())
            await self._reported.wait()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send_report(self, operation: str, step: StepReport) -> None:
        body = {"operation": operation, "report": step.model_dump(mode="json")}
        try:
            await self._send("POST", f"/v1/agents/{self._agent}/progress", body)
        except LoradockError as error:
            _log.debug("progress of %s was not taken: %s", operation, error)

    async def _send(self, method: str, path: str, body: object) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise LoradockError("not_ready", f"the API does not answer: {type(error).__name__}") from None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise LoradockError("unauthorized", "the API refuses the agent's token (LORADOCK_AGENT_TOKEN)")
        if not answer.is_success:
            raise LoradockError("not_ready", f"the API answered {answer.status_code} to {method} {path}")
        return answer
