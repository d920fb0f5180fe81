"""Routes of deletion receipts, which record what a tenant has deleted."""

from fastapi import APIRouter

from api.auth import ReaderDep
from api.deps import DatabaseDep, PageDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.schemas.common import Listing, listing
from api.schemas.deletions import DeletionOut, DeletionReceiptOut
from core.artifact.errors import NotFound
from core.service import deletions

router = APIRouter(prefix="/v1/deletions", tags=["deletions"], route_class=IdempotentRoute)


@router.get("", operation_id="list_deletions")
def list_deletions(database: DatabaseDep, scope: ReaderDep, page: PageDep) -> Listing[DeletionOut]:
    """List the receipts of your deletions, newest first."""
    with database.reading(scope) as session:
        return listing(deletions.page(session, page), DeletionOut.model_validate)


@router.get("/{id}", operation_id="get_deletion", responses=problems(NotFound))
def get_deletion(id: str, database: DatabaseDep, scope: ReaderDep) -> DeletionReceiptOut:
    """Get a deletion receipt: what was deleted, and when the deletion was complete."""
    with database.reading(scope) as session:
        return DeletionReceiptOut.model_validate(deletions.get(session, id))
