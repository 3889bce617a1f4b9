"""The stock vLLM server's own routes for adapters, as vLLM 0.32 has them (`vllm/entrypoints/serve/lora/api_router.py`)."""

from typing import Any, Final, NamedTuple

import httpx

from loradock.core.errors import LoradockError
from loradock.engines.http import EngineHttp, excerpt, json_of
from loradock.engines.stock.load_errors import classify, unwrap
from loradock.engines.stock.metrics import Metrics

LOAD: Final = "/v1/load_lora_adapter"
UNLOAD: Final = "/v1/unload_lora_adapter"
EXTENSION: Final = "/loradock/v1/state"


class Models(NamedTuple):
    """What `/v1/models` lists.

    Attributes:
        base: the name of the base model.
        adapters: paths by name; a name is there from the load's end until the unload's call.
    """

    base: str
    adapters: dict[str, str]


class StockServer:
    """Calls of a stock vLLM; every one raises `engine_unreachable`, `engine_unauthorized` or `engine_error`.

    Args:
        http: with vLLM's own API key, which guards everything below `/v1`.
    """

    def __init__(self, http: EngineHttp) -> None:
        self._http = http

    async def check_kind(self) -> None:
        """See that this is a stock vLLM that lets adapters be changed.

        Raises:
            LoradockError: `engine_not_supported`, saying what to start otherwise.
        """
        extension = await self._http.send("GET", EXTENSION)
        if extension.status_code != httpx.codes.NOT_FOUND:
            raise self._not_supported(
                "has Loradock's extension (or something else answers /loradock): run its agent with --engine-kind vllm"
            )
        # GET asks whether the route is there, and does nothing.
        route = await self._http.send("GET", LOAD)
        if route.status_code == httpx.codes.NOT_FOUND:
            raise self._not_supported(
                "does not let adapters be changed: start vLLM with --enable-lora and the environment variable"
                " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
            )

    async def check_health(self) -> None:
        """See that the engine behind the server lives.

        Raises:
            LoradockError: `engine_error`.
        """
        response = await self._http.send("GET", "/health")
        if response.status_code != httpx.codes.OK:
            raise LoradockError("engine_error", f"{self._http.url} is not healthy: {response.status_code}")

    async def models(self) -> Models:
        """The names that are served, with the folders that they were loaded from."""
        response = await self._http.send("GET", "/v1/models")
        content = self._content(response)
        try:
            cards = [(str(card["id"]), str(card["root"]), card.get("parent")) for card in content["data"]]
            base = next(name for name, _, parent in cards if parent is None)
        except (AttributeError, KeyError, TypeError, StopIteration):
            raise LoradockError("engine_error", f"{self._http.url}/v1/models: no list of models") from None
        return Models(base, {name: path for name, path, parent in cards if parent is not None})

    async def metrics(self) -> Metrics:
        """A reading of `/metrics`."""
        response = await self._http.send("GET", "/metrics")
        if response.status_code != httpx.codes.OK:
            raise self._not_supported(
                f"has no /metrics ({response.status_code}): a restart would go unnoticed"
            )
        return Metrics.read(response.text)

    async def life(self) -> str:
        """Its incarnation.

        Raises:
            LoradockError: `engine_not_supported` when it does not tell.
        """
        return self.life_of(await self.metrics())

    def life_of(self, metrics: Metrics) -> str:
        """The incarnation that a reading tells.

        Raises:
            LoradockError: `engine_not_supported` when it tells none.
        """
        if metrics.incarnation is None:
            raise self._not_supported(
                "does not tell process_start_time_seconds: a restart would go unnoticed"
            )
        return metrics.incarnation

    async def version(self) -> str:
        """vLLM's version, empty when it does not say."""
        content = json_of(await self._http.send("GET", "/version"))
        return str(content.get("version", ""))[:100] if isinstance(content, dict) else ""

    async def wake(self, base: str) -> None:
        """Have the base model answer one token: after that the metrics tell the number of slots."""
        body = {"model": base, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        self._check_authorized(await self._http.send("POST", "/v1/completions", body))

    async def load(self, name: str, path: str) -> bool:
        """Load an adapter under a name; never in place, which would change running answers.

        Returns:
            False when the name is there already, with whatever path.

        Raises:
            LoradockError: what vLLM's text means: `artifact_missing`, `rank_too_high`, `adapter_corrupt` and so on.
        """
        body = {"lora_name": name, "lora_path": path}
        seconds = self._http.patience.load_seconds
        response = await self._http.send("POST", LOAD, body, seconds=seconds)
        if response.status_code == httpx.codes.OK:
            return True
        said = self._said(response)
        if response.status_code == httpx.codes.BAD_REQUEST and "has already been loaded" in said:
            return False
        raise LoradockError(classify(said), f"{self._http.url}: {unwrap(said)}")

    async def unload(self, name: str) -> None:
        """Take a name away: requests for it are refused from now on, and nothing else. One that is not there is fine."""
        response = await self._http.send("POST", UNLOAD, {"lora_name": name})
        if response.status_code not in {httpx.codes.OK, httpx.codes.NOT_FOUND}:
            raise LoradockError("engine_error", f"{self._http.url}: {self._said(response)}")

    def _content(self, response: httpx.Response) -> Any:
        self._check_authorized(response)
        if response.status_code != httpx.codes.OK:
            code = "engine_not_supported" if response.status_code == httpx.codes.NOT_FOUND else "engine_error"
            raise LoradockError(
                code, f"{self._http.url} is no vLLM ({response.status_code}: {excerpt(response)})"
            )
        return json_of(response)

    def _said(self, response: httpx.Response) -> str:
        self._check_authorized(response)
        content = json_of(response)
        error = content.get("error") if isinstance(content, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        return str(message) if message else f"status {response.status_code}: {excerpt(response)}"

    def _check_authorized(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise LoradockError(
                "engine_unauthorized",
                f"{self._http.url} refused vLLM's API key: give the agent the engine's --api-key (LORADOCK_ENGINE_API_KEY)",
            )

    def _not_supported(self, why: str) -> LoradockError:
        return LoradockError("engine_not_supported", f"{self._http.url} {why}")
