"""Receipts of what a tenant has deleted."""

from fastapi import APIRouter

from api.auth import ReaderDep
from api.deps import DatabaseDep, PageDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.schemas.common import Listing, listing
from api.schemas.deletions import DeletionOut, DeletionReceiptOut
from core.artifact.errors import NotFound
from core.service.deletions import service as deletions

router = APIRouter(prefix="/v1/deletions", tags=["deletions"], route_class=IdempotentRoute)


@router.get("", operation_id="list_deletions")
def list_deletions(database: DatabaseDep, scope: ReaderDep, page: PageDep) -> Listing[DeletionOut]:
    """Receipts of the domains that you deleted, newest first."""
    with database.session(scope) as session:
        return listing(deletions.listing(session, scope, page), DeletionOut.model_validate)


@router.get("/{id}", operation_id="get_deletion", responses=problems(NotFound))
def get_deletion(id: str, database: DatabaseDep, scope: ReaderDep) -> DeletionReceiptOut:
    """One receipt: what was deleted, and when the last of it was gone."""
    with database.session(scope) as session:
        return DeletionReceiptOut.model_validate(deletions.get(session, scope, id))
