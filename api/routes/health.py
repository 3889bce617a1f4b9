"""Whether the service works. Open to anyone, so nothing here tells more than that."""

from fastapi import APIRouter, Request

from api.problems import Problem
from api.readiness import ReadinessProbe
from api.schemas import Health, Readiness
from loradock import __version__

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def get_health() -> Health:
    """The process is there and answers. Says nothing of what it stands on."""
    return Health(status="ok", version=__version__)


@router.get(
    "/readyz",
    responses={
        503: {
            "model": Problem,
            "description": "`not_ready`: Postgres does not answer, or needs 'loradock migrate'.",
        }
    },
)
async def get_readiness(request: Request) -> Readiness:
    """Postgres answers and has the schema; Temporal answers or not, in which case the service is `degraded`."""
    probe: ReadinessProbe = request.app.state.readiness
    return await probe.check()
