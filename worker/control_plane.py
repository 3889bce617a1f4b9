"""An agent's line to the API: its lease, and what it tells of its progress. Agents have no database."""

import asyncio
import logging
from typing import Final

import httpx

from loradock.core.errors import LoradockError
from loradock.core.models import StepReport
from loradock.core.requests import LeaseRenewal

_log = logging.getLogger(__name__)

PROGRESS_QUEUE: Final = 1000
"""Progress is for people who watch: when the API is away longer than this many reports, the oldest are dropped."""


class ControlPlane:
    """Calls of a host agent to the API."""

    def __init__(self, url: str, token: str, agent: str) -> None:
        self._agent = agent
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=httpx.Timeout(5.0)
        )
        self._reports: asyncio.Queue[tuple[str, StepReport]] = asyncio.Queue(PROGRESS_QUEUE)

    async def renew(self, renewal: LeaseRenewal) -> bool:
        """Renew the lease of all engines at once.

        Returns:
            False when another process has taken this agent's place: this one must stop working.

        Raises:
            LoradockError: `not_ready` when the API does not take it, `unauthorized`.
        """
        answer = await self._send("PUT", f"/v1/agents/{self._agent}/lease", renewal.model_dump(mode="json"))
        return not answer.json().get("superseded", False)

    def report(self, operation: str, step: StepReport) -> None:
        """Queue a report of progress; never waits, never fails."""
        if self._reports.full():
            self._reports.get_nowait()
        self._reports.put_nowait((operation, step))

    async def send_reports(self) -> None:
        """Send queued reports for ever, in their order; one that is refused is dropped."""
        while True:
            operation, step = await self._reports.get()
            body = {"operation": operation, "report": step.model_dump(mode="json")}
            try:
                await self._send("POST", f"/v1/agents/{self._agent}/progress", body)
            except LoradockError as error:
                _log.debug("progress of %s was not taken: %s", operation, error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, method: str, path: str, body: object) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise LoradockError("not_ready", f"the API does not answer: {type(error).__name__}") from None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise LoradockError("unauthorized", "the API refuses the agent's token (LORADOCK_AGENT_TOKEN)")
        if answer.is_error:
            raise LoradockError("not_ready", f"the API answered {answer.status_code} to {method} {path}")
        return answer
