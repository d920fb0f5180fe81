"""Queries on generations."""

from functools import cache

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session, lazyload

from core.service.db.models import Generation, GenerationImage, GenerationPreview
from core.service.db.paging import Page, PageRequest, fetch_page
from core.service.tenancy import ANY_TENANT, SYSTEM, Scope, scoped


def get(session: Session, scope: Scope, id: str) -> Generation | None:
    asked = {"wanted": id} if scope.tenant_id is None else {"wanted": id, "tenant": scope.tenant_id}
    return session.execute(_by_id(scope.tenant_id is None), asked).scalar_one_or_none()


@cache
def _by_id(of_every_tenant: bool) -> Select[Generation]:
    """Made once: whoever waits asks again and again, and to make it takes as long as to run it. Images and previews are
    read when they are asked for: while it waits it has none."""
    later = (lazyload(Generation.images), lazyload(Generation.previews))
    statement = scoped(select(Generation), Generation, SYSTEM if of_every_tenant else ANY_TENANT)
    return statement.where(Generation.id == bindparam("wanted")).options(*later)


def page(session: Session, scope: Scope, domain_id: str, request: PageRequest) -> Page[Generation]:
    statement = scoped(select(Generation), Generation, scope).where(Generation.domain_id == domain_id)
    return fetch_page(session, statement, Generation.id, request)


def image(session: Session, scope: Scope, id: str, index: int) -> GenerationImage | None:
    statement = scoped(select(GenerationImage), GenerationImage, scope).where(
        GenerationImage.generation_id == id, GenerationImage.index == index
    )
    return session.execute(statement).scalar_one_or_none()


def preview(session: Session, scope: Scope, id: str, index: int, step: int) -> GenerationPreview | None:
    statement = scoped(select(GenerationPreview), GenerationPreview, scope).where(
        GenerationPreview.generation_id == id, GenerationPreview.index == index, GenerationPreview.step == step
    )
    return session.execute(statement).scalar_one_or_none()
