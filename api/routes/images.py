"""Routes of generated images: list, get, change, delete."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from api.auth import ReaderDep, ViewerDep, WriterDep
from api.deps import DatabaseDep, PageDep, ServicesDep
from api.filters import ImageFilterDep, OwnedImageFilterDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.pngs import IMAGE, OPTIONAL_KEY, UNCHANGED, png
from api.schemas.common import Listing, changes, listing
from api.schemas.images import ImageChange, ImagesDeletedOut, ImageSelection, StoredImageOut
from api.signing import signer
from api.threads import STORE, runs_in
from core.artifact.errors import ChecksumMismatch, NotFound
from core.service import generations, images
from core.service.errors import ImageExpired
from core.service.storage.errors import StorageUnavailable

router = APIRouter(prefix="/v1", tags=["images"], route_class=IdempotentRoute)
Index = Annotated[int, Path(ge=0, lt=2**31)]


@router.get("/images", operation_id="list_images", responses=problems(NotFound))
def list_images(
    request: Request, database: DatabaseDep, scope: ReaderDep, page: PageDep, wanted: OwnedImageFilterDep
) -> Listing[StoredImageOut]:
    """List the images of all your domains, newest first."""
    with database.session(scope) as session:
        signed = signer(request)
        return listing(images.page(session, wanted, page), lambda row: StoredImageOut.of(row, signed))


@router.get("/domains/{id}/images", operation_id="list_domain_images", responses=problems(NotFound))
def list_domain_images(
    id: str, request: Request, database: DatabaseDep, scope: ReaderDep, page: PageDep, wanted: ImageFilterDep
) -> Listing[StoredImageOut]:
    """List a domain's images, newest first."""
    with database.session(scope) as session:
        signed = signer(request)
        rows = images.page(session, replace(wanted, domain_id=id), page)
        return listing(rows, lambda row: StoredImageOut.of(row, signed))


@router.post("/images/delete", operation_id="delete_images")
def delete_images(body: ImageSelection, database: DatabaseDep, scope: WriterDep) -> ImagesDeletedOut:
    """Delete images by their ids. Ids of images that do not exist are skipped. The files are removed in the
    background."""
    with database.session(scope) as session:
        return ImagesDeletedOut(deleted=images.delete_many(session, body.ids))


@router.get(
    "/generations/{id}/images/{index}",
    operation_id="get_image",
    response_class=Response,
    responses={200: IMAGE, **UNCHANGED, **problems(NotFound, ImageExpired, StorageUnavailable, ChecksumMismatch)},
    openapi_extra=OPTIONAL_KEY,
)
@runs_in(STORE)
def get_image(id: str, index: Index, request: Request, scope: ViewerDep, services: ServicesDep) -> Response:
    """Get an image of a generation as PNG. Needs an API key or a signed URL."""
    with services.database.session(scope) as session:
        image = generations.image(session, id, index)
    return png(request, partial(services.store.get, image.object_key, image.sha256), image.sha256)


@router.get(
    "/generations/{id}/previews/{index}/{step}",
    operation_id="get_preview",
    response_class=Response,
    responses={200: IMAGE, **UNCHANGED, **problems(NotFound, ImageExpired, StorageUnavailable, ChecksumMismatch)},
    openapi_extra=OPTIONAL_KEY,
)
@runs_in(STORE)
def get_preview(
    id: str, index: Index, step: Index, request: Request, scope: ViewerDep, services: ServicesDep
) -> Response:
    """Get a preview of an image as PNG, as predicted after a sampling step. Needs an API key or a signed URL."""
    with services.database.session(scope) as session:
        preview = generations.preview(session, id, index, step)
    return png(request, partial(services.store.get, preview.object_key, preview.sha256), preview.sha256)


@router.patch(
    "/generations/{id}/images/{index}", operation_id="change_image", responses=problems(NotFound, ImageExpired)
)
def change_image(
    id: str, index: Index, body: ImageChange, request: Request, database: DatabaseDep, scope: WriterDep
) -> StoredImageOut:
    """Mark an image as a favourite, or label it."""
    with database.session(scope) as session:
        return StoredImageOut.of(images.change(session, id, index, changes(body)), signer(request))


@router.delete(
    "/generations/{id}/images/{index}",
    status_code=204,
    operation_id="delete_image",
    responses=problems(NotFound, ImageExpired),
)
def delete_image(id: str, index: Index, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete an image. Its file is removed in the background."""
    with database.session(scope) as session:
        images.delete(session, id, index)
