"""A tenant's domains."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from core.artifact.errors import NotFound
from core.service import audit, idempotency
from core.service import etags as versions
from core.service.db.base import new_id
from core.service.db.models import Deletion, Domain, StoredBytes
from core.service.db.names import named_once
from core.service.db.paging import Page, PageRequest
from core.service.deletions import service as deletions
from core.service.domains import repository
from core.service.errors import NameTaken
from core.service.tenancy import Scope


def create(session: Session, scope: Scope, name: str, description: str, base_model: str) -> Domain:
    """Raises NameTaken."""
    if repository.by_name(session, scope, name) is not None:
        raise NameTaken("domain", name)
    domain = Domain(id=new_id("dom"), tenant_id=scope.tenant, name=name, description=description, base_model=base_model)
    session.add(domain)
    with named_once(session, "domain", name):
        session.flush()
    session.add(StoredBytes(domain_id=domain.id, tenant_id=domain.tenant_id, bytes=0))
    audit.record(session, scope, "domain.create", domain.id)
    return domain


def get(session: Session, scope: Scope, id: str, *, lock: bool = False) -> Domain:
    """Raises NotFound, for another tenant's domain too."""
    domain = repository.get(session, scope, id, lock=lock)
    if domain is None:
        raise NotFound("domain", id)
    return domain


def listing(session: Session, scope: Scope, request: PageRequest) -> Page[Domain]:
    return repository.page(session, scope, request)


def covers(session: Session, scope: Scope, ids: Sequence[str]) -> dict[str, str]:
    """The generation whose first image stands for a domain, of those that have drawn."""
    return repository.latest_drawings(session, scope, ids)


def change(session: Session, scope: Scope, id: str, changes: dict[str, object], seen: str | None = None) -> Domain:
    """Name or description, of the state that the caller has `seen`. Raises NotFound, NameTaken, ChangedMeanwhile."""
    domain = get(session, scope, id, lock=True)
    versions.demand(domain, seen)
    name = changes.get("name")
    if isinstance(name, str) and name != domain.name:
        if repository.by_name(session, scope, name) is not None:
            raise NameTaken("domain", name)
        with named_once(session, "domain", name):
            domain.name = name
            session.flush()
    for field, value in changes.items():
        setattr(domain, field, value)
    session.flush()
    audit.record(session, scope, "domain.change", id, detail=changes)
    return domain


def delete(session: Session, scope: Scope, id: str) -> Deletion:
    """Deletes a domain with all it owns; running jobs lose their rows and stop, objects follow, and so do rows where
    there are very many. The answers that are
    kept for repeated requests are forgotten where they speak of it. Raises NotFound."""
    domain = get(session, scope, id, lock=True)
    deletion = deletions.record(session, scope, domain, folder(domain.tenant_id, id))
    idempotency.forget(session, domain.tenant_id, id)
    deletions.remove(session, deletion, domain)
    audit.record(session, scope, "domain.delete", id, detail={"deletion": deletion.id})
    return deletion


def folder(tenant_id: str, domain_id: str) -> str:
    """The prefix of every object that belongs to a domain."""
    return f"tenants/{tenant_id}/domains/{domain_id}/"
