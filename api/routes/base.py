"""Route that describes the served base model."""

from fastapi import APIRouter

from api.auth import ScopeDep
from api.deps import ServicesDep
from api.openapi import problems
from api.schemas.base import BaseOut
from core.service import fleet
from core.service.errors import BaseNotLoaded

router = APIRouter(prefix="/v1", tags=["base"])


@router.get("/base", operation_id="get_base", responses=problems(BaseNotLoaded))
def get_base(services: ServicesDep, scope: ScopeDep) -> BaseOut:
    """Get the base model that the service serves: its name, licence and classes, and the settings of generations and
    fine-tunes with their defaults and limits. Any API key may call this."""
    with services.database.reading(scope) as session:
        return BaseOut.of(fleet.served_base(session, services.settings.base_model))
