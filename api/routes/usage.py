"""Route of a tenant's usage and quotas."""

from fastapi import APIRouter

from api.auth import ReaderDep
from api.deps import ServicesDep
from api.filters import PeriodDep
from api.openapi import problems
from api.schemas.usage import UsageOut
from core.service import metering
from core.service.errors import InvalidPeriod

router = APIRouter(prefix="/v1", tags=["usage"])


@router.get("/usage", operation_id="get_usage", responses=problems(InvalidPeriod))
def get_usage(services: ServicesDep, scope: ReaderDep, period: PeriodDep) -> UsageOut:
    """Get your total images, model evaluations, training seconds and stored bytes, your quotas, and your usage per
    day of a period, by default the last 30 days."""
    requests = services.limits.used(scope)
    with services.database.reading(scope) as session:
        return UsageOut.model_validate(metering.usage(session, services.settings, period, requests=requests))
