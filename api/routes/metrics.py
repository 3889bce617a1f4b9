"""What Prometheus reads. Not part of the versioned API, and not in its description: docs/metrics.md has all of it."""

from fastapi import APIRouter, Request, Response

from api.auth import METRICS_PATH
from api.metrics import ApiMetrics
from loradock.metrics.instruments import CONTENT_TYPE

router = APIRouter(include_in_schema=False)


@router.get(METRICS_PATH)
async def get_metrics(request: Request) -> Response:
    """Metrics of this process and of the registry. Needs the metrics token or an operator's."""
    metrics: ApiMetrics = request.app.state.metrics
    return Response(await metrics.page(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
