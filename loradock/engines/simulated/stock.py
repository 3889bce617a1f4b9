"""A stock vLLM without a model: vLLM's own routes for adapters, with what they do and what they leave out.

As vLLM 0.32 does it: an unload only forgets a name; a load takes a number that was never used; what was not used for long is
pushed out, and read again from its folder when it is asked for, which ends the engine when the folder is gone; a load that
fails in the middle leaves its number behind; the metrics name adapters with running requests, after the first request.
"""

import asyncio
import random
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from loradock.engines.simulated.adapter_files import check_adapter
from loradock.engines.simulated.app import SimulatedServer, error_response
from loradock.engines.simulated.engine import Bound, Faults, digest_in

VERSION = "0.32.0"
"""Of the vLLM that it behaves like."""


class SimulatedStockEngine:
    """The inside: slots, residency, and faults to order.

    Args:
        base_model: the served name of the base model.
        max_loras: adapter slots; as many adapters are kept beside them in memory.
        max_lora_rank: highest rank that loads.
        hidden_size: width that adapters' shapes must have; None takes any.
        faults: what goes wrong from the start on.
        tells_stats: False is vLLM's `--disable-log-stats`.
    """

    def __init__(
        self,
        *,
        base_model: str = "base",
        max_loras: int = 4,
        max_lora_rank: int = 16,
        hidden_size: int | None = None,
        faults: Faults | None = None,
        tells_stats: bool = True,
    ) -> None:
        self.faults = faults or Faults()
        self.started_at = time.time()
        self.names: dict[str, Bound] = {}
        self.resident: OrderedDict[int, str] = OrderedDict()
        """Paths by number, the least recently used first."""
        self.max_loras = max_loras
        self.tells_stats = tells_stats
        self._base_model = base_model
        self._max_lora_rank = max_lora_rank
        self._hidden_size = hidden_size
        self._numbers = 0
        self._loading = asyncio.Lock()
        self._running: Counter[str] = Counter()
        self._stats: dict[tuple[str, str], float] = {}

    @property
    def base_model(self) -> str:
        """The served name of the base model."""
        return self._base_model

    def paths(self) -> dict[str, str]:
        """The folders of all adapters that are served, by name."""
        return {name: bound.path for name, bound in self.names.items()}

    async def load(self, name: str, path: str) -> None:
        """Load an adapter under a name that is free.

        Raises:
            FileExistsError: it is not.
            RuntimeError: with vLLM's text.
        """
        async with self._loading:
            if name in self.names:
                raise FileExistsError(name)
            jitter = random.uniform(-self.faults.load_jitter, self.faults.load_jitter)  # noqa: S311
            await asyncio.sleep(self.faults.load_seconds * (1 + jitter))
            self._check_alive()
            self._numbers += 1
            self._add(name, self._numbers, path)
            self.names[name] = Bound(name, self._numbers, path)

    def unload(self, name: str) -> None:
        """Forget a name, and nothing else.

        Raises:
            LookupError: there is no such name.
        """
        del self.names[name]

    def digest_for(self, model: str | None) -> str | None:
        """The digest of the weights that answer for a model now; None for the base model.

        Raises:
            LookupError: there is no such model.
        """
        if model is None or model == self._base_model:
            return None
        bound = self.names[model]
        if bound.int_id not in self.resident:
            self._read_again(bound)
        self.resident.move_to_end(bound.int_id)
        return digest_in(self.resident[bound.int_id])

    @contextmanager
    def running(self, model: str | None) -> Iterator[None]:
        """A request for a model runs, until the end of the block."""
        name = model or self._base_model
        self._running[name] += 1
        self._note_step()
        try:
            yield
        finally:
            self._running[name] -= 1
            self._note_step()

    def metrics(self) -> str:
        """What `/metrics` says, as far as anybody here reads it."""
        labels = f'engine="0",model_name="{self._base_model}"'
        lines = [f"process_start_time_seconds {self.started_at:.2f}"]
        if self.tells_stats:
            lines += [
                f'vllm:request_success_created{{{labels},finished_reason="stop"}} {self.started_at + 1}',
                f"vllm:num_requests_running{{{labels}}} {float(self._running.total())}",
                f"vllm:num_requests_waiting{{{labels}}} 0.0",
            ]
            lines += [
                f'vllm:lora_requests_info{{max_lora="{self.max_loras}",running_lora_adapters="{running}",'
                f'waiting_lora_adapters="{waiting}"}} {at}'
                for (running, waiting), at in self._stats.items()
            ]
        return "\n".join(lines) + "\n"

    def _note_step(self) -> None:
        busy = [name for name, count in self._running.items() if count and name != self._base_model]
        self._stats[(",".join(busy), ",".join(busy))] = time.time()

    def _add(self, name: str, int_id: int, path: str) -> None:
        if self._fails():
            if self.faults.leave_half_loaded:
                self._make_resident(int_id, path)
            raise RuntimeError(f"Call to add_lora method failed: {self.faults.load_error}")
        try:
            check_adapter(name, Path(path), max_lora_rank=self._max_lora_rank, hidden_size=self._hidden_size)
        except ValueError as error:
            raise RuntimeError(f"Call to add_lora method failed: {error}") from error
        self._make_resident(int_id, path)

    def _make_resident(self, int_id: int, path: str) -> None:
        if len(self.resident) >= self.max_loras:
            self.resident.popitem(last=False)
        self.resident[int_id] = path

    def _read_again(self, bound: Bound) -> None:
        try:
            self._add(bound.name, bound.int_id, bound.path)
        except RuntimeError:
            self.faults = self.faults.model_copy(update={"dead": True})
            raise

    def _fails(self) -> bool:
        if self.faults.load_error is None or self.faults.failing_loads == 0:
            return False
        if self.faults.failing_loads is not None:
            self.faults.failing_loads -= 1
        return True

    def _check_alive(self) -> None:
        if self.faults.dead:
            raise RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")


def create_stock_app(
    engine: SimulatedStockEngine, *, api_key: str | None = None, updates: bool = True
) -> Starlette:
    """The ASGI application.

    Args:
        api_key: what everything below `/v1` must be shown, as with vLLM's `--api-key`.
        updates: False is a vLLM without `VLLM_ALLOW_RUNTIME_LORA_UPDATING`.
    """
    server = _StockServer(engine, None, api_key)
    routes = [
        Route("/health", server.health),
        Route("/version", server.version),
        Route("/metrics", server.metrics),
        Route("/v1/models", server.keyed(server.models)),
        Route("/v1/completions", server.keyed(server.completions), methods=["POST"]),
        Route("/v1/chat/completions", server.keyed(server.chat), methods=["POST"]),
        Route("/simulated/faults", server.faults, methods=["GET", "PUT"]),
    ]
    if updates:
        routes += [
            Route("/v1/load_lora_adapter", server.keyed(server.load), methods=["POST"]),
            Route("/v1/unload_lora_adapter", server.keyed(server.unload), methods=["POST"]),
        ]
    return Starlette(routes=routes)


class _StockServer(SimulatedServer):
    def __init__(self, engine: SimulatedStockEngine, token: str | None, api_key: str | None) -> None:
        super().__init__(engine, token, api_key)
        self._stock = engine

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._stock.metrics())

    async def load(self, request: Request) -> Response:
        body = await _body(request)
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            message = "Both 'lora_name' and 'lora_path' must be provided."
            return error_response(400, "InvalidUserInput", message)
        try:
            await self._stock.load(str(name), str(path))
        except FileExistsError:
            message = f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place,"
            return error_response(400, "InvalidUserInput", f"{message} set 'load_inplace' to True.")
        except RuntimeError as error:
            if "No adapter found for" in str(error):
                text = f"Loading lora {name} failed: No adapter found for <path>"
                return error_response(404, "NotFoundError", text)
            return error_response(500, "InternalServerError", str(error))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        name = (await _body(request)).get("lora_name")
        try:
            self._stock.unload(str(name))
        except LookupError:
            return error_response(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _body(request: Request) -> dict[str, Any]:
    with suppress(ValueError):
        body = await request.json()
        if isinstance(body, dict):
            return body
    return {}
