"""`/metrics` of an orchestrator or agent, where the settings ask for it."""

import asyncio
import hmac
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.metrics.instruments import CONTENT_TYPE
from worker.listening import is_loopback, listen, server, url_of

_log = logging.getLogger(__name__)

_NOT_LET_IN: Final = "the call has no bearer token, or a wrong one\n"


def metrics_app(page: Callable[[], bytes], token: SecretStr | None) -> Starlette:
    """The application.

    Args:
        page: makes the page; called in a thread.
        token: what callers must show; None lets everybody in who reaches the port.
    """

    async def metrics(request: Request) -> Response:
        if token is not None and not _shows(request, token):
            return PlainTextResponse(_NOT_LET_IN, 401, headers={"WWW-Authenticate": "Bearer"})
        content = await asyncio.to_thread(page)
        return Response(content, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])])


def _shows(request: Request, token: SecretStr) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    expected = token.get_secret_value().encode()
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), expected)


def listening(settings: Settings, page: Callable[[], bytes]) -> list[Coroutine[Any, Any, None]]:
    """The loops that serve the page: one, or none where the settings name no address.

    Raises:
        LoradockError: `setting_invalid` when the address cannot be listened on, or others reach it and no token is set.
    """
    if not settings.metrics_listen:
        return []
    listener = listen(settings.metrics_listen, "LORADOCK_METRICS_LISTEN")
    token = settings.metrics_token
    if token is None and not is_loopback(listener):
        listener.close()
        raise LoradockError(
            "setting_invalid",
            "LORADOCK_METRICS_LISTEN is not on loopback: LORADOCK_METRICS_TOKEN must be set with it",
        )
    _log.info("metrics at %s/metrics", url_of(listener))
    return [server(metrics_app(page, token)).run_beside(listener)]
