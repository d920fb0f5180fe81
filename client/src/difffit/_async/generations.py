"""Client calls for generations, the jobs that generate images with a domain's adapter."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Unpack

from difffit._async.backend import away
from difffit._async.session import AsyncPages, AsyncSession, Model, given, receipt
from difffit._async.waiting import MAX_SECONDS, ended
from difffit.archives import save_file
from difffit.errors import BadDownload
from difffit.filters import GenerationFilters, query
from difffit.models import Generation, GenerationBatch, GenerationList, Image
from difffit.pictures import Picture
from difffit.requests import GenerationSettings

_READ_SECONDS = 60.0


class AsyncGenerations:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def create(
        self, domain_id: str, *, prefer_wait: int = 0, **settings: Unpack[GenerationSettings]
    ) -> Generation:
        """Starts a generation, which makes images of one class, and returns its state. Omitted settings take the
        server's defaults. With `prefer_wait`, the server responds when the images are finished, or after `prefer_wait`
        seconds (at most 60).

        Raises NoActiveAdapter, BaseMismatch, InvalidRequest, TooManyRequests.
        """
        return await self._create(domain_id, "/v1/domains/{id}/generations", Generation, settings, prefer_wait)

    async def create_batch(
        self,
        domain_id: str,
        classes: Mapping[str, int] | Sequence[str],
        *,
        prefer_wait: int = 0,
        **settings: Unpack[GenerationSettings],
    ) -> tuple[Generation, ...]:
        """Starts a generation for each of several classes in one request, or none if one of them is rejected, and
        returns their states. `classes` has the class names, or the number of images of each. All classes get the same
        seeds. The settings are those of `create`.

        Raises NoActiveAdapter, BaseMismatch, InvalidRequest, TooManyRequests.
        """
        counts = classes if isinstance(classes, Mapping) else dict.fromkeys(classes)
        asked = [given({"class_name": name, "count": count}) for name, count in counts.items()]
        body = {**settings, "classes": asked}
        path = "/v1/domains/{id}/generations/batches"
        return tuple((await self._create(domain_id, path, GenerationBatch, body, prefer_wait)).data)

    def list(
        self,
        domain_id: str | None = None,
        limit: int | None = None,
        *,
        status: str | None = None,
        **filters: Unpack[GenerationFilters],
    ) -> AsyncPages[Generation]:
        """Yields the generations of a domain, or of all your domains, newest first. With a status or filters, yields
        only the generations that match all of them."""
        asked = {"status": status, **query(filters)}
        if domain_id is None:
            return self._session.pages("/v1/generations", GenerationList, limit, asked)
        return self._session.pages("/v1/domains/{id}/generations", GenerationList, limit, asked, id=domain_id)

    async def get(self, id: str) -> Generation:
        return await self._session.call("GET", "/v1/generations/{id}", Generation, id=id)

    async def cancel(self, id: str) -> Generation:
        """Cancels a generation: immediately if it is queued, after the current sampling step if it is running. Raises
        Conflict if it has already ended."""
        return await self._session.call("POST", "/v1/generations/{id}/cancel", Generation, id=id)

    async def delete(self, id: str) -> str | None:
        """Deletes a generation that has ended, with its images. Raises Conflict if it has not ended.

        Returns the id of the deletion receipt, which `client.deletions.get` reads; None if the response was lost and a
        retry found the generation already deleted.
        """
        return receipt(await self._session.send("DELETE", "/v1/generations/{id}", id=id))

    async def wait(
        self,
        id: str,
        timeout: float | None = None,
        on_change: Callable[[Generation], object] | None = None,
        *,
        max_pause: float = MAX_SECONDS,
    ) -> Generation:
        """Waits until all images are finished, and returns the generation. Calls `on_change` with each polled state, at
        least every `max_pause` seconds. Raises JobFailed, and WaitTimeout after `timeout` seconds."""
        return await ended("Generation", lambda: self.get(id), timeout, on_change, max_pause)

    async def pictures(self, generation: Generation) -> tuple[Picture, ...]:
        """Downloads the images of a generation that has succeeded. Raises BadDownload if the bytes of an image do not
        match its SHA-256."""
        return tuple([await self._picture(generation, image) for image in generation.images])

    async def download(self, id: str, path: str | Path) -> Path:
        """Downloads the images of a generation as a zip file, and returns the file's path. In a folder it is named
        after the generation's id. Raises NotFound if there are no images, as before the generation has succeeded."""
        response = await self._session.send("GET", "/v1/generations/{id}/download", id=id)
        return await away(save_file, response.content, Path(path), f"{id}.zip")

    async def preview(self, id: str, index: int, step: int) -> bytes:
        """Returns a preview of an unfinished image, as a PNG: the image with this index, as predicted after `step`
        sampling steps. The generation's field `previews` lists the available previews."""
        path = "/v1/generations/{id}/previews/{index}/{step}"
        return (await self._session.send("GET", path, id=id, index=index, step=step)).content

    async def _create(
        self, domain_id: str, path: str, model: type[Model], body: Mapping[str, Any], prefer_wait: int
    ) -> Model:
        headers = {"Prefer": f"wait={prefer_wait}"} if prefer_wait else {}
        timeout = _READ_SECONDS + prefer_wait
        return await self._session.call("POST", path, model, body=body, headers=headers, timeout=timeout, id=domain_id)

    async def _picture(self, generation: Generation, image: Image) -> Picture:
        path = "/v1/generations/{id}/images/{index}"
        data = (await self._session.send("GET", path, id=generation.id, index=image.index)).content
        if sha256(data).hexdigest() != image.sha256:
            raise BadDownload(f"image {image.index} of {generation.id}")
        return Picture(
            data,
            index=image.index,
            seed=image.seed,
            sha256=image.sha256,
            class_name=generation.class_name,
            generation_id=generation.id,
        )
