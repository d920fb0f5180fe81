"""Domains of a tenant. A domain is an image style, with the data sets, fine-tunes, adapters and generations for it."""

from collections.abc import Collection, Sequence

from sqlalchemy import Select, select, tuple_
from sqlalchemy.orm import Session, aliased

from core.artifact.errors import NotFound
from core.artifact.jobs import UNFINISHED
from core.service import audit, deletions, etags, idempotency, jobs
from core.service.db.base import new_id
from core.service.db.isolation import scope_of
from core.service.db.lookup import require
from core.service.db.models import (
    Adapter,
    Dataset,
    Deletion,
    Domain,
    Finetune,
    Generation,
    GenerationImage,
    StoredBytes,
)
from core.service.db.names import named_once
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.errors import DomainInUse, NameTaken

NAMED_JOBS = 5
"""Max jobs of each kind that the error of a domain or data set in use names."""
_COVER_CANDIDATES = 2000
"""Number of a version's newest generations that are searched for the cover of its domain. Without this limit, a search
through generations that failed or whose images were deleted could take seconds."""


def create(session: Session, name: str, description: str, base_model: str) -> Domain:
    """Creates a domain of the session's tenant. Raises NameTaken."""
    _check_free(session, name)
    tenant_id = scope_of(session).tenant
    domain = Domain(id=new_id("dom"), tenant_id=tenant_id, name=name, description=description, base_model=base_model)
    session.add(domain)
    with named_once(session, "domain", name):
        session.flush()
    session.add(StoredBytes(domain_id=domain.id, tenant_id=tenant_id, bytes=0))
    audit.record(session, "domain.create", domain.id)
    return domain


def get(session: Session, id: str, *, lock: bool = False) -> Domain:
    """Returns the domain with this id. Raises NotFound, also for another tenant's domain."""
    return require(session, Domain, "domain", id, lock=lock)


def page(
    session: Session, request: PageRequest, name: str | None = None, name_contains: str | None = None
) -> Page[Domain]:
    """Returns a page of the session's tenant's domains, newest first: with `name`, only the domain with this name, with
    `name_contains`, only domains whose name contains this text, in upper or lower case. Raises InvalidCursor."""
    statement = select(Domain).where(Domain.deleted_at.is_(None))
    if name is not None:
        statement = statement.where(Domain.name == name)
    if name_contains is not None:
        statement = statement.where(Domain.name.icontains(name_contains, autoescape=True))
    return fetch_page(session, statement, Domain.id, request)


def names(session: Session, ids: Collection[str]) -> dict[str, str]:
    """Returns the names of domains by their ids. Leaves out domains that do not exist."""
    return dict(session.execute(select(Domain.id, Domain.name).where(Domain.id.in_(ids))).all())


def covers(session: Session, ids: Sequence[str]) -> dict[str, str]:
    """Returns, by domain id, the id of the newest successful generation of the domain's active version that still has
    its first image, which is the domain's cover. Leaves out domains without such a generation among the newest
    `_COVER_CANDIDATES` of the version."""
    # Compares with a range of the index (adapter_id, id) instead of `adapter_id = …`: with equality PostgreSQL may scan
    # the generations of all adapters by their id until it meets one of this adapter.
    position, active = tuple_(Generation.adapter_id, Generation.id), Domain.active_adapter_id
    candidates = (
        select(Generation.id, Generation.status)
        .where(position > tuple_(active, ""), position < tuple_(active, "h"), Generation.expired_at.is_(None))
        .order_by(Generation.adapter_id.desc(), Generation.id.desc())
        .limit(_COVER_CANDIDATES)
        .correlate(Domain)
        .subquery()
    )
    # Both databases filter the candidates in their order, and stop at the first that remains. With EXISTS, PostgreSQL
    # might join all of them with the images in another order.
    image = select(GenerationImage.index).where(
        GenerationImage.generation_id == candidates.c.id, GenerationImage.index == 0
    )
    newest = (
        select(candidates.c.id)
        .where(candidates.c.status == "succeeded", image.scalar_subquery().is_not(None))
        .limit(1)
        .scalar_subquery()
    )
    pairs = session.execute(select(Domain.id, newest).where(Domain.id.in_(ids)))
    return {domain: generation for domain, generation in pairs if generation is not None}


def change(session: Session, id: str, changes: dict[str, object], seen: str | None = None) -> Domain:
    """Changes a domain's columns to the values in `changes`, such as `name` and `description`. `seen` is the request's
    If-Match header. Raises NotFound, NameTaken, ChangedMeanwhile."""
    domain = get(session, id, lock=True)
    etags.require_match(domain, seen)
    name = changes.get("name")
    if isinstance(name, str) and name != domain.name:
        _check_free(session, name)
        with named_once(session, "domain", name):
            domain.name = name
            session.flush()
    for field, value in changes.items():
        setattr(domain, field, value)
    session.flush()
    audit.record(session, "domain.change", id, detail=changes)
    return domain


def delete(session: Session, id: str) -> Deletion:
    """Deletes a domain with all it owns, and returns the receipt of the deletion. Also deletes the responses stored for
    idempotency keys that contain the domain. Workers delete the domain's stored objects later, and its rows too if
    there are very many. Running jobs stop, since their rows are gone. Generations of other domains that mix a version
    of this domain into theirs fail. Raises NotFound, and DomainInUse while an unfinished copy or fine-tune of
    another domain needs a data set or version of this domain."""
    domain = get(session, id, lock=True)
    if needed_by := _jobs_elsewhere(session, id):
        raise DomainInUse(id, needed_by)
    mixes = _unfinished_mixes(session, id)
    deletion = deletions.record(session, domain, folder(domain.tenant_id, id))
    idempotency.forget(session, domain.tenant_id, id)
    deletions.remove(session, deletion, domain)
    for generation in mixes:
        jobs.fail(session, generation, NotFound("adapter", str(generation.mix_adapter_id)))
    audit.record(session, "domain.delete", id, detail={"deletion": deletion.id})
    return deletion


def folder(tenant_id: str, domain_id: str) -> str:
    """Returns the storage key prefix of all objects that belong to a domain."""
    return f"tenants/{tenant_id}/domains/{domain_id}/"


def unfinished_copies(id: str) -> Select[str]:
    """Returns the query for the ids of unfinished copies of a domain's data sets in other domains."""
    original = aliased(Dataset)
    copies = select(Dataset.id).join(original, original.id == Dataset.parent_id)
    return copies.where(original.domain_id == id, Dataset.domain_id != id, Dataset.status == "validating")


def _jobs_elsewhere(session: Session, id: str) -> list[str]:
    """Returns the ids of unfinished fine-tunes and copies of other domains that read files of this domain, up to
    `NAMED_JOBS` of each."""
    versions = select(Adapter.id).where(Adapter.domain_id == id)
    finetunes = select(Finetune.id).where(Finetune.from_adapter_id.in_(versions), Finetune.domain_id != id)
    jobs = (finetunes.where(Finetune.status.in_(UNFINISHED)), unfinished_copies(id))
    return [job for each in jobs for job in session.scalars(each.limit(NAMED_JOBS))]


def _unfinished_mixes(session: Session, id: str) -> Sequence[Generation]:
    """Returns, locked, the unfinished generations of other domains that need a version of this domain. Once they are
    marked as failed, a worker that runs one of them stops, since it loses its claim."""
    versions = select(Adapter.id).where(Adapter.domain_id == id)
    statement = select(Generation).where(Generation.mix_adapter_id.in_(versions), Generation.domain_id != id)
    return session.scalars(statement.where(Generation.status.in_(UNFINISHED)).with_for_update()).all()


def _check_free(session: Session, name: str) -> None:
    if session.scalar(select(Domain.id).where(Domain.name == name)) is not None:
        raise NameTaken("domain", name)
