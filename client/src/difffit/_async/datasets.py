"""Data sets: images, one folder a class."""

from collections.abc import AsyncIterator
from pathlib import Path

from difffit._async.backend import opened
from difffit._async.session import AsyncSession
from difffit._async.waiting import ended
from difffit.archives import OnProgress, open_archive
from difffit.models import Dataset, DatasetList


class AsyncDatasets:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def upload(self, domain_id: str, source: str | Path, on_progress: OnProgress | None = None) -> Dataset:
        """Uploads a zip, or a folder with one folder of images a class. The server then checks every image: `wait`.

        Raises InvalidInput, FileNotFoundError, InvalidRequest.
        """
        async with opened(open_archive(Path(source))) as archive:
            path = "/v1/domains/{id}/datasets"
            return await self._session.call(
                "POST", path, Dataset, upload=archive, on_progress=on_progress, id=domain_id
            )

    def list(self, domain_id: str, limit: int | None = None) -> AsyncIterator[Dataset]:
        """Newest first."""
        return self._session.pages("/v1/domains/{id}/datasets", DatasetList, limit, id=domain_id)

    async def get(self, id: str) -> Dataset:
        return await self._session.call("GET", "/v1/datasets/{id}", Dataset, id=id)

    async def wait(self, id: str, timeout: float | None = None) -> Dataset:
        """Until it is ready; `report` names the files that were refused. Raises JobFailed when it was rejected,
        WaitTimeout after `timeout` seconds."""
        return await ended("Data set", lambda: self.get(id), timeout)
