"""Client calls for data sets: training images in one folder per class."""

from pathlib import Path

from difffit._async.backend import opened
from difffit._async.session import AsyncPages, AsyncSession
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
        """Uploads a zip, or a folder, which must contain one folder of images per class. The server checks the images
        after this call has returned; call `wait` for the result.

        Large archives are sent in parts: after an interruption, the same call sends only the missing parts, in any
        process. `in_parts` forces or forbids sending in parts, whatever the size. Raises InvalidInput,
        FileNotFoundError, InvalidRequest.
        """
        async with opened(open_archive(Path(source))) as archive:
            if archive.size > LARGE_BYTES if in_parts is None else in_parts:
                return await self.uploads.send(domain_id, archive, on_progress)
            path = "/v1/domains/{id}/datasets"
            return await self._session.call(
                "POST", path, Dataset, upload=archive, on_progress=on_progress, id=domain_id
            )

    def list(self, domain_id: str, limit: int | None = None, *, status: str | None = None) -> AsyncPages[Dataset]:
        """Yields the domain's data sets, newest first, without their lists of rejected files. With `status`, yields
        only data sets with this status."""
        path = "/v1/domains/{id}/datasets"
        return self._session.pages(path, DatasetList, limit, {"status": status}, id=domain_id)

    async def get(self, id: str) -> Dataset:
        return await self._session.call("GET", "/v1/datasets/{id}", Dataset, id=id)

    def rejected(self, id: str, limit: int | None = None) -> AsyncPages[RejectedFile]:
        """Yields the files of a data set that the server rejected, with reasons, in their order in the zip."""
        return self._session.pages("/v1/datasets/{id}/report", RejectedFileList, limit, id=id)

    async def example(self, id: str, class_id: int) -> bytes:
        """Returns a PNG with thumbnails of the first images of one class of a data set."""
        path = "/v1/datasets/{id}/classes/{class_id}/example"
        return (await self._session.send("GET", path, id=id, class_id=class_id)).content

    async def wait(self, id: str, timeout: float | None = None) -> Dataset:
        """Waits until the server has checked the data set, and returns it. Its `report` lists the first rejected files;
        the method `rejected` yields all of them.

        Raises JobFailed if the data set was rejected, and WaitTimeout after `timeout` seconds.
        """
        return await ended("Data set", lambda: self.get(id), timeout)
