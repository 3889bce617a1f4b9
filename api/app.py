"""The control API as an ASGI application."""

from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api import openapi, problems
from api.dependencies import ApiDependencies
from api.middleware import RequestGuard
from api.readiness import ReadinessProbe
from api.routes import ROUTERS
from loradock import __version__

DOCS_PATH: Final = "/docs"


def create_app(deps: ApiDependencies) -> FastAPI:
    """Put the application together.

    Args:
        deps: the parts that it works with; the caller opens and closes them.
    """
    app = FastAPI(
        title=openapi.TITLE,
        description=openapi.DESCRIPTION,
        version=__version__,
        docs_url=DOCS_PATH,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.dependencies = deps
    app.state.readiness = ReadinessProbe(deps.database, deps.temporal, deps.settings)
    app.add_middleware(RequestGuard, tokens=deps.tokens)
    problems.install(app)
    openapi.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _operation_id(route: APIRoute) -> str:
    """Endpoint names are the names of calls in generated clients: renaming one breaks them."""
    return route.name
