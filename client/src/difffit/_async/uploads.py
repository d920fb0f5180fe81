"""Uploads of large archives in parts. Parts lost on the way are sent again, and interrupted uploads are resumed."""

from collections.abc import AsyncIterator

import httpx

from difffit._async.backend import away, sleep
from difffit._async.session import UPLOAD_SECONDS, AsyncPages, AsyncSession, given
from difffit.archives import Archive, OnProgress, digest
from difffit.errors import error_of
from difffit.models import Dataset, DatasetUpload, DatasetUploadList, DatasetUploadParts, UploadPart
from difffit.retries import Retries, retry_after

_PATH = "/v1/domains/{id}/datasets/uploads"
_UPLOAD = "/v1/domains/{id}/datasets/uploads/{upload_id}"
_COMPLETE = "/v1/domains/{id}/datasets/uploads/{upload_id}/complete"
_PIECE = 2**18
_EXPIRED = {401, 403}
"""HTTP statuses with which servers and object stores reject an expired upload URL."""


class AsyncUploads:
    """Client calls for multipart uploads of data sets."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def list(self, domain_id: str, limit: int | None = None) -> AsyncPages[DatasetUpload]:
        """Yields the domain's multipart uploads, newest first."""
        return self._session.pages(_PATH, DatasetUploadList, limit, id=domain_id)

    async def get(self, domain_id: str, id: str) -> DatasetUploadParts:
        """Returns a multipart upload with its parts. A part has an `etag` once the server has received it."""
        return await self._session.call("GET", _UPLOAD, DatasetUploadParts, id=domain_id, upload_id=id)

    async def abort(self, domain_id: str, id: str) -> None:
        """Aborts a multipart upload and deletes its parts. Raises Conflict if the upload has already become a data
        set."""
        await self._session.send("DELETE", _UPLOAD, id=domain_id, upload_id=id)

    async def send(
        self, domain_id: str, archive: Archive, on_progress: OnProgress | None, name: str | None = None
    ) -> Dataset:
        """Uploads an archive in parts and returns the new data set, which gets the name `name`. Resumes an open upload
        with the same size and SHA-256, if there is one. Raises InvalidRequest, ConnectionFailed."""
        upload = await self._resume_or_start(domain_id, archive, await away(digest, archive.file))
        report = on_progress or (lambda *_: None)
        sent = sum(part.size_bytes for part in upload.parts if part.etag is not None)
        report(sent, archive.size)
        etags = {part.number: part.etag for part in upload.parts}
        for number in [number for number, etag in etags.items() if etag is None]:
            etags[number] = await self._send_part(upload, number, archive, _Progress(report, sent, archive.size))
            sent += upload.parts[number - 1].size_bytes
        parts = [{"number": number, "etag": etag} for number, etag in etags.items()]
        body = given({"parts": parts, "name": name})
        return await self._session.call(
            "POST", _COMPLETE, Dataset, body=body, timeout=UPLOAD_SECONDS, id=domain_id, upload_id=upload.id
        )

    async def _resume_or_start(self, domain_id: str, archive: Archive, sha256: str) -> DatasetUploadParts:
        async for upload in self.list(domain_id):
            if (upload.status, upload.sha256, upload.size_bytes) == ("open", sha256, archive.size):
                return await self.get(domain_id, upload.id)
        body = given({"size_bytes": archive.size, "sha256": sha256, "filename": archive.name[:200]})
        return await self._session.call("POST", _PATH, DatasetUploadParts, body=body, id=domain_id)

    async def _send_part(self, upload: DatasetUploadParts, number: int, archive: Archive, progress: "_Progress") -> str:
        """Sends one part and returns its ETag. If the part's upload URL has expired, gets a new URL once."""
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
        """Sends a PUT request with the part's bytes to the part's upload URL. Omits the API key, because the URL may
        belong to another server."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(data), _PIECE):
                yield data[start : start + _PIECE]
                progress.add(min(start + _PIECE, len(data)))

        headers = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        return await self._session.http.put(part.url, content=pieces(), headers=headers)


class _Progress:
    """Reports the progress of a whole upload while one of its parts is sent: the bytes sent before this part, plus the
    bytes sent of it."""

    def __init__(self, report: OnProgress, before: int, total: int) -> None:
        self._report, self._before, self._total = report, before, total

    def add(self, sent: int) -> None:
        self._report(self._before + sent, self._total)
