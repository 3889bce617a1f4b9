"""vLLM through Loradock's extension, over HTTP."""

import ssl
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from loradock.core.errors import CATALOG, LoradockError
from loradock.core.promises import EnginePromise
from loradock.engines.http import EngineHttp, Patience, excerpt, json_of
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
_OWN_WORDS: Final = frozenset({"self", "code", "message"})
_STAGED: Final = "staged_load"
_WITHOUT: Final = (
    "start it with --middleware loradock_vllm.LoradockMiddleware, or its agent with --engine-kind stock-vllm"
)

Result = TypeVar("Result", bound=BaseModel)


class VllmEngine:
    """The driver of one engine. The simulated engine speaks the same and is driven by this too.

    Args:
        url: where the engine's server listens, without a path.
        token: bearer token of the extension.
        api_key: vLLM's own `--api-key`, for probes.
        client: an HTTP client to use instead of an own one; it is not closed here.
        tls: for an own client; a context of its own for each engine costs megabytes.
        patience: how long the engine may take.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr,
        *,
        api_key: SecretStr | None = None,
        client: httpx.AsyncClient | None = None,
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._http = EngineHttp(url, api_key=api_key, client=client, tls=tls, patience=patience)
        self._token = token

    async def state(self) -> EngineState:
        """What the engine holds now.

        Raises:
            LoradockError: see `Engine`.
        """
        response = await self._http.send("GET", f"{_PREFIX}/state", token=self._token)
        state = self._read(response, EngineState)
        if state.engine.kind != "vllm" or _STAGED in state.capabilities:
            return state
        return state.model_copy(update={"missing_promises": (EnginePromise.STAGED_LOADS,)})

    async def load(self, command: LoadCommand) -> LoadResult:
        """Load a version.

        Raises:
            LoradockError: see `Engine`; among others `no_free_slot`, `rank_too_high`, `adapter_corrupt`.
        """
        return await self._command("load", command, LoadResult, self._http.patience.load_seconds)

    async def drain(self, command: DrainCommand) -> DrainResult:
        """Refuse new requests for a name.

        Raises:
            LoradockError: see `Engine`; among others `adapter_not_loaded`.
        """
        return await self._command("drain", command, DrainResult, self._call_seconds(command.wait_seconds))

    async def resume(self, command: ResumeCommand) -> ResumeResult:
        """Admit requests again.

        Raises:
            LoradockError: see `Engine`; among others `adapter_not_loaded`.
        """
        return await self._command("resume", command, ResumeResult, self._call_seconds())

    async def unload(self, command: UnloadCommand) -> UnloadResult:
        """Drain and remove.

        Raises:
            LoradockError: see `Engine`; among others `drain_timeout`, `unload_failed`.
        """
        return await self._command("unload", command, UnloadResult, self._call_seconds(command.drain_seconds))

    async def probe(self, served_name: str, prompt: str) -> ProbeResult:
        """Have one token answered under this name.

        Raises:
            LoradockError: see `Engine`; among others `engine_not_verified`.
        """
        return await self._http.probe(served_name, prompt)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _call_seconds(self, waiting: float = 0.0) -> float:
        return waiting + self._http.patience.call_seconds

    async def _command(self, verb: str, command: Command, result: type[Result], seconds: float) -> Result:
        body = command.model_dump(mode="json")
        response = await self._http.send(
            "POST", f"{_PREFIX}/{verb}", body, seconds=seconds, token=self._token
        )
        return self._read(response, result)

    def _read(self, response: httpx.Response, result: type[Result]) -> Result:
        content = json_of(response)
        if response.status_code == httpx.codes.OK:
            try:
                return result.model_validate(content)
            except ValidationError as error:
                fields = ", ".join(
                    ".".join(map(str, part["loc"])) for part in error.errors(include_input=False)
                )
                raise LoradockError(
                    "engine_error", f"{self._http.url} answered what we do not understand: {fields}"
                ) from None
        raise self._failure(response, content)

    def _failure(self, response: httpx.Response, content: Any) -> LoradockError:
        error = content.get("error") if isinstance(content, dict) else None
        if not isinstance(error, dict) or "fault" not in error:
            # Not the extension's words: vLLM itself has answered, or something else that listens there.
            said = f"{self._http.url} answers without Loradock's extension ({response.status_code}: {excerpt(response)})"
            if response.status_code in {404, 405}:
                return LoradockError("engine_not_supported", f"{said}: {_WITHOUT}")
            return LoradockError("engine_error", said)
        said_code = str(error.get("code"))[:64]
        code = _CODES.get(said_code, said_code)
        more = error.get("details")
        details: dict[str, Any] = dict(more) if isinstance(more, dict) else {}
        details = {name: value for name, value in details.items() if name not in _OWN_WORDS}
        if code not in CATALOG:
            code, details = "engine_error", {**details, "extension_code": said_code}
        return LoradockError(code, str(error.get("message", "")), **details)
