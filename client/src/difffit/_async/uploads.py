"""A large archive, part by part: what the network loses is sent again, and an upload that broke off goes on."""

from collections.abc import AsyncIterator

import httpx

from difffit._async.backend import away, sleep
from difffit._async.session import UPLOAD_SECONDS, AsyncSession, given
from difffit.archives import Archive, OnProgress, digest
from difffit.errors import error_of
from difffit.models import Dataset, DatasetUpload, DatasetUploadList, DatasetUploadParts, UploadPart
from difffit.retries import Retries, retry_after

_PATH = "/v1/domains/{id}/datasets/uploads"
_UPLOAD = "/v1/domains/{id}/datasets/uploads/{upload_id}"
_COMPLETE = "/v1/domains/{id}/datasets/uploads/{upload_id}/complete"
_PIECE = 2**18
_EXPIRED = {401, 403}
"""How a service and a store answer to a URL whose time is over."""


class AsyncUploads:
    """Of data sets."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(self, domain_id: str, limit: int | None = None) -> AsyncIterator[DatasetUpload]:
        """Newest first."""
        return self._session.pages(_PATH, DatasetUploadList, limit, id=domain_id)

    async def get(self, domain_id: str, id: str) -> DatasetUploadParts:
        """Which parts are there."""
        return await self._session.call("GET", _UPLOAD, DatasetUploadParts, id=domain_id, upload_id=id)

    async def abort(self, domain_id: str, id: str) -> None:
        """Removes its parts. Raises Conflict for one that is a data set already."""
        await self._session.send("DELETE", _UPLOAD, id=domain_id, upload_id=id)

    async def send(self, domain_id: str, archive: Archive, on_progress: OnProgress | None) -> Dataset:
        """Goes on with the upload of the same bytes when there is one. Raises InvalidRequest, ConnectionFailed."""
        upload = await self._begun(domain_id, archive, await away(digest, archive.file))
        hears = on_progress or (lambda *_: None)
        sent = sum(part.size_bytes for part in upload.parts if part.etag is not None)
        hears(sent, archive.size)
        etags = {part.number: part.etag for part in upload.parts}
        for number in [number for number, etag in etags.items() if etag is None]:
            etags[number] = await self._send_part(upload, number, archive, _Progress(hears, sent, archive.size))
            sent += upload.parts[number - 1].size_bytes
        parts = [{"number": number, "etag": etag} for number, etag in etags.items()]
        return await self._session.call(
            "POST", _COMPLETE, Dataset, body={"parts": parts}, timeout=UPLOAD_SECONDS, id=domain_id, upload_id=upload.id
        )

    async def _begun(self, domain_id: str, archive: Archive, sha256: str) -> DatasetUploadParts:
        async for one in self.list(domain_id):
            if (one.status, one.sha256, one.size_bytes) == ("open", sha256, archive.size):
                return await self.get(domain_id, one.id)
        body = given({"size_bytes": archive.size, "sha256": sha256, "filename": archive.name[:200]})
        return await self._session.call("POST", _PATH, DatasetUploadParts, body=body, id=domain_id)

    async def _send_part(self, upload: DatasetUploadParts, number: int, archive: Archive, progress: "_Progress") -> str:
        """The part's etag."""
        retries, renewed = Retries(self._session.max_retries), False
        part = upload.parts[number - 1]
        archive.file.seek((number - 1) * upload.part_bytes)
        data = await away(archive.file.read, part.size_bytes)
        while True:
            try:
                response = await self._put(part, data, progress)
            except httpx.TransportError as error:
                await sleep(retries.after_error(error))
                continue
            if response.status_code in _EXPIRED and not renewed:
                renewed = True
                part = (await self.get(upload.domain_id, upload.id)).parts[number - 1]
                continue
            delay = retries.after_answer(response)
            if delay is None:
                break
            await sleep(delay)
        if not response.is_success:
            raise error_of(response, retry_after(response))
        return response.headers["ETag"]

    async def _put(self, part: UploadPart, data: bytes, progress: "_Progress") -> httpx.Response:
        """Without a key: the URL may be another server's."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(data), _PIECE):
                yield data[start : start + _PIECE]
                progress.add(min(start + _PIECE, len(data)))

        headers = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        return await self._session.http.put(part.url, content=pieces(), headers=headers)


class _Progress:
    """Of one part, behind those that were sent."""

    def __init__(self, hears: OnProgress, before: int, total: int) -> None:
        self._hears, self._before, self._total = hears, before, total

    def add(self, sent: int) -> None:
        self._hears(self._before + sent, self._total)
