"""Route that describes the API key of the request."""

from fastapi import APIRouter, Request

from api.auth import ScopeDep
from api.deps import DatabaseDep
from api.schemas.tenants import KeyOut, OwnKeyOut
from core.service import keys

router = APIRouter(prefix="/v1", tags=["usage"])


@router.get("/key", operation_id="get_own_key")
def get_own_key(request: Request, database: DatabaseDep, scope: ScopeDep) -> OwnKeyOut:
    """Get the tenant, scopes and expiry of the API key of this request. Any API key may call this."""
    signs_in = getattr(request.state, "signs_in", False)
    with database.session(scope) if signs_in else database.reading(scope) as session:
        if signs_in:
            keys.record_sign_in(session)
        key, tenant = keys.identity(session)
        known = KeyOut.model_validate(key).model_dump()
        return OwnKeyOut(**known, tenant_name=tenant.name if tenant else None)
