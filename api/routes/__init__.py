"""The endpoints, one module per subject. Order matters: names may hold a slash, so the calls on them come first."""

from typing import Final

from api.routes import (
    adapters,
    agents,
    aliases,
    audit,
    base_models,
    fleet,
    health,
    loras,
    metrics,
    operations,
    placement,
    uploads,
    versions,
)

ROUTERS: Final = (
    agents.router,  # by far the most calls, and paths are tried in this order
    health.router,
    metrics.router,
    versions.router,
    uploads.on_adapters,
    placement.router,
    aliases.router,
    adapters.router,
    base_models.router,
    uploads.router,
    operations.router,
    fleet.router,
    audit.router,
    loras.router,
    loras.agent_router,
)
