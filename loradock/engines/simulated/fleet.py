"""Many simulated engines behind one port, each under its own name: `http://host:port/engine-0001/v1/…`."""

from collections.abc import Callable, Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loradock.engines.simulated.app import create_app
from loradock.engines.simulated.engine import Faults, SimulatedEngine
from loradock_vllm.asgi import App, Receive, Scope, Send, send_json
from loradock_vllm.auth import TokenGuard
from loradock_vllm.settings import ExtensionSettings

CONTROL: Final = "fleet"
"""The one name that no engine can have: what concerns all of them."""


class FleetOrder(BaseModel):
    """What shall happen to some engines at once.

    Attributes:
        engines: their names; None is all.
        restart: each comes up in a new life, empty.
        faults: what goes wrong from now on; None leaves it as it is.
    """

    model_config = ConfigDict(extra="forbid")

    engines: list[str] | None = None
    restart: bool = False
    faults: Faults | None = None


class SimulatedFleet:
    """The ASGI application of many engines in one process; each has the whole surface of one.

    Args:
        names: of the engines: the first word of their paths.
        make: a fresh engine, for the start and for each restart.
        settings: the extension's, shared by all.
        api_key: what prompts must show.
    """

    def __init__(
        self,
        names: list[str],
        make: Callable[[], SimulatedEngine],
        settings: ExtensionSettings,
        api_key: str | None = None,
    ) -> None:
        self._make = make
        self._settings = settings
        self._api_key = api_key
        self._guard = TokenGuard([settings.token])
        self._inside: dict[str, SimulatedEngine] = {}
        self._apps: dict[str, App] = {}
        self._control = Starlette(routes=[Route(f"/{CONTROL}", self._order, methods=["GET", "POST"])])
        for name in names:
            self.start(name)

    @property
    def engines(self) -> Mapping[str, SimulatedEngine]:
        """The insides, by name, each in its present life."""
        return self._inside

    def start(self, name: str) -> None:
        """Bring an engine up, or up again: another life that holds nothing."""
        engine = self._make()
        if name in self._inside:
            engine.faults = self._inside[name].faults
        self._inside[name] = engine
        self._apps[name] = create_app(engine, settings=self._settings, api_key=self._api_key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the engine that its path begins with."""
        if scope["type"] == "lifespan":
            await self._control(scope, receive, send)
            return
        name, _, rest = str(scope["path"]).lstrip("/").partition("/")
        app = self._apps.get(name)
        if app is not None:
            await app({**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, receive, send)
        elif name == CONTROL:
            await self._control(scope, receive, send)
        else:
            await send_json(send, 404, {"error": {"message": f"there is no engine {name!r}"}})

    async def _order(self, request: Request) -> Response:
        if not self._guard.allows(request.headers.raw):
            return JSONResponse({"error": "Unauthorized"}, 401)
        if request.method == "GET":
            return JSONResponse({"engines": list(self._inside)})
        try:
            order = FleetOrder.model_validate_json(await request.body())
        except ValidationError as error:
            return JSONResponse({"error": error.errors(include_input=False, include_url=False)}, 400)
        names = list(self._inside) if order.engines is None else order.engines
        if unknown := [name for name in names if name not in self._inside]:
            return JSONResponse({"error": f"there is no engine {unknown[0]!r}"}, 404)
        for name in names:
            if order.faults is not None:
                self._inside[name].faults = order.faults.model_copy()
            if order.restart:
                self.start(name)
        return JSONResponse({"engines": len(names)})


def engine_names(count: int) -> list[str]:
    """`engine-0001` and so on."""
    return [f"engine-{number:04}" for number in range(1, count + 1)]
