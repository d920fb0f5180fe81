"""Stored adapters: the versions of a domain, published by fine-tunes or uploaded by tenants. One version is active."""

import datetime
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import IO, Any, TypeVar

from sqlalchemy import ColumnElement, Select, String, column, exists, func, or_, select, update
from sqlalchemy.orm import Session

from core.artifact.base import BaseDescription
from core.artifact.errors import BaseMismatch, InvalidRequest, NotFound, UnknownClass
from core.artifact.file import Artifact, check_against, decode
from core.artifact.jobs import UNFINISHED
from core.artifact.sites import split_guided
from core.service import audit, deletions, domains, fleet, idempotency, metering
from core.service.db.base import new_id
from core.service.db.lookup import find, require
from core.service.db.models import Adapter, Deletion, Domain, Finetune, Generation
from core.service.db.paging import Page, PageRequest, created_between, fetch_page
from core.service.db.session import database_now
from core.service.errors import AdapterActive, AdapterInUse, AdapterQuarantined
from core.service.quotas import Quotas
from core.service.resources import Resources
from core.service.storage import StoredObject
from core.service.tenancy import Scope
from core.service.webhooks import events

_NAMED_JOBS = 5
"""Max jobs of each kind that the error of an adapter in use names."""
Statement = TypeVar("Statement", bound=Select[*tuple[Any, ...]])


def get(session: Session, id: str) -> Adapter:
    """Returns the adapter with this id. Raises NotFound."""
    return require(session, Adapter, "adapter", id)


def usable(session: Session, id: str, base: BaseDescription) -> Adapter:
    """Returns the adapter with this id, which jobs on the model `base` can use. Raises NotFound, BaseMismatch,
    AdapterQuarantined."""
    adapter = get(session, id)
    if adapter.base_digest != base.digest:
        raise BaseMismatch(adapter.base_digest, base.digest)
    if adapter.status != "ready":
        raise AdapterQuarantined(id)
    return adapter


def download(session: Session, id: str) -> Adapter:
    """Returns the adapter whose file the caller is about to send, and records the download in the audit log. Raises
    NotFound."""
    adapter = get(session, id)
    audit.record(session, "adapter.download", id)
    return adapter


@dataclass(frozen=True, kw_only=True)
class AdapterFilter:
    """Selection of adapters. None selects all."""

    domain_id: str | None = None
    name: str | None = None
    """Text that the name contains, in any case."""
    class_name: str | None = None
    """Current name of one of the adapter's classes."""
    created_after: datetime.datetime | None = None
    created_before: datetime.datetime | None = None


def page(session: Session, wanted: AdapterFilter, request: PageRequest) -> Page[Adapter]:
    """Returns a page of the tenant's adapters that `wanted` selects, newest first. Raises NotFound for a domain that
    does not exist, InvalidCursor."""
    statement = select(Adapter)
    if wanted.domain_id is not None:
        domains.get(session, wanted.domain_id)
        statement = statement.where(Adapter.domain_id == wanted.domain_id)
    if wanted.name is not None:
        statement = statement.where(Adapter.name.icontains(wanted.name, autoescape=True))
    if wanted.class_name is not None:
        statement = statement.where(_has_class(session, wanted.class_name))
    created = created_between(Adapter, Adapter.id, wanted.created_after, wanted.created_before)
    return fetch_page(session, statement.where(*created), Adapter.id, request)


@dataclass(frozen=True)
class Filters:
    """Conditions by which an administrator filters the list of all adapters; None means any value."""

    tenant_id: str | None = None
    domain_id: str | None = None
    base_digest: str | None = None
    status: str | None = None

    def apply(self, statement: Statement) -> Statement:
        wanted = asdict(self).items()
        return statement.where(*(getattr(Adapter, name) == value for name, value in wanted if value is not None))


def page_of_all(session: Session, filters: Filters, request: PageRequest) -> Page[Adapter]:
    """Returns a page of every tenant's adapters, newest first, for an administrator. Raises InvalidCursor."""
    return fetch_page(session, filters.apply(select(Adapter)), Adapter.id, request)


@dataclass(frozen=True)
class Totals:
    """Counts of adapters, tenants and domains, and the adapters' total bytes."""

    adapters: int
    tenants: int
    domains: int
    size_bytes: int


def totals(session: Session, filters: Filters) -> Totals:
    """Returns the totals of all tenants' adapters that pass the filters, for an administrator."""
    columns = (
        func.count(),
        func.count(Adapter.tenant_id.distinct()),
        func.count(Adapter.domain_id.distinct()),
        func.coalesce(func.sum(Adapter.size_bytes), 0),
    )
    counts = session.execute(filters.apply(select(*columns).select_from(Adapter))).one()
    return Totals(*map(int, counts))


def upload(resources: Resources, scope: Scope, domain_id: str, file: IO[bytes], size_bytes: int) -> Adapter:
    """Checks an uploaded adapter file against the base model that the workers have loaded, stores it, and adds it as
    the domain's next version. Raises NotFound, BaseNotLoaded, StorageQuotaExceeded, ArtifactInvalid, BaseMismatch,
    StorageUnavailable."""
    settings = resources.settings
    with resources.database.session(scope) as session:
        domains.get(session, domain_id)
        base = fleet.served_base(session, settings.base_model)
        Quotas(session, settings).admit_bytes(size_bytes)  # before anything is stored
    data = file.read()
    artifact = decode(data, settings.max_adapter_bytes)
    check_against(artifact, base)
    key = f"{domains.folder(scope.tenant, domain_id)}adapters/{new_id('adp')}.safetensors"
    stored = resources.store.put(key, data)
    with resources.database.session(scope) as session:
        Quotas(session, settings).admit_bytes(stored.size)
        return publish(session, domains.get(session, domain_id, lock=True), artifact, stored, finetune_id=None)


def publish(
    session: Session,
    domain: Domain,
    artifact: Artifact,
    stored: StoredObject,
    *,
    finetune_id: str | None,
    promote: bool = False,
) -> Adapter:
    """Adds a stored adapter as the domain's next version, and returns its row. The domain's row must be locked.

    The new version becomes the active one if `promote` is set, if the domain has no active version, or if the active
    version was trained on another base model and so may no longer be usable.
    """
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
        parameters=sum(tensor.size for tensor in split_guided(artifact.tensors)[0].values()),
        base_digest=manifest.base_digest,
        method=manifest.method,
        preset=manifest.preset,
        manifest=manifest.to_json(),
        class_names=list(manifest.class_names),
    )
    active = domain.active_adapter_id and find(session, Adapter, domain.active_adapter_id)
    session.add(adapter)
    domain.next_version += 1
    if promote or not active or active.base_digest != adapter.base_digest:
        domain.active_adapter_id = adapter.id
    session.flush()
    events.adapter(session, adapter, "created")
    origin = "upload" if finetune_id is None else "create"
    detail = {"domain_id": domain.id, "finetune_id": finetune_id}
    audit.record(session, f"adapter.{origin}", adapter.id, tenant_id=domain.tenant_id, detail=detail)
    if domain.active_adapter_id == adapter.id:
        events.adapter(session, adapter, "promoted")
        audit.record(session, "adapter.promote", adapter.id, tenant_id=domain.tenant_id, detail=detail)
    metering.add_stored_bytes(session, domain.id, stored.size)
    return adapter


def change(session: Session, id: str, changes: dict[str, Any]) -> Adapter:
    """Changes the name and note of an adapter, and renames classes: `class_names` in `changes` maps current names to
    new ones. The stored file keeps its names. Raises NotFound, UnknownClass, InvalidRequest if two classes would have
    the same name."""
    adapter = require(session, Adapter, "adapter", id, lock=True)
    renamed, current = changes.get("class_names") or {}, set(adapter.class_names)
    for old in renamed:
        if old not in current:
            raise UnknownClass(old, adapter.class_names)
    names = [renamed.get(name, name) for name in adapter.class_names]
    if len(set(names)) != len(names):
        raise InvalidRequest("body.class_names", "two classes would have the same name")
    for field, value in (changes | {"class_names": names}).items():
        setattr(adapter, field, value)
    session.flush()
    audit.record(session, "adapter.change", id, detail=changes)
    return adapter


def promote(session: Session, domain_id: str, adapter_id: str) -> Domain:
    """Makes an adapter the active version of its domain. To roll back, promote an older version.

    Raises NotFound, AdapterQuarantined.
    """
    domain = domains.get(session, domain_id, lock=True)
    adapter = get(session, adapter_id)
    if adapter.domain_id != domain.id:
        raise NotFound("adapter", adapter_id)
    if adapter.status != "ready":
        raise AdapterQuarantined(adapter_id)
    if domain.active_adapter_id != adapter.id:
        events.adapter(session, adapter, "promoted")
    domain.active_adapter_id = adapter.id
    session.flush()
    audit.record(session, "adapter.promote", adapter_id, detail={"domain_id": domain_id})
    return domain


def delete(session: Session, id: str) -> Deletion:
    """Deletes an adapter, and returns the receipt of the deletion. Its generated images stay. Workers delete the stored
    file later, and evict the adapter from memory. Raises NotFound, AdapterActive, and AdapterInUse while an unfinished
    job needs it."""
    domain = domains.get(session, get(session, id).domain_id, lock=True)
    adapter = require(session, Adapter, "adapter", id, lock=True)  # another call may have deleted it meanwhile
    if domain.active_adapter_id == id:
        raise AdapterActive(id)
    if jobs := _unfinished_jobs(session, id):
        raise AdapterInUse(id, jobs)
    rows, digests = {Adapter.__tablename__: 1}, [adapter.sha256]
    deletion = deletions.receipt(
        session, "adapter", id, adapter.tenant_id, adapter.object_key, rows=rows, adapters=digests
    )
    idempotency.forget(session, adapter.tenant_id, id)
    session.execute(update(Finetune).where(Finetune.adapter_id == id).values(adapter_id=None))
    session.delete(adapter)
    audit.record(session, "adapter.delete", id, detail={"deletion": deletion.id})
    metering.add_stored_bytes(session, domain.id, -adapter.size_bytes)
    return deletion


def quarantine(session: Session, adapter_id: str) -> None:
    """Marks an adapter as quarantined, so that no generation uses it, because its stored file is broken. Does nothing
    if the adapter is gone. The session must be a worker's, which sees every tenant's rows."""
    adapter = find(session, Adapter, adapter_id, lock=True)
    if adapter is not None and adapter.status != "quarantined":
        adapter.status = "quarantined"
        events.adapter(session, adapter, "quarantined")
        audit.record(session, "adapter.quarantine", adapter.id, tenant_id=adapter.tenant_id)


def used(session: Session, adapter_id: str) -> None:
    """Sets the time of an adapter's last use to now. Does nothing if the adapter is gone. The session must be a
    worker's, which sees every tenant's rows."""
    adapter = find(session, Adapter, adapter_id)
    if adapter is not None:
        adapter.last_used_at = database_now(session)


def deleted(session: Session, digests: Collection[str]) -> set[str]:
    """Returns the digests, out of `digests` (SHA-256 of adapter files), that no adapter of any tenant has any more.
    The session must be a worker's, which sees every tenant's rows."""
    stored = select(Adapter.sha256).where(Adapter.sha256.in_(digests)).distinct()
    return set(digests) - set(session.scalars(stored))


def _has_class(session: Session, name: str) -> ColumnElement[bool]:
    """Returns the SQL condition that an adapter has a class with this name."""
    elements = "jsonb_array_elements_text" if session.get_bind().dialect.name == "postgresql" else "json_each"
    names = getattr(func, elements)(Adapter.class_names).table_valued(column("value", String))
    return exists().where(names.c.value == name)


def _unfinished_jobs(session: Session, id: str) -> list[str]:
    """Returns the ids of unfinished generations and fine-tunes that need an adapter, up to `_NAMED_JOBS` of each."""
    needs = or_(Generation.adapter_id == id, Generation.mix_adapter_id == id)
    generations = select(Generation.id).where(needs, Generation.status.in_(UNFINISHED))
    finetunes = select(Finetune.id).where(Finetune.from_adapter_id == id, Finetune.status.in_(UNFINISHED))
    return [job for jobs in (generations, finetunes) for job in session.scalars(jobs.limit(_NAMED_JOBS))]
