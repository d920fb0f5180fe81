"""Data sets: images, one folder a class."""

from collections.abc import AsyncIterator
from pathlib import Path

from difffit._async.backend import opened
from difffit._async.session import AsyncSession
from difffit._async.uploads import AsyncUploads
from difffit._async.waiting import ended
from difffit.archives import LARGE_BYTES, OnProgress, open_archive
from difffit.models import Dataset, DatasetList, RejectedFile, RejectedFileList


class AsyncDatasets:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self.uploads = AsyncUploads(session)

    async def upload(
        self,
        domain_id: str,
        source: str | Path,
        on_progress: OnProgress | None = None,
        *,
        in_parts: bool | None = None,
    ) -> Dataset:
        """Uploads a zip, or a folder with one folder of images a class. The server then checks every image: `wait`.

        Large ones go in parts: called again after it broke off, by another process too, it sends what is missing.
        `in_parts` decides that whatever the size. Raises InvalidInput, FileNotFoundError, InvalidRequest.
        """
        async with opened(open_archive(Path(source))) as archive:
            if archive.size > LARGE_BYTES if in_parts is None else in_parts:
                return await self.uploads.send(domain_id, archive, on_progress)
            path = "/v1/domains/{id}/datasets"
            return await self._session.call(
                "POST", path, Dataset, upload=archive, on_progress=on_progress, id=domain_id
            )

    def list(self, domain_id: str, limit: int | None = None, *, status: str | None = None) -> AsyncIterator[Dataset]:
        """Newest first, those with the status alone where one is given; none names the files that were refused."""
        path = "/v1/domains/{id}/datasets"
        return self._session.pages(path, DatasetList, limit, {"status": status}, id=domain_id)

    async def get(self, id: str) -> Dataset:
        return await self._session.call("GET", "/v1/datasets/{id}", Dataset, id=id)

    def rejected(self, id: str, limit: int | None = None) -> AsyncIterator[RejectedFile]:
        """Yields the files that were not used, in their order in the zip."""
        return self._session.pages("/v1/datasets/{id}/report", RejectedFileList, limit, id=id)

    async def example(self, id: str, class_id: int) -> bytes:
        """The first pictures of a class side by side, small, a PNG."""
        path = "/v1/datasets/{id}/classes/{class_id}/example"
        return (await self._session.send("GET", path, id=id, class_id=class_id)).content

    async def wait(self, id: str, timeout: float | None = None) -> Dataset:
        """Until it is ready; `report` names the first files that were refused, `rejected` all of them.

        Raises JobFailed when it was rejected, WaitTimeout after `timeout` seconds.
        """
        return await ended("Data set", lambda: self.get(id), timeout)
