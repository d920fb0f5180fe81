"""Routes for operators: liveness and readiness probes, which need no API key, and metrics."""

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.auth import get_admin
from api.readiness import ReadinessCheck
from api.schemas.usage import Liveness, Readiness

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="livez")
async def livez() -> Liveness:
    """Report that the process is alive. Needs only the event loop, so it responds even when all threads are busy."""
    return Liveness(status="ok")


@router.get(
    "/readyz",
    operation_id="readyz",
    responses={
        503: {"model": Readiness, "description": "Something that every request needs is missing: see `problems`."}
    },
)
async def readyz(request: Request, response: Response) -> Readiness:
    """Report whether the process can serve requests; if not, the status is 503. Failures that affect only some requests
    are warnings: without a live worker, the broker or the object store, jobs wait. The result may be 2 seconds old."""
    check: ReadinessCheck = request.app.state.readiness
    readiness = await check.read()
    response.status_code = 503 if readiness.problems else 200
    return readiness


@router.get(
    "/metrics",
    operation_id="metrics",
    dependencies=[Depends(get_admin)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."}},
)
def metrics() -> Response:
    """Get the Prometheus metrics of this process. The port `DIFFFIT_API_METRICS_PORT` serves them without an API
    key."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
