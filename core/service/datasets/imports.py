"""Imports: data sets whose images a worker fetches from other hosts, by their URLs or from a public bucket.

The API only creates the row. A worker fetches the images, stores their zip part by part, and validates it like an
uploaded one. Each attempt has its own storage key, so that a lost attempt cannot change the zip of a later one.
"""

import hashlib
import io
import re
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any, cast
from urllib.parse import unquote, urlsplit

from sqlalchemy.orm import Session

from core.artifact.errors import Cancelled
from core.service import domains, jobs, metering
from core.service.config import Settings
from core.service.datasets import service
from core.service.datasets.fetching import Fetcher, Rules, list_bucket
from core.service.datasets.images import Refused
from core.service.datasets.layout import IMAGE_SUFFIXES, class_name
from core.service.datasets.report import Remark
from core.service.db.base import new_id
from core.service.db.models import Dataset
from core.service.db.models.datasets import thumbnails_key
from core.service.errors import ArchiveInvalid, ImportRefused, ImportsOff
from core.service.jobs import Claim
from core.service.quotas import Quotas
from core.service.resources import Resources
from core.service.storage import ObjectStore, Part, StoredObject
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import Scope

_NAME_LENGTH = 60


def create(session: Session, resources: Resources, domain_id: str, source: dict[str, Any], name: str | None) -> Dataset:
    """Creates a data set whose images are fetched after the commit from `source`, the value of `Dataset.to_fetch`.
    Raises ImportsOff, ImportRefused, NotFound, QuotaExceeded, StorageQuotaExceeded."""
    domain = domains.get(session, domain_id)
    rules = Rules.of(resources.settings)
    if not rules.hosts:
        raise ImportsOff
    _check(source, rules)
    Quotas(session, resources.settings).admit_dataset(1)  # the size of the zip is not known here
    folder = service.folder(domain.tenant_id, domain.id, new_id("ds"))
    dataset = service.create(session, resources.dispatcher, domain.id, StoredObject(f"{folder}import.zip", "", 0), name)
    dataset.to_fetch = source
    session.flush()
    return dataset


def _check(source: dict[str, Any], rules: Rules) -> None:
    field = ""
    try:
        if "bucket" in source:
            field = "bucket.url"
            if "?" in source["bucket"]["url"]:
                raise Refused("url_refused", "The URL must not contain a query.")
            rules.target(source["bucket"]["url"])
        for index, image in enumerate(source.get("images", ())):
            field = f"images.{index}.url"
            rules.target(image["url"])
            field = f"images.{index}.class_name"
            class_name(image["class_name"])
    except Refused as refused:
        raise ImportRefused(field, refused.detail) from refused


def release(session: Session, dataset: Dataset) -> None:
    """Releases the bytes that an attempt has reserved."""
    metering.add_stored_bytes(session, dataset.domain_id, -dataset.size_bytes)
    dataset.size_bytes = 0


def record_key(session: Session, id: str, key: str) -> None:
    """Writes the storage key of the stored zip to the data set's row."""
    service.get(session, id).archive_key = key


@dataclass
class Import:
    """One attempt to fetch the images of a data set and to store their zip."""

    resources: Resources
    claim: Claim
    tenant_id: str
    folder: str
    """Storage key prefix of the data set's objects."""
    source: dict[str, Any]
    goes_on: Callable[[], bool]
    failures: list[Remark] = field(default_factory=list)
    """Files that could not be fetched, with the reasons."""

    @property
    def settings(self) -> Settings:
        return self.resources.settings

    @property
    def store(self) -> ObjectStore:
        return self.resources.store

    @property
    def key(self) -> str:
        return f"{self.folder}import-{self.claim.attempt}.zip"

    def store_zip(self) -> StoredObject:
        """Fetches the images, and stores their zip. Deletes what earlier attempts have stored. Raises ArchiveInvalid if
        no image can be fetched, or the import takes too many bytes or too long; StorageQuotaExceeded,
        StorageUnavailable, DatabaseUnavailable, and Cancelled when `goes_on` returns False or the claim is lost."""
        self.store.drop_parts(self.folder, 0)
        self.store.delete(self.store.list(self.folder))
        upload = self.store.begin_parts(self.key)
        try:
            return self._store_parts(upload)
        except BaseException:
            with suppress(StorageUnavailable):  # then the next attempt deletes them, or the sweep of orphans
                self.store.drop_upload(self.key, upload)
            raise

    def discard(self) -> None:
        """Deletes the stored zip, which cannot be used."""
        with suppress(StorageUnavailable):
            self.store.delete([self.key, thumbnails_key(self.key)])

    def _store_parts(self, upload: str) -> StoredObject:
        parts = _Parts(self.store, self.key, upload, self.settings.upload_part_bytes, self._reserve)
        with zipfile.ZipFile(cast(IO[bytes], parts), "w") as archive:
            for path, data in self._fetched():
                archive.writestr(zipfile.ZipInfo(path), data)  # the same time in every zip
                parts.send_full()
        return parts.join()

    def _fetched(self) -> Iterator[tuple[str, bytes]]:
        """Yields the path in the zip and the bytes of each file that can be fetched."""
        settings, count, size = self.settings, 0, 0
        deadline = time.monotonic() + settings.dataset_import_seconds
        fetcher = Fetcher(Rules.of(settings), self.tenant_id)

        def check() -> None:
            if not self.goes_on():
                raise Cancelled
            if time.monotonic() > deadline:
                seconds = f"{settings.dataset_import_seconds:g} s"
                raise ArchiveInvalid(
                    "import_too_slow", f"Only {count} files were fetched within {seconds}. Import fewer at once."
                )

        for path, url, name in self._files(fetcher, check):
            check()
            try:
                data = fetcher.fetch(url, settings.max_image_bytes)
            except Refused as refused:
                self.failures.append(Remark(name[:500], refused.code, refused.detail))
                continue
            count, size = count + 1, size + len(data)
            if size > settings.max_multipart_bytes:
                limit = f"{settings.max_multipart_bytes:,} bytes"
                raise ArchiveInvalid("import_too_large", f"The images have more than {limit}. Import fewer at once.")
            yield path, data
        if not count:
            reason = f" The first reason: {self.failures[0].detail}" if self.failures else ""
            detail = f"No file could be fetched.{reason} See the report for all of them."
            raise ArchiveInvalid("nothing_fetched", detail, rejected=[asdict(remark) for remark in self.failures])

    def _files(self, fetcher: Fetcher, check: Callable[[], None]) -> Iterable[tuple[str, str, str]]:
        """Returns the path in the zip, the URL, and the name in the report of each file. Raises ArchiveInvalid."""
        if "bucket" not in self.source:
            return [
                (_path(index, image), image["url"], image["url"].partition("?")[0])
                for index, image in enumerate(self.source["images"], 1)
            ]
        bucket = self.source["bucket"]
        prefix = bucket["prefix"] if bucket["prefix"][-1:] in ("", "/") else bucket["prefix"] + "/"
        most = self.settings.max_archive_members
        try:
            files = list_bucket(fetcher.fetch, bucket["url"].rstrip("/"), prefix, most, check)
        except Refused as refused:
            raise ArchiveInvalid("bucket_unreadable", f"The bucket cannot be listed. {refused.detail}") from refused
        return [(path, url, path) for path, url in files]

    def _reserve(self, size_bytes: int) -> None:
        """Counts bytes as stored before they are. Raises StorageQuotaExceeded, and Cancelled if the claim is lost."""
        with self.resources.database.session(Scope(self.tenant_id)) as session:
            limits = Quotas(session, self.settings)
            limits.hold()
            dataset = jobs.guarded(session, Dataset, self.claim)
            if dataset is None:
                raise Cancelled
            limits.admit_bytes(size_bytes)
            dataset.size_bytes += size_bytes
            metering.add_stored_bytes(session, dataset.domain_id, size_bytes)


class _Parts:
    """File that a ZipFile writes to, which is stored part by part. `write` itself stores nothing, since a ZipFile also
    writes when it is closed after an error."""

    def __init__(
        self, store: ObjectStore, key: str, upload: str, part_bytes: int, reserve: Callable[[int], None]
    ) -> None:
        self._store, self._key, self._upload, self._part_bytes = store, key, upload, part_bytes
        self._reserve = reserve
        self._buffer, self._parts = bytearray(), list[Part]()
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._buffer += data
        return len(data)

    def flush(self) -> None:
        """Does nothing. ZipFile requires its file to have this method."""

    def send_full(self) -> None:
        """Stores the parts that are complete."""
        while len(self._buffer) >= self._part_bytes:
            self._send(self._part_bytes)

    def join(self) -> StoredObject:
        """Stores the last parts, and joins all of them to one object."""
        self.send_full()
        if self._buffer:
            self._send(len(self._buffer))
        self._store.join_parts(self._key, self._upload, self._parts)
        return StoredObject(self._key, self._sha256.hexdigest(), sum(part.size for part in self._parts))

    def _send(self, size: int) -> None:
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._reserve(size)
        self._sha256.update(part)
        self._parts.append(self._store.put_part(self._key, self._upload, len(self._parts) + 1, io.BytesIO(part)))


def _path(index: int, image: dict[str, str]) -> str:
    """Returns the path in the zip of an image of a list. The index makes equal names different."""
    path = PurePosixPath(unquote(urlsplit(image["url"]).path))
    suffix = path.suffix.lower() if path.suffix.lower() in IMAGE_SUFFIXES else ""
    stem = re.sub(r"\W+", "-", path.stem).strip("-")[:_NAME_LENGTH]
    return f"{class_name(image['class_name'])}/{index:04}-{stem}{suffix}"
