"""The control API as an ASGI application."""

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api import docs_page, openapi, problems
from api.dependencies import ApiDependencies
from api.metrics import ApiMetrics
from api.middleware import MAX_BODY_BYTES, RequestGuard
from api.readiness import ReadinessProbe
from api.routes import ROUTERS
from loradock import __version__


def create_app(deps: ApiDependencies) -> FastAPI:
    """Put the application together.

    Args:
        deps: the parts that it works with; the caller opens and closes them.
    """
    app = FastAPI(
        title=openapi.TITLE,
        description=openapi.DESCRIPTION,
        version=__version__,
        docs_url=None,  # ours is served without a content delivery network
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.dependencies = deps
    app.state.readiness = ReadinessProbe(deps.database, deps.temporal, deps.settings)
    app.state.metrics = ApiMetrics(deps.database, deps.settings)
    app.add_middleware(
        RequestGuard,
        tokens=deps.tokens,
        max_stream_bytes=max(MAX_BODY_BYTES, deps.settings.source_max_bytes),
        watch=app.state.metrics,
    )
    problems.install(app)
    openapi.install(app)
    docs_page.install(app, openapi.TITLE)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _operation_id(route: APIRoute) -> str:
    """Endpoint names are the names of calls in generated clients: renaming one breaks them."""
    return route.name
