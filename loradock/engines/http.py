"""Calls to an engine's server: how long they may take, what silence means, and the prompt that proves a load."""

import ssl
from dataclasses import dataclass
from typing import Any, Final

import httpx
from pydantic import SecretStr

from loradock.core.errors import LoradockError
from loradock.engines.protocol import ProbeResult

_KEEP_ALIVE_SECONDS: Final = 2.0
"""For so long an idle connection is used again: uvicorn closes it after 5 s, and a call that meets that moment breaks."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an engine may take.

    Attributes:
        connect_seconds: to take a connection.
        call_seconds: to answer, beyond the waiting that a call asks for.
        load_seconds: to answer a load.
    """

    connect_seconds: float = 3.0
    call_seconds: float = 30.0
    load_seconds: float = 300.0


class EngineHttp:
    """The HTTP side of an engine.

    Args:
        url: where the engine's server listens, without a path.
        api_key: vLLM's own `--api-key`.
        client: an HTTP client to use instead of an own one; it is not closed here.
        tls: for an own client; a context of its own for each engine costs megabytes.
        patience: how long it may take.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: SecretStr | None = None,
        client: httpx.AsyncClient | None = None,
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience or Patience()
        self._api_key = api_key
        self._owns_client = client is None
        # Neither proxies nor credentials of the environment: the engine is a neighbour.
        self._client = client or httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            verify=tls or True,
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS),
        )

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        seconds: float | None = None,
        token: SecretStr | None = None,
    ) -> httpx.Response:
        """Send a request; any answer is one.

        Args:
            seconds: how long the answer may take.
            token: to show instead of the API key.

        Raises:
            LoradockError: `engine_unreachable`; `engine_error` for an answer that cannot be read.
        """
        shown = token or self._api_key
        headers = {} if shown is None else {"authorization": f"Bearer {shown.get_secret_value()}"}
        connect = self.patience.connect_seconds
        timeout = httpx.Timeout(seconds or self.patience.call_seconds, connect=connect, pool=connect)
        try:
            return await self._client.request(
                method, f"{self.url}{path}", json=body, headers=headers, timeout=timeout
            )
        except httpx.TimeoutException as error:
            raise LoradockError(
                "engine_unreachable", f"{self.url} did not answer in time: {type(error).__name__}"
            ) from error
        except httpx.TransportError as error:
            # Refused: the host lives and nobody listens there, so the engine's process is gone.
            details = {"refused": True} if _is_refusal(error) else {}
            raise LoradockError(
                "engine_unreachable", f"{self.url} does not answer: {type(error).__name__}", **details
            ) from error
        except httpx.HTTPError as error:  # an answer, and in no encoding that it claims
            raise LoradockError(
                "engine_error", f"{self.url} answered what cannot be read: {type(error).__name__}"
            ) from error

    async def probe(self, served_name: str, prompt: str) -> ProbeResult:
        """Have one token answered under this name.

        Raises:
            LoradockError: `engine_not_verified` when another name or nobody answers; `engine_unauthorized`.
        """
        body = {"model": served_name, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        response = await self.send("POST", "/v1/completions", body)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise LoradockError("engine_unauthorized", f"{self.url} refused the key for prompts")
        if response.status_code != httpx.codes.OK:
            reason = response.headers.get("x-loradock-not-admitted", f"status {response.status_code}")
            raise LoradockError(
                "engine_not_verified", f"{served_name} does not answer: {reason}: {excerpt(response)}"
            )
        answer = json_of(response)
        try:
            model, text = answer["model"], answer["choices"][0]["text"]
        except (KeyError, IndexError, TypeError):
            raise LoradockError("engine_not_verified", f"{served_name}: the answer is malformed") from None
        if model != served_name or not isinstance(text, str):
            raise LoradockError(
                "engine_not_verified", f"asked {served_name}, and {str(model)[:100]!r} answered"
            )
        return ProbeResult(served_name=model, text=text, seconds=response.elapsed.total_seconds())

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owns_client:
            await self._client.aclose()


def json_of(response: httpx.Response) -> Any:
    """The body as JSON, None when it is none."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def excerpt(response: httpx.Response) -> str:
    """The beginning of the body, for messages."""
    return response.text[:200]


def _is_refusal(error: httpx.TransportError) -> bool:
    """Whether every address of the engine refused the connection."""
    return isinstance(error, httpx.ConnectError) and _refused(error)


def _refused(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # one for each address of a name
        return all(_refused(one) for one in error.exceptions)
    below = error.__cause__ or error.__context__
    return isinstance(error, ConnectionRefusedError) if below is None else _refused(below)
