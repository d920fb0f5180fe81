"""Tenants, which administrators create, change and delete."""

from collections.abc import Collection, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.service import audit, deletions
from core.service.db.base import new_id
from core.service.db.lookup import require
from core.service.db.models import Deletion, Tenant
from core.service.db.names import named_once
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.errors import NameTaken
from core.service.quotas import QuotaName


def create(session: Session, name: str, weight: float = 1.0, quotas: Mapping[QuotaName, int] | None = None) -> Tenant:
    """Creates a tenant. The service's limits apply to quotas that are not given. Raises NameTaken."""
    _check_free(session, name)
    tenant = Tenant(id=new_id("ten"), name=name, weight=weight, quotas=dict(quotas or {}))
    session.add(tenant)
    with named_once(session, "tenant", name):
        session.flush()
    detail = {"weight": weight, "quotas": tenant.quotas}
    audit.record(session, "tenant.create", tenant.id, tenant_id=tenant.id, detail=detail)
    return tenant


def get(session: Session, id: str, *, lock: bool = False) -> Tenant:
    """Returns the tenant with this id. Raises NotFound."""
    return require(session, Tenant, "tenant", id, lock=lock)


def names(session: Session, ids: Collection[str]) -> dict[str, str]:
    """Returns the names of tenants by their ids. Leaves out tenants that do not exist."""
    return dict(session.execute(select(Tenant.id, Tenant.name).where(Tenant.id.in_(ids))).all())


def page(session: Session, request: PageRequest, name: str | None = None) -> Page[Tenant]:
    """Returns a page of tenants, newest first; with `name`, only tenants whose name contains this text, in upper or
    lower case. Raises InvalidCursor."""
    statement = select(Tenant).where(Tenant.deleted_at.is_(None))
    if name is not None:
        statement = statement.where(Tenant.name.icontains(name, autoescape=True))
    return fetch_page(session, statement, Tenant.id, request)


def change(session: Session, id: str, changes: dict[str, object]) -> Tenant:
    """Changes a tenant's columns to the values in `changes`: name, weight or quotas. Raises NotFound, NameTaken."""
    tenant = get(session, id, lock=True)
    name = changes.get("name")
    if isinstance(name, str) and name != tenant.name:
        _check_free(session, name)
    for field, value in changes.items():
        setattr(tenant, field, value)
    with named_once(session, "tenant", tenant.name):
        session.flush()
    audit.record(session, "tenant.change", id, tenant_id=id, detail=changes)
    return tenant


def delete(session: Session, id: str) -> Deletion:
    """Deletes a tenant with all it owns, and returns the receipt of the deletion. Workers delete the tenant's stored
    objects later, and its rows too if there are very many. Raises NotFound."""
    tenant = get(session, id, lock=True)
    deletion = deletions.record(session, tenant, f"tenants/{id}/")
    deletions.remove(session, deletion, tenant)
    audit.record(session, "tenant.delete", id, tenant_id=id, detail={"deletion": deletion.id})
    return deletion


def _check_free(session: Session, name: str) -> None:
    if session.scalar(select(Tenant.id).where(Tenant.name == name)) is not None:
        raise NameTaken("tenant", name)
