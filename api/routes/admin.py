"""Routes for administrators: tenants, API keys, stored adapters, queues, workers, usage, audit log, deletions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from api.auth import AdminDep, get_admin
from api.deps import OF_STATUS, DatabaseDep, PageDep
from api.filters import AuditFilterDep, PeriodDep
from api.idempotency import IdempotentRoute
from api.openapi import deleted, problems
from api.schemas.adapters import AdapterStatus, AdapterTotals, AdminAdapterOut
from api.schemas.common import Identifier, Listing, Name, changes, listing
from api.schemas.deletions import DeletionOut, DeletionReceiptOut
from api.schemas.tenants import (
    AdminKeyCreate,
    KeyChange,
    KeyCreate,
    KeyIssued,
    KeyOut,
    KeyRotate,
    TenantChange,
    TenantCreate,
    TenantOut,
)
from api.schemas.usage import AuditOut, QueueOut, TenantUsageDayOut, WorkerOut
from core.artifact.errors import NotFound
from core.service import adapters, audit, deletions, domains, fleet, keys, metering, queues, tenants
from core.service.adapters import Filters
from core.service.db.models import Adapter, AuditEntry, UsageDay
from core.service.db.paging import number_of, page_of
from core.service.errors import InvalidPeriod, KeyRevoked, LastAdminKey, NameTaken
from core.service.keys import IssuedKey

router = APIRouter(prefix="/v1/admin", tags=["admin"], route_class=IdempotentRoute, dependencies=[Depends(get_admin)])
Filter = Annotated[Identifier | None, Query()]


@router.post("/tenants", status_code=201, operation_id="create_tenant", responses=problems(NameTaken))
def create_tenant(body: TenantCreate, database: DatabaseDep, admin: AdminDep) -> TenantOut:
    """Create a tenant: an account with its own API keys, domains and quotas."""
    with database.session(admin) as session:
        return TenantOut.model_validate(tenants.create(session, body.name, body.weight, body.quotas))


@router.get("/tenants", operation_id="list_tenants")
def list_tenants(
    database: DatabaseDep,
    admin: AdminDep,
    page: PageDep,
    name: Annotated[Name | None, Query(description="Only tenants whose name contains this text, in any case.")] = None,
) -> Listing[TenantOut]:
    """List all tenants, newest first."""
    with database.reading(admin) as session:
        return listing(tenants.page(session, page, name), TenantOut.model_validate)


@router.get("/tenants/{id}", operation_id="get_tenant", responses=problems(NotFound))
def get_tenant(id: str, database: DatabaseDep, admin: AdminDep) -> TenantOut:
    """Get a tenant."""
    with database.reading(admin) as session:
        return TenantOut.model_validate(tenants.get(session, id))


@router.patch("/tenants/{id}", operation_id="change_tenant", responses=problems(NotFound, NameTaken))
def change_tenant(id: str, body: TenantChange, database: DatabaseDep, admin: AdminDep) -> TenantOut:
    """Change a tenant's name, weight or quotas."""
    with database.session(admin) as session:
        return TenantOut.model_validate(tenants.change(session, id, changes(body)))


@router.delete("/tenants/{id}", status_code=204, operation_id="delete_tenant", responses=deleted(NotFound))
def delete_tenant(id: str, response: Response, database: DatabaseDep, admin: AdminDep) -> None:
    """Delete a tenant with its API keys, domains, images and adapters. `Location` points to the receipt of the
    deletion."""
    with database.session(admin) as session:
        deletion = tenants.delete(session, id)
    response.headers["Location"] = f"/v1/admin/deletions/{deletion.id}"


@router.post("/tenants/{id}/keys", status_code=201, operation_id="create_key", responses=problems(NotFound))
def create_key(id: str, body: KeyCreate, database: DatabaseDep, admin: AdminDep) -> KeyIssued:
    """Create an API key for a tenant. Only this response contains the key itself."""
    with database.session(admin) as session:
        return _issued(keys.issue(session, id, body.name, body.scopes, body.lifetime_seconds))


@router.get("/tenants/{id}/keys", operation_id="list_keys", responses=problems(NotFound))
def list_keys(id: str, database: DatabaseDep, admin: AdminDep, page: PageDep) -> Listing[KeyOut]:
    """List a tenant's API keys, newest first, without the keys themselves."""
    with database.reading(admin) as session:
        return listing(keys.page(session, id, page), KeyOut.model_validate)


@router.post("/keys", status_code=201, operation_id="create_admin_key")
def create_admin_key(body: AdminKeyCreate, database: DatabaseDep, admin: AdminDep) -> KeyIssued:
    """Create an administrator's API key, so that each administrator has one and the audit log tells them apart. Only
    this response contains the key itself."""
    with database.session(admin) as session:
        return _issued(keys.issue_admin(session, body.name, body.lifetime_seconds))


@router.get("/keys", operation_id="list_admin_keys")
def list_admin_keys(database: DatabaseDep, admin: AdminDep, page: PageDep) -> Listing[KeyOut]:
    """List the administrators' API keys, newest first, without the keys themselves."""
    with database.reading(admin) as session:
        return listing(keys.page(session, None, page), KeyOut.model_validate)


@router.patch("/keys/{id}", operation_id="change_key", responses=problems(NotFound, KeyRevoked, LastAdminKey))
def change_key(id: str, body: KeyChange, database: DatabaseDep, admin: AdminDep) -> KeyOut:
    """Change the name or expiry of an API key. The last administrator's key cannot be made to expire."""
    with database.session(admin) as session:
        return KeyOut.model_validate(keys.change(session, id, changes(body)))


@router.post(
    "/keys/{id}/rotate",
    status_code=201,
    operation_id="rotate_key",
    responses=problems(NotFound, KeyRevoked, LastAdminKey),
)
def rotate_key(id: str, body: KeyRotate, database: DatabaseDep, admin: AdminDep) -> KeyIssued:
    """Replace an API key by a new one with the same name, scopes and lifetime. The old key works for
    `overlap_seconds` more. The successor of the last administrator's key cannot be given a lifetime."""
    with database.session(admin) as session:
        return _issued(keys.rotate(session, id, body.overlap_seconds, changes(body)))


@router.delete("/keys/{id}", status_code=204, operation_id="revoke_key", responses=problems(NotFound, LastAdminKey))
def revoke_key(id: str, database: DatabaseDep, admin: AdminDep) -> None:
    """Revoke an API key. It stops working immediately, and its event streams and waiting requests end within seconds.
    Signed image URLs that were returned to it work until they expire. The last administrator's key cannot be revoked:
    rotate it instead."""
    with database.session(admin) as session:
        keys.revoke(session, id)


@router.get("/adapters", operation_id="list_all_adapters")
def list_all_adapters(
    database: DatabaseDep,
    admin: AdminDep,
    page: PageDep,
    tenant_id: Filter = None,
    domain_id: Filter = None,
    base_digest: Filter = None,
    status: Annotated[AdapterStatus | None, OF_STATUS] = None,
) -> Listing[AdminAdapterOut]:
    """List the adapters of all tenants, newest first, with the workers that have them in device memory."""
    with database.reading(admin) as session:
        filters = Filters(tenant_id, domain_id, base_digest, status)
        rows = adapters.page_of_all(session, filters, page)
        holders = fleet.residency(session)
        tenant_names = tenants.names(session, {row.tenant_id for row in rows.data})
        domain_names = domains.names(session, {row.domain_id for row in rows.data})

        def rendered(row: Adapter) -> AdminAdapterOut:
            names = {"tenant_name": tenant_names.get(row.tenant_id), "domain_name": domain_names.get(row.domain_id)}
            held = {"resident_on": holders.get(row.sha256, [])}
            return AdminAdapterOut.model_validate(row).model_copy(update=names | held)

        return listing(rows, rendered)


@router.get("/adapters/totals", operation_id="get_adapter_totals")
def get_adapter_totals(
    database: DatabaseDep,
    admin: AdminDep,
    tenant_id: Filter = None,
    domain_id: Filter = None,
    base_digest: Filter = None,
    status: Annotated[AdapterStatus | None, OF_STATUS] = None,
) -> AdapterTotals:
    """Get the number and total size of the stored adapters that match the filters."""
    with database.reading(admin) as session:
        filters = Filters(tenant_id, domain_id, base_digest, status)
        return AdapterTotals.model_validate(adapters.totals(session, filters))


@router.get("/queues", operation_id="list_queues")
def list_queues(database: DatabaseDep, admin: AdminDep, page: PageDep) -> Listing[QueueOut]:
    """List the queues with their numbers of waiting and running jobs."""
    with database.reading(admin) as session:
        rows = queues.read(session)
    first = number_of(page.cursor)
    numbered = list(enumerate(rows[first : first + page.limit + 1], first + 1))
    return listing(page_of(numbered, page, lambda row: str(row[0])), lambda row: QueueOut.model_validate(row[1]))


@router.get("/workers", operation_id="list_workers")
def list_workers(database: DatabaseDep, admin: AdminDep, page: PageDep) -> Listing[WorkerOut]:
    """List the live workers, most recently started first, with the adapters that they have in device memory."""
    with database.reading(admin) as session:
        return listing(fleet.workers_page(session, page), WorkerOut.model_validate)


@router.get("/usage", operation_id="list_usage", responses=problems(InvalidPeriod))
def list_usage(
    database: DatabaseDep, admin: AdminDep, page: PageDep, period: PeriodDep, tenant_id: Filter = None
) -> Listing[TenantUsageDayOut]:
    """List the images, model evaluations and training seconds per tenant and day of a period, by default the last 30
    days, newest first."""
    with database.reading(admin) as session:
        days = metering.days_page(session, page, tenant_id, period)
        names = tenants.names(session, {day.tenant_id for day in days.data})

        def rendered(day: UsageDay) -> TenantUsageDayOut:
            name = names.get(day.tenant_id)
            return TenantUsageDayOut.model_validate(day).model_copy(update={"tenant_name": name})

        return listing(days, rendered)


@router.get("/audit", operation_id="list_audit")
def list_audit(database: DatabaseDep, admin: AdminDep, page: PageDep, wanted: AuditFilterDep) -> Listing[AuditOut]:
    """List the entries of the audit log, newest first."""
    with database.reading(admin) as session:
        entries = audit.page(session, wanted, page)
        targets = {entry.target for entry in entries.data}
        owners = {entry.tenant_id for entry in entries.data if entry.tenant_id}
        names = tenants.names(session, owners | targets) | domains.names(session, targets)

        def rendered(entry: AuditEntry) -> AuditOut:
            named = {"tenant_name": names.get(entry.tenant_id or ""), "target_name": names.get(entry.target)}
            return AuditOut.model_validate(entry).model_copy(update=named)

        return listing(entries, rendered)


@router.get("/deletions", operation_id="list_all_deletions")
def list_all_deletions(
    database: DatabaseDep, admin: AdminDep, page: PageDep, tenant_id: Filter = None
) -> Listing[DeletionOut]:
    """List the receipts of all deletions, newest first."""
    with database.reading(admin) as session:
        return listing(deletions.page(session, page, tenant_id), DeletionOut.model_validate)


@router.get("/deletions/{id}", operation_id="get_any_deletion", responses=problems(NotFound))
def get_any_deletion(id: str, database: DatabaseDep, admin: AdminDep) -> DeletionReceiptOut:
    """Get a deletion receipt: what was deleted, by which API key, and when the deletion was complete."""
    with database.reading(admin) as session:
        return DeletionReceiptOut.model_validate(deletions.get(session, id))


def _issued(issued: IssuedKey) -> KeyIssued:
    return KeyIssued.model_validate(issued.row).model_copy(update={"key": issued.key})
