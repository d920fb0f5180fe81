"""Client calls for generated images: find, mark, label, delete."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from difffit._async.backend import away
from difffit._async.session import AsyncPages, AsyncSession, given
from difffit.archives import save_file
from difffit.errors import InvalidInput
from difffit.filters import ImageFilters, query
from difffit.models import ImagesDeleted, StoredImage, StoredImageList

_AT_ONCE = 500
"""Maximum number of images that one request may name."""


class AsyncImages:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(
        self, domain_id: str | None = None, limit: int | None = None, **filters: Unpack[ImageFilters]
    ) -> AsyncPages[StoredImage]:
        """Yields the images of a domain, or of all your domains, newest first. With filters, yields only the images
        that match all of them."""
        if domain_id is None:
            return self._session.pages("/v1/images", StoredImageList, limit, query(filters))
        return self._session.pages("/v1/domains/{id}/images", StoredImageList, limit, query(filters), id=domain_id)

    async def update(self, id: str, *, favourite: bool | None = None, label: str | None = None) -> StoredImage:
        """Marks an image as a favourite, or labels it. None keeps the current value, an empty label removes it."""
        generation_id, index = _parts(id)
        body = given({"favourite": favourite}) | ({} if label is None else {"label": label or None})
        path = "/v1/generations/{id}/images/{index}"
        return await self._session.call("PATCH", path, StoredImage, body=body, id=generation_id, index=index)

    async def download(self, ids: Sequence[str], path: str | Path) -> Path:
        """Downloads up to 500 images as a zip file, and returns the file's path. In a folder it is named `images.zip`.
        Raises NotFound if one of the images does not exist."""
        response = await self._session.send("POST", "/v1/images/download", body={"ids": list(ids)})
        return await away(save_file, response.content, Path(path), "images.zip")

    async def delete(self, ids: Sequence[str]) -> tuple[str, ...]:
        """Deletes images, and returns the ids of those that were there."""
        deleted: tuple[str, ...] = ()
        for start in range(0, len(ids), _AT_ONCE):
            body = {"ids": list(ids[start : start + _AT_ONCE])}
            response = await self._session.call("POST", "/v1/images/delete", ImagesDeleted, body=body)
            deleted += tuple(response.deleted)
        return deleted


def _parts(id: str) -> tuple[str, str]:
    """Splits an image id such as `gen_01jd…/0` into the generation's id and the image's index. Raises InvalidInput."""
    generation_id, _, index = id.partition("/")
    if not index.isdecimal():
        raise InvalidInput(f"'{id}' is no image id. Image ids look like 'gen_01m84b6j5r0q4d8n8c6t8y9k2p/0'.")
    return generation_id, index
