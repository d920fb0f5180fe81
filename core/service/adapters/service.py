"""Stored adapters: published by fine-tunes, uploaded by tenants, promoted to be a domain's active one."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.orm import Session

from core.artifact.base import BaseDescription
from core.artifact.errors import NotFound
from core.artifact.file import Artifact, check_against, decode
from core.service import audit, metering
from core.service.adapters import repository
from core.service.adapters.repository import Filters
from core.service.db.base import new_id
from core.service.db.models import Adapter, Domain
from core.service.db.paging import Page, PageRequest
from core.service.db.session import database_now
from core.service.domains import service as domains
from core.service.errors import AdapterQuarantined
from core.service.storage import ObjectStore, StoredObject
from core.service.tenancy import SYSTEM, Scope
from core.service.webhooks import events


def get(session: Session, scope: Scope, id: str) -> Adapter:
    """Raises NotFound."""
    adapter = repository.get(session, scope, id)
    if adapter is None:
        raise NotFound("adapter", id)
    return adapter


def download(session: Session, scope: Scope, id: str) -> Adapter:
    """Returns an adapter whose file is about to be sent. Raises NotFound."""
    adapter = get(session, scope, id)
    audit.record(session, scope, "adapter.download", id)
    return adapter


def listing(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[Adapter]:
    domains.get(session, scope, domain_id)
    return repository.page_of_domain(session, scope, domain_id, request)


def admin_listing(session: Session, scope: Scope, filters: Filters, request: PageRequest) -> Page[Adapter]:
    """Lists every stored adapter of every tenant, for an administrator."""
    return repository.page_of_all(session, scope, filters, request)


@dataclass(frozen=True)
class Totals:
    adapters: int
    tenants: int
    domains: int
    size_bytes: int


def totals(session: Session, scope: Scope, filters: Filters) -> Totals:
    """Returns the totals of every stored adapter that passes the filters, for an administrator."""
    return Totals(*repository.totals(session, scope, filters))


def store_upload(
    store: ObjectStore, scope: Scope, domain_id: str, data: bytes, base: BaseDescription, limit_bytes: int
) -> tuple[Artifact, StoredObject]:
    """Checks an uploaded file as our own are checked, and stores it. Raises ArtifactInvalid, BaseMismatch."""
    artifact = decode(data, limit_bytes)
    check_against(artifact, base)
    key = f"{domains.folder(scope.tenant, domain_id)}adapters/{new_id('adp')}.safetensors"
    return artifact, store.put(key, data)


def create_uploaded(
    session: Session, scope: Scope, domain_id: str, artifact: Artifact, stored: StoredObject
) -> Adapter:
    """Raises NotFound."""
    domain = domains.get(session, scope, domain_id, lock=True)
    return publish(session, scope, domain, artifact, stored, finetune_id=None)


def publish(
    session: Session,
    scope: Scope,
    domain: Domain,
    artifact: Artifact,
    stored: StoredObject,
    *,
    finetune_id: str | None,
    promote: bool = False,
) -> Adapter:
    """Adds the next version of a locked domain. It becomes active by itself when it is the first one, or when the
    active one was made for another base and so cannot draw any more."""
    manifest = artifact.manifest
    adapter = Adapter(
        id=new_id("adp"),
        tenant_id=domain.tenant_id,
        domain_id=domain.id,
        finetune_id=finetune_id,
        version=domain.next_version,
        status="ready",
        object_key=stored.key,
        sha256=stored.sha256,
        size_bytes=stored.size,
        parameters=sum(tensor.size for tensor in artifact.tensors.values()),
        base_digest=manifest.base_digest,
        method=manifest.method,
        preset=manifest.preset,
        manifest=manifest.to_json(),
    )
    active = domain.active_adapter_id and repository.get(session, Scope(domain.tenant_id), domain.active_adapter_id)
    session.add(adapter)
    domain.next_version += 1
    if promote or not active or active.base_digest != adapter.base_digest:
        domain.active_adapter_id = adapter.id
    session.flush()
    events.adapter(session, adapter, "created")
    origin = "upload" if finetune_id is None else "create"
    detail = {"domain_id": domain.id, "finetune_id": finetune_id}
    audit.record(session, scope, f"adapter.{origin}", adapter.id, tenant_id=domain.tenant_id, detail=detail)
    if domain.active_adapter_id == adapter.id:
        events.adapter(session, adapter, "promoted")
        audit.record(session, scope, "adapter.promote", adapter.id, tenant_id=domain.tenant_id, detail=detail)
    metering.add_stored_bytes(session, domain.id, stored.size)
    return adapter


def promote(session: Session, scope: Scope, domain_id: str, adapter_id: str) -> Domain:
    """Makes a version the domain's active one; promoting an older one is the way back.

    Raises NotFound, AdapterQuarantined.
    """
    domain = domains.get(session, scope, domain_id, lock=True)
    adapter = get(session, scope, adapter_id)
    if adapter.domain_id != domain.id:
        raise NotFound("adapter", adapter_id)
    if adapter.status != "ready":
        raise AdapterQuarantined(adapter_id)
    if domain.active_adapter_id != adapter.id:
        events.adapter(session, adapter, "promoted")
    domain.active_adapter_id = adapter.id
    session.flush()
    audit.record(session, scope, "adapter.promote", adapter_id, detail={"domain_id": domain_id})
    return domain


def quarantine(session: Session, adapter_id: str) -> None:
    """Takes an adapter whose stored file is broken out of service."""
    adapter = repository.get(session, SYSTEM, adapter_id)
    if adapter is not None and adapter.status != "quarantined":
        adapter.status = "quarantined"
        events.adapter(session, adapter, "quarantined")
        audit.record(session, SYSTEM, "adapter.quarantine", adapter.id, tenant_id=adapter.tenant_id)


def used(session: Session, adapter_id: str) -> None:
    adapter = repository.get(session, SYSTEM, adapter_id)
    if adapter is not None:
        adapter.last_used_at = database_now(session)


def deleted(session: Session, digests: Collection[str]) -> set[str]:
    """Returns those digests that no adapter of any tenant has any more."""
    return set(digests) - repository.stored(session, SYSTEM, digests)
