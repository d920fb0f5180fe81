"""Routes of generated images: list, get, download, change, delete."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.archives import image_files, zip_response, zipped
from api.auth import ReaderDep, ViewerDep, WriterDep
from api.deps import DatabaseDep, PageDep, Services, ServicesDep
from api.errors import ServiceBusy, TooManyTransfers
from api.filters import ImageFilterDep, OwnedImageFilterDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.pngs import IMAGE, OPTIONAL_KEY, UNCHANGED, png
from api.schemas.common import Listing, changes, listing
from api.schemas.images import ImageChange, ImagesDeletedOut, ImageSelection, StoredImageOut
from api.signing import signer
from api.streams import ArchiveStream
from api.threads import STORE, runs_in
from core.artifact.errors import ChecksumMismatch, NotFound
from core.service import generations, images
from core.service.db.models import GenerationImage
from core.service.errors import ImageExpired
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import Scope

router = APIRouter(prefix="/v1", tags=["images"], route_class=IdempotentRoute)
IMAGE_PATH = "/generations/{id}/images/{index}"
PREVIEW_PATH = "/generations/{id}/previews/{index}/{step}"
ZIP = zip_response("PNG files, and `metadata.jsonl` with a line of JSON for each.")
Index = Annotated[int, Path(ge=0, lt=2**31)]


@router.get("/images", operation_id="list_images", responses=problems(NotFound))
def list_images(
    request: Request, database: DatabaseDep, scope: ReaderDep, page: PageDep, wanted: OwnedImageFilterDep
) -> Listing[StoredImageOut]:
    """List the images of all your domains, newest first."""
    with database.reading(scope) as session:
        signed = signer(request)
        return listing(images.page(session, wanted, page), lambda row: StoredImageOut.of(row, signed))


@router.get("/domains/{id}/images", operation_id="list_domain_images", responses=problems(NotFound))
def list_domain_images(
    id: str, request: Request, database: DatabaseDep, scope: ReaderDep, page: PageDep, wanted: ImageFilterDep
) -> Listing[StoredImageOut]:
    """List a domain's images, newest first."""
    with database.reading(scope) as session:
        signed = signer(request)
        rows = images.page(session, replace(wanted, domain_id=id), page)
        return listing(rows, lambda row: StoredImageOut.of(row, signed))


@router.post("/images/delete", operation_id="delete_images")
def delete_images(body: ImageSelection, database: DatabaseDep, scope: WriterDep) -> ImagesDeletedOut:
    """Delete images by their ids. Ids of images that do not exist are skipped. The files are removed in the
    background."""
    with database.session(scope) as session:
        return ImagesDeletedOut(deleted=images.delete_many(session, body.ids))


@router.post(
    "/images/download",
    operation_id="download_images",
    response_class=Response,
    responses={200: ZIP, **problems(NotFound, StorageUnavailable, ChecksumMismatch, TooManyTransfers, ServiceBusy)},
)
async def download_images(body: ImageSelection, scope: ReaderDep, services: ServicesDep) -> Response:
    """Download images by their ids as a zip."""
    rows = await run_in_threadpool(_select, services, scope, body.ids)
    return await _zip(services, scope, rows, "images")


@router.get(
    "/generations/{id}/download",
    operation_id="download_generation",
    response_class=Response,
    responses={
        200: ZIP,
        **problems(NotFound, ImageExpired, StorageUnavailable, ChecksumMismatch, TooManyTransfers, ServiceBusy),
    },
)
async def download_generation(id: str, scope: ReaderDep, services: ServicesDep) -> Response:
    """Download the images of a generation as a zip."""
    rows = await run_in_threadpool(_of_generation, services, scope, id)
    return await _zip(services, scope, rows, id)


@router.head(IMAGE_PATH, include_in_schema=False)
@router.get(
    IMAGE_PATH,
    operation_id="get_image",
    response_class=Response,
    responses={200: IMAGE, **UNCHANGED, **problems(NotFound, ImageExpired, StorageUnavailable, ChecksumMismatch)},
    openapi_extra=OPTIONAL_KEY,
)
@runs_in(STORE)
def get_image(id: str, index: Index, request: Request, scope: ViewerDep, services: ServicesDep) -> Response:
    """Get an image of a generation as PNG. Needs an API key or a signed URL."""
    with services.database.reading(scope) as session:
        image = generations.image(session, id, index)
    read = partial(services.store.get, image.object_key, image.sha256)
    return png(request, read, image.sha256, image.size_bytes, name=f"{id}-{index}.png")


@router.head(PREVIEW_PATH, include_in_schema=False)
@router.get(
    PREVIEW_PATH,
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
    with services.database.reading(scope) as session:
        preview = generations.preview(session, id, index, step)
    return png(
        request, partial(services.store.get, preview.object_key, preview.sha256), preview.sha256, preview.size_bytes
    )


@router.patch(IMAGE_PATH, operation_id="change_image", responses=problems(NotFound, ImageExpired))
def change_image(
    id: str, index: Index, body: ImageChange, request: Request, database: DatabaseDep, scope: WriterDep
) -> StoredImageOut:
    """Mark an image as a favourite, or label it."""
    with database.session(scope) as session:
        return StoredImageOut.of(images.change(session, id, index, changes(body)), signer(request))


@router.delete(
    IMAGE_PATH,
    status_code=204,
    operation_id="delete_image",
    responses=problems(NotFound, ImageExpired),
)
def delete_image(id: str, index: Index, database: DatabaseDep, scope: WriterDep) -> None:
    """Delete an image. Its file is removed in the background."""
    with database.session(scope) as session:
        images.delete(session, id, index)


def _select(services: Services, scope: Scope, ids: list[str]) -> list[GenerationImage]:
    with services.database.reading(scope) as session:
        return images.select_many(session, ids)


def _of_generation(services: Services, scope: Scope, id: str) -> list[GenerationImage]:
    with services.database.reading(scope) as session:
        return images.of_generation(session, id)


async def _zip(services: Services, scope: Scope, rows: list[GenerationImage], name: str) -> Response:
    """Returns a response with the images as a zip. Reads the first image before the response starts, so that an object
    store that does not respond gives an error response."""
    place = services.limits.transfers.count.take(scope.tenant)
    return await ArchiveStream.of(zipped(image_files(services.store, rows)), place, f"{name}.zip")
