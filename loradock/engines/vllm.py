"""vLLM through Loradock's extension, over HTTP."""

import ssl
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from loradock.core.errors import CATALOG, LoradockError
from loradock.engines.protocol import (
    Command,
    DrainCommand,
    DrainResult,
    EngineState,
    LoadCommand,
    LoadResult,
    ProbeResult,
    ResumeCommand,
    ResumeResult,
    UnloadCommand,
    UnloadResult,
)

_PREFIX: Final = "/loradock/v1"
_CODES: Final = {"unauthorized": "engine_unauthorized", "not_found": "engine_not_supported"}
"""Codes of the extension that have another name, or a wider meaning, on our side."""
_KEEP_ALIVE_SECONDS: Final = 2.0
"""For so long an idle connection is used again: uvicorn closes it after 5 s, and a call that meets that moment breaks."""
_OWN_WORDS: Final = frozenset({"self", "code", "message"})

Result = TypeVar("Result", bound=BaseModel)


class VllmEngine:
    """The driver of one engine. The simulated engine speaks the same and is driven by this too.

    Args:
        url: where the engine's server listens, without a path.
        token: bearer token of the extension.
        api_key: vLLM's own `--api-key`, for probes.
        client: an HTTP client to use instead of an own one; it is not closed here.
        tls: for an own client; a context of its own for each engine costs megabytes.
        connect_seconds: how long a connection may take.
        call_seconds: how long an answer may take beyond the waiting that a call asks for.
        load_seconds: the same for a load.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr,
        *,
        api_key: SecretStr | None = None,
        client: httpx.AsyncClient | None = None,
        tls: ssl.SSLContext | None = None,
        connect_seconds: float = 3.0,
        call_seconds: float = 30.0,
        load_seconds: float = 300.0,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._api_key = api_key
        self._owns_client = client is None
        # Neither proxies nor credentials of the environment: the engine is a neighbour.
        self._client = client or httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            verify=tls or True,
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS),
        )
        self._connect_seconds = connect_seconds
        self._call_seconds = call_seconds
        self._load_seconds = load_seconds

    async def state(self) -> EngineState:
        """What the engine holds now.

        Raises:
            LoradockError: see `Engine`.
        """
        response = await self._send("GET", f"{_PREFIX}/state", None, self._call_seconds, self._token)
        return self._read(response, EngineState)

    async def load(self, command: LoadCommand) -> LoadResult:
        """Load a version.

        Raises:
            LoradockError: see `Engine`; among others `no_free_slot`, `rank_too_high`, `adapter_corrupt`.
        """
        return await self._command("load", command, LoadResult, self._load_seconds)

    async def drain(self, command: DrainCommand) -> DrainResult:
        """Refuse new requests for a name.

        Raises:
            LoradockError: see `Engine`; among others `adapter_not_loaded`.
        """
        return await self._command("drain", command, DrainResult, command.wait_seconds + self._call_seconds)

    async def resume(self, command: ResumeCommand) -> ResumeResult:
        """Admit requests again.

        Raises:
            LoradockError: see `Engine`; among others `adapter_not_loaded`.
        """
        return await self._command("resume", command, ResumeResult, self._call_seconds)

    async def unload(self, command: UnloadCommand) -> UnloadResult:
        """Drain and remove.

        Raises:
            LoradockError: see `Engine`; among others `drain_timeout`, `unload_failed`.
        """
        return await self._command(
            "unload", command, UnloadResult, command.drain_seconds + self._call_seconds
        )

    async def probe(self, served_name: str, prompt: str) -> ProbeResult:
        """Have one token answered under this name.

        Raises:
            LoradockError: see `Engine`; among others `engine_not_verified`.
        """
        body = {"model": served_name, "prompt": prompt, "max_tokens": 1, "temperature": 0}
        response = await self._send("POST", "/v1/completions", body, self._call_seconds, self._api_key)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise LoradockError("engine_unauthorized", f"{self._url} refused the key for prompts")
        if response.status_code != httpx.codes.OK:
            reason = response.headers.get("x-loradock-not-admitted", f"status {response.status_code}")
            raise LoradockError(
                "engine_not_verified", f"{served_name} does not answer: {reason}: {_excerpt(response)}"
            )
        answer = _json(response)
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

    async def _command(self, verb: str, command: Command, result: type[Result], seconds: float) -> Result:
        body = command.model_dump(mode="json")
        response = await self._send("POST", f"{_PREFIX}/{verb}", body, seconds, self._token)
        return self._read(response, result)

    async def _send(
        self, method: str, path: str, body: Any, seconds: float, token: SecretStr | None
    ) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token.get_secret_value()}"}
        timeout = httpx.Timeout(seconds, connect=self._connect_seconds, pool=self._connect_seconds)
        try:
            return await self._client.request(
                method, f"{self._url}{path}", json=body, headers=headers, timeout=timeout
            )
        except httpx.TimeoutException as error:
            raise LoradockError(
                "engine_unreachable", f"{self._url} did not answer in time: {type(error).__name__}"
            ) from error
        except httpx.TransportError as error:
            # Refused: the host lives and nobody listens there, so the engine's process is gone.
            details = {"refused": True} if _is_refusal(error) else {}
            raise LoradockError(
                "engine_unreachable", f"{self._url} does not answer: {type(error).__name__}", **details
            ) from error
        except httpx.HTTPError as error:  # an answer, and in no encoding that it claims
            raise LoradockError(
                "engine_error", f"{self._url} answered what cannot be read: {type(error).__name__}"
            ) from error

    def _read(self, response: httpx.Response, result: type[Result]) -> Result:
        content = _json(response)
        if response.status_code == httpx.codes.OK:
            try:
                return result.model_validate(content)
            except ValidationError as error:
                fields = ", ".join(
                    ".".join(map(str, part["loc"])) for part in error.errors(include_input=False)
                )
                raise LoradockError(
                    "engine_error", f"{self._url} answered what we do not understand: {fields}"
                ) from None
        raise self._failure(response, content)

    def _failure(self, response: httpx.Response, content: Any) -> LoradockError:
        error = content.get("error") if isinstance(content, dict) else None
        if not isinstance(error, dict) or "fault" not in error:
            # Not the extension's words: vLLM itself has answered, or something else that listens there.
            code = "engine_not_supported" if response.status_code in {404, 405} else "engine_error"
            said = f"{response.status_code}: {_excerpt(response)}"
            return LoradockError(code, f"{self._url} answers without Loradock's extension ({said})")
        said_code = str(error.get("code"))[:64]
        code = _CODES.get(said_code, said_code)
        more = error.get("details")
        details: dict[str, Any] = dict(more) if isinstance(more, dict) else {}
        details = {name: value for name, value in details.items() if name not in _OWN_WORDS}
        if code not in CATALOG:
            code, details = "engine_error", {**details, "extension_code": said_code}
        return LoradockError(code, str(error.get("message", "")), **details)


def _is_refusal(error: httpx.TransportError) -> bool:
    """Whether every address of the engine refused the connection."""
    return isinstance(error, httpx.ConnectError) and _refused(error)


def _refused(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):  # one for each address of a name
        return all(_refused(one) for one in error.exceptions)
    below = error.__cause__ or error.__context__
    return isinstance(error, ConnectionRefusedError) if below is None else _refused(below)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _excerpt(response: httpx.Response) -> str:
    return response.text[:200]
