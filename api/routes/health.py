"""For those who operate the service; no key needed."""

from collections.abc import Callable

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.deps import Services, ServicesDep
from core.db.schema import is_current
from core.usage import service as usage

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="livez")
def livez() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz")
def readyz(services: ServicesDep, response: Response) -> dict[str, object]:
    """Everything that the API needs answers; 503 and what is missing otherwise. A missing worker is told, but the API
    is ready without one: work waits."""
    checks: dict[str, Callable[[], object]] = {
        "database": lambda: _schema(services),
        "storage": services.store.check,
        "broker": services.dispatcher.check,
    }
    problems = {name: problem for name, check in checks.items() if (problem := _problem(check))}
    workers = 0 if "database" in problems else _workers(services)
    response.status_code = 503 if problems else 200
    return {"status": "unavailable" if problems else "ready", "problems": problems, "workers": workers}


@router.get("/metrics", operation_id="metrics", response_class=Response)
def metrics() -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _problem(check: Callable[[], object]) -> str | None:
    try:
        check()
    except Exception as error:  # each service below raises its own; the operator reads which one is missing
        return getattr(error, "detail", None) or f"{type(error).__name__}: {error}"
    return None


def _schema(services: Services) -> None:
    if not is_current(services.database.engine):
        raise RuntimeError("the tables are not at this version: run `python -m migrations`")


def _workers(services: Services) -> int:
    with services.database.session() as session:
        return len(usage.workers(session))
