"""For those who operate the service; no key needed."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.deps import Services, ServicesDep
from api.schemas.usage import Liveness, Readiness
from core.db.schema import is_current
from core.errors import CoreError
from core.usage import service as usage

router = APIRouter(tags=["health"])
logger = structlog.get_logger()
Found = TypeVar("Found")


@router.get("/livez", operation_id="livez")
def livez() -> Liveness:
    """The process runs."""
    return Liveness(status="ok")


@router.get(
    "/readyz",
    operation_id="readyz",
    responses={503: {"model": Readiness, "description": "Something is missing: see `problems`."}},
)
def readyz(services: ServicesDep, response: Response) -> Readiness:
    """Everything that the API needs answers; 503 and what is missing otherwise. Without a live worker it is ready, with
    a warning: it takes requests, and their work waits."""
    problems: dict[str, str] = {}
    workers = 0
    if current := _check(problems, "database", lambda: is_current(services.database.engine)):
        workers = _check(problems, "database", lambda: _workers(services)) or 0
    if current is False:
        problems["migrations"] = "The tables are not at this version: run `python -m migrations`."
    _check(problems, "storage", services.store.check)
    _check(problems, "broker", services.dispatcher.check)
    response.status_code = 503 if problems else 200
    return Readiness(
        status="unavailable" if problems else "ready",
        problems=problems,
        workers=workers,
        warnings={} if workers else {"worker": "No worker is alive: work waits."},
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Metrics."}},
)
def metrics() -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _check(problems: dict[str, str], name: str, check: Callable[[], Found]) -> Found | None:
    """What a check found; None and an entry under `problems` when the service below does not answer."""
    try:
        return check()
    except Exception as error:  # each raises its own; the answer tells no more of it than its kind, the log does
        logger.warning("not ready", missing=name, exc_info=error)
        problems[name] = (
            error.detail if isinstance(error, CoreError) else f"It does not answer ({type(error).__name__})."
        )
    return None


def _workers(services: Services) -> int:
    with services.database.session() as session:
        return len(usage.workers(session))
