"""Client calls for data sets: training images in one folder per class."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from difffit._async.backend import opened
from difffit._async.session import AsyncPages, AsyncSession, given, receipt
from difffit._async.uploads import AsyncUploads
from difffit._async.waiting import ended
from difffit.archives import LARGE_BYTES, OnProgress, Source, open_archive, place
from difffit.filters import DatasetFilters, query
from difffit.models import Dataset, DatasetImage, DatasetImageList, DatasetList, RejectedFile, RejectedFileList

_IMPORTS = "/v1/domains/{id}/datasets/imports"


class AsyncDatasets:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self.uploads = AsyncUploads(session)

    async def upload(
        self,
        domain_id: str,
        source: Source,
        on_progress: OnProgress | None = None,
        *,
        name: str | None = None,
        in_parts: bool | None = None,
    ) -> Dataset:
        """Uploads a zip, or a folder, which must contain one folder of images per class. `source` is a path, the bytes
        of a zip, or a binary file. The server checks the images after this call has returned; call `wait` for the
        result.

        Large archives are sent in parts: after an interruption, the same call sends only the missing parts, in any
        process. `in_parts` forces or forbids sending in parts, whatever the size. Raises InvalidInput,
        FileNotFoundError, InvalidRequest.
        """
        async with opened(open_archive(source)) as archive:
            if archive.size > LARGE_BYTES if in_parts is None else in_parts:
                return await self.uploads.send(domain_id, archive, on_progress, name)
            path = "/v1/domains/{id}/datasets"
            return await self._session.call(
                "POST", path, Dataset, upload=archive, form={"name": name}, on_progress=on_progress, id=domain_id
            )

    def list(
        self,
        domain_id: str | None = None,
        limit: int | None = None,
        *,
        status: str | None = None,
        **filters: Unpack[DatasetFilters],
    ) -> AsyncPages[Dataset]:
        """Yields data sets, newest first, without their lists of rejected files: of one domain, or of all your domains
        if `domain_id` is None. `status` and the filters select some of them."""
        wanted = {"status": status, **query(filters)}
        if domain_id is None:
            return self._session.pages("/v1/datasets", DatasetList, limit, wanted)
        return self._session.pages("/v1/domains/{id}/datasets", DatasetList, limit, wanted, id=domain_id)

    async def get(self, id: str) -> Dataset:
        return await self._session.call("GET", "/v1/datasets/{id}", Dataset, id=id)

    async def update(self, id: str, *, name: str | None) -> Dataset:
        """Renames a data set. None removes the name."""
        return await self._session.call("PATCH", "/v1/datasets/{id}", Dataset, body={"name": name}, id=id)

    async def edit(
        self,
        id: str,
        *,
        add: Sequence[str] = (),
        remove: Sequence[int] = (),
        drop_classes: Sequence[str] = (),
        rename_classes: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> Dataset:
        """Creates a version of a data set, which itself does not change, and returns the version.

        `add` has ids of data sets of the same domain whose images are added, and `remove` the numbers of images that
        are left out. Classes that are renamed to the same name are merged. Raises InvalidRequest, Conflict.
        """
        body = {
            "add_dataset_ids": [*add],
            "remove_images": [*remove],
            "drop_classes": [*drop_classes],
            "rename_classes": {**(rename_classes or {})},
            "name": name,
        }
        return await self._session.call("POST", "/v1/datasets/{id}/versions", Dataset, body=body, id=id)

    async def copy(self, id: str, domain_id: str, *, name: str | None = None) -> Dataset:
        """Copies a data set to another of your domains, and returns the copy. Raises InvalidRequest, Conflict."""
        path = "/v1/domains/{id}/datasets/copies"
        return await self._session.call("POST", path, Dataset, body={"dataset_id": id, "name": name}, id=domain_id)

    async def sample(self, domain_id: str) -> Dataset:
        """Creates a data set of sample data in a domain, and returns it: 160 drawings of OpenMoji in 8 classes, under
        CC BY-SA 4.0. Raises NotFound, Forbidden, TooManyRequests."""
        return await self._session.call("POST", "/v1/domains/{id}/datasets/sample", Dataset, id=domain_id)

    async def import_images(
        self, domain_id: str, images: Iterable[tuple[str, str]], *, name: str | None = None
    ) -> Dataset:
        """Creates a data set of images that the server fetches from other hosts, and returns it. `images` has the URL
        and the class name of each image; the URLs may be signed. Raises InvalidRequest, and Forbidden if the server
        imports nothing."""
        body = {"images": [{"url": url, "class_name": label} for url, label in images], "name": name}
        return await self._session.call("POST", _IMPORTS, Dataset, body=given(body), id=domain_id)

    async def import_bucket(self, domain_id: str, url: str, prefix: str = "", *, name: str | None = None) -> Dataset:
        """Creates a data set of the images in a public S3 bucket, which the server fetches, and returns it. The folders
        under `prefix` are the classes. Raises InvalidRequest, and Forbidden if the server imports nothing."""
        body = {"bucket": {"url": url, "prefix": prefix}, "name": name}
        return await self._session.call("POST", _IMPORTS, Dataset, body=given(body), id=domain_id)

    async def download(self, id: str, path: str | Path) -> Path:
        """Downloads the accepted images of a data set as a zip with one folder per class, which can be uploaded again.
        Returns the file's path; in a folder it is named after the data set's id. Raises NotFound, ConnectionFailed,
        BadDownload, and Conflict if the data set is not ready."""
        target = place(Path(path), f"{id}.zip")
        await self._session.save_zip("/v1/datasets/{id}/download", target, id=id)
        return target

    async def delete(self, id: str) -> str | None:
        """Deletes a data set with its images. Raises Conflict while an unfinished fine-tune needs it.

        Returns the id of the deletion receipt, which `client.deletions.get` reads; None if the response was lost and a
        retry found the data set already deleted.
        """
        return receipt(await self._session.send("DELETE", "/v1/datasets/{id}", id=id))

    def images(
        self, id: str, limit: int | None = None, *, class_id: int | None = None, warning: str | None = None
    ) -> AsyncPages[DatasetImage]:
        """Yields the accepted images of a data set, in their order in the zip: those of one class, or those with one
        warning, such as `near_duplicate`."""
        wanted = {"class_id": class_id, "warning": warning}
        return self._session.pages("/v1/datasets/{id}/images", DatasetImageList, limit, wanted, id=id)

    async def thumbnail(self, id: str, number: int) -> bytes:
        """Returns a JPEG of an image's centered square, which is what training sees."""
        path = "/v1/datasets/{id}/images/{number}/thumbnail"
        return (await self._session.send("GET", path, id=id, number=number)).content

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
