"""The API key of the request."""

from fastapi import APIRouter, Request

from api.auth import ScopeDep
from api.deps import DatabaseDep
from api.schemas.tenants import KeyOut, OwnKeyOut
from core.service.tenants import service as tenants

router = APIRouter(prefix="/v1", tags=["usage"])


@router.get("/key", operation_id="get_own_key")
def get_own_key(request: Request, database: DatabaseDep, scope: ScopeDep) -> OwnKeyOut:
    """Get the key of this request: its tenant, scopes and expiry. Any key may call this."""
    with database.session(scope) as session:
        if getattr(request.state, "signs_in", False):
            tenants.record_sign_in(session, scope)
        key, tenant = tenants.identity(session, scope)
        fields = KeyOut.model_validate(key).model_dump()
        return OwnKeyOut(**fields, tenant_name=tenant.name if tenant else None)
