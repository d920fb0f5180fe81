"""Routes of domains: create, list, get, change, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.auth import ReaderDep, WriterDep
from api.deps import OF_NAME, DatabaseDep, IfMatch, PageDep, ServicesDep
from api.idempotency import IdempotentRoute
from api.openapi import deleted, problems, tagged
from api.routes.covers import with_cover, with_covers
from api.schemas.common import Listing, Name, changes, listing
from api.schemas.domains import DomainChange, DomainCreate, DomainOut
from core.artifact.errors import NotFound
from core.service import domains, etags
from core.service.errors import ChangedMeanwhile, DomainInUse, NameTaken

router = APIRouter(prefix="/v1/domains", tags=["domains"], route_class=IdempotentRoute)


@router.post("", status_code=201, operation_id="create_domain", responses=problems(NameTaken))
def create_domain(body: DomainCreate, database: DatabaseDep, scope: WriterDep, services: ServicesDep) -> DomainOut:
    """Create a domain: an image style that the base model is fine-tuned for."""
    with database.session(scope) as session:
        base = services.settings.base_model
        return DomainOut.model_validate(domains.create(session, body.name, body.description, base))


@router.get("", operation_id="list_domains")
def list_domains(
    request: Request,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    name: OF_NAME = None,
    name_contains: Annotated[
        Name | None, Query(description="Only domains whose name contains this text, in any case.")
    ] = None,
) -> Listing[DomainOut]:
    """List your domains, newest first."""
    with database.reading(scope) as session:
        rows = domains.page(session, page, name, name_contains)
        covers = with_covers(session, request, rows.data)
        return listing(rows, lambda row: covers[row.id])


@router.get("/{id}", operation_id="get_domain", responses=tagged(NotFound))
def get_domain(id: str, request: Request, response: Response, database: DatabaseDep, scope: ReaderDep) -> DomainOut:
    """Get a domain."""
    with database.reading(scope) as session:
        domain = domains.get(session, id)
        response.headers["ETag"] = etags.tag(domain)
        return with_cover(session, request, domain)


@router.patch("/{id}", operation_id="change_domain", responses=tagged(NotFound, NameTaken, ChangedMeanwhile))
def change_domain(
    id: str,
    body: DomainChange,
    request: Request,
    response: Response,
    database: DatabaseDep,
    scope: WriterDep,
    if_match: IfMatch = None,
) -> DomainOut:
    """Change a domain's name, description, or storage period of images."""
    with database.session(scope) as session:
        domain = domains.change(session, id, changes(body), if_match)
        response.headers["ETag"] = etags.tag(domain)
        return with_cover(session, request, domain)


@router.delete("/{id}", status_code=204, operation_id="delete_domain", responses=deleted(NotFound, DomainInUse))
def delete_domain(id: str, response: Response, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete a domain with its data sets, fine-tunes, adapters and images, unless an unfinished copy or fine-tune of
    another domain needs its data sets or adapters. `Location` points to the receipt of the deletion."""
    with database.session(scope) as session:
        deletion = domains.delete(session, id)
    response.headers["Location"] = f"/v1/deletions/{deletion.id}"
