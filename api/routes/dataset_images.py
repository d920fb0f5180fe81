"""Routes of a data set's images: list, thumbnails."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from api.auth import ReaderDep, ViewerDep
from api.deps import DatabaseDep, PageDep, ServicesDep
from api.idempotency import IdempotentRoute
from api.openapi import problems
from api.pngs import IMAGE, OPTIONAL_KEY, UNCHANGED, png
from api.schemas.common import Listing, listing
from api.schemas.datasets import DatasetImageOut, ImageWarningCode
from api.signing import signer
from api.threads import STORE, runs_in
from core.artifact.errors import NotFound
from core.service.datasets import contents
from core.service.datasets import service as datasets
from core.service.storage.errors import StorageUnavailable

router = APIRouter(prefix="/v1/datasets/{id}/images", tags=["datasets"], route_class=IdempotentRoute)
_JPEG = {**IMAGE, "content": {"image/jpeg": IMAGE["content"]["image/png"]}, "description": "The thumbnail."}


@router.get("", operation_id="list_dataset_images", responses=problems(NotFound))
def list_dataset_images(
    id: str,
    request: Request,
    database: DatabaseDep,
    scope: ReaderDep,
    page: PageDep,
    class_id: Annotated[int | None, Query(ge=0, lt=2**31, description="Only images of this class.")] = None,
    warning: Annotated[ImageWarningCode | None, Query(description="Only images with this warning.")] = None,
) -> Listing[DatasetImageOut]:
    """List the accepted images of a data set with their classes, sizes, thumbnails and warnings, in the order of the
    files in the zip."""
    with database.reading(scope) as session:
        dataset, only, signed = datasets.get(session, id), contents.ImageFilter(class_id, warning), signer(request)
        entries = contents.images(session, id, page, only)
        return listing(entries, lambda entry: DatasetImageOut.of(dataset, entry, signed))


@router.get(
    "/{number}/thumbnail",
    operation_id="get_dataset_thumbnail",
    response_class=Response,
    responses={200: _JPEG, **UNCHANGED, **problems(NotFound, StorageUnavailable)},
    openapi_extra=OPTIONAL_KEY,
)
@runs_in(STORE)
def get_dataset_thumbnail(
    id: str, number: Annotated[int, Path(ge=1, lt=2**31)], request: Request, scope: ViewerDep, services: ServicesDep
) -> Response:
    """Get a JPEG thumbnail of an image's centered square, which is what training sees. Needs an API key or a signed
    URL."""
    with services.database.reading(scope) as session:
        thumbnail = contents.thumbnail(session, id, number)
    return png(request, partial(thumbnail.read, services.store), media_type="image/jpeg")
