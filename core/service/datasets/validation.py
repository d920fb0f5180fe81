"""Validation of a data set: reads every image of an uploaded zip, or completes a version of other data sets, and stores
an example strip for each class. Needs no GPU."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, cast

from sqlalchemy.orm import Session

from core.artifact.errors import CoreError, NotFound
from core.service import jobs
from core.service.datasets.archive import Limits, read_images, validate
from core.service.datasets.digesting import DigestingFile
from core.service.datasets.reading import read_stored
from core.service.datasets.report import Member, Report
from core.service.datasets.service import example_key
from core.service.datasets.thumbnails import Thumbnails
from core.service.db.models import Dataset
from core.service.db.models.datasets import thumbnails_key
from core.service.errors import ArchiveInvalid
from core.service.jobs import Claim
from core.service.storage import ObjectStore, verify

_IN_MEMORY = 2**24
"""Max bytes of a data set's thumbnails that a worker keeps in memory; more are written to a temporary file."""


@dataclass(frozen=True)
class StoredArchive:
    """Stored zip of a data set, as plain values, so that no database session is open while the zip is read."""

    tenant_id: str
    domain_id: str
    dataset_id: str
    key: str
    sha256: str
    """Expected SHA-256 of the zip; empty if the client uploaded the zip in parts and stated none."""
    version: "Version | None" = None
    """Contents of a version of other data sets, which has no zip of its own."""

    @classmethod
    def of(cls, row: Dataset) -> "StoredArchive":
        version = None if row.archive_key else Version(row.classes, row.members, row.sources)
        return cls(row.tenant_id, row.domain_id, row.id, row.archive_key, row.archive_sha256, version)


@dataclass(frozen=True)
class Version:
    """Contents of a version: the JSON columns of its row."""

    classes: list[dict[str, Any]]
    members: list[dict[str, Any]]
    sources: list[dict[str, Any]]


@dataclass(frozen=True)
class Validated:
    """Result of a successful validation, which `succeed` writes to the database."""

    report: Report
    sha256: str
    examples: frozenset[int]
    """Ids of the classes that have an example strip."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Value of `Dataset.sources`."""


def validate_archive(
    store: ObjectStore, archive: StoredArchive, limits: Limits, goes_on: Callable[[], bool] = lambda: True
) -> Validated:
    """Reads every image of a stored zip, checks the zip's SHA-256, and stores a thumbnail of each image and an example
    strip for each class. A version has been read as part of other data sets: only compares its images with each other.

    Raises ArchiveInvalid, NotFound, ChecksumMismatch, StorageUnavailable, and Cancelled when `goes_on` returns False.
    """
    if archive.version is not None:
        return _complete_version(store, archive, archive.version, limits)
    with store.open(archive.key) as file, tempfile.SpooledTemporaryFile(_IN_MEMORY) as shown:
        digesting = DigestingFile(file)
        try:
            report = validate(cast(IO[bytes], digesting), limits, goes_on, Thumbnails(cast(IO[bytes], shown)))
        except ArchiveInvalid:
            _checked_digest(digesting, archive)  # reports damage in transit instead, if that is the cause
            raise
        sha256 = _checked_digest(digesting, archive)
        store.put_file(thumbnails_key(archive.key), cast(IO[bytes], shown))
        read = partial(read_images, file, limits=limits)
        return Validated(report, sha256, _store_examples(store, archive, report, read))


def _complete_version(store: ObjectStore, archive: StoredArchive, version: Version, limits: Limits) -> Validated:
    """Completes the report of a version, copies its zips if it is a copy from another domain, and stores an example
    strip for each class."""
    from core.service.datasets.checks import completed  # imports Pillow, which the API does not need

    sources = [_copied(store, zip) if "copy_of" in zip else zip for zip in version.sources]
    names = [label["name"] for label in version.classes]
    report = completed(Report(names, [Member.from_json(values) for values in version.members]))
    read = partial(read_stored, store, sources, limits=limits)
    return Validated(report, "", _store_examples(store, archive, report, read), sources)


def _copied(store: ObjectStore, zip: dict[str, Any]) -> dict[str, Any]:
    """Copies a zip and its thumbnails, which a zip of an earlier release does not have. Returns the copy as an entry of
    `Dataset.sources`."""
    with store.open(zip["copy_of"]) as file:
        verify(zip["key"], store.put_file(zip["key"], file).sha256, zip["sha256"])
    with suppress(NotFound), store.open(thumbnails_key(zip["copy_of"])) as file:
        store.put_file(thumbnails_key(zip["key"]), file)
    return {name: value for name, value in zip.items() if name != "copy_of"}


def succeed(session: Session, claim: Claim, validated: Validated) -> bool:
    """Writes the result of a validation to the data set's row. Returns False if this worker has lost its claim on the
    job."""
    dataset = jobs.guarded(session, Dataset, claim)
    if dataset is None:
        return False
    report = validated.report
    dataset.archive_sha256, dataset.sources = validated.sha256, validated.sources
    dataset.classes = [{**row, "has_example": row["id"] in validated.examples} for row in report.classes_json()]
    dataset.images = len(report.members)
    dataset.members = [member.to_json() for member in report.members]
    _write_report(dataset, report.to_json())
    dataset.digest = report.digest
    jobs.finish(session, dataset, "ready")
    return True


def record_rejection(dataset: Dataset, error: CoreError) -> None:
    """Writes the rejected files of an unusable data set to its row. Its validation job fails with the same error."""
    _write_report(dataset, {"accepted": 0, "rejected": error.errors})


def _checked_digest(file: DigestingFile, archive: StoredArchive) -> str:
    """Returns the SHA-256 of the stored zip. Raises ArchiveInvalid if it differs from the expected SHA-256."""
    sha256 = file.digest()
    if archive.sha256 and sha256 != archive.sha256:
        detail = "The SHA-256 of the archive is not the one that was sent with it. Upload it again."
        raise ArchiveInvalid("checksum_mismatch", detail)
    return sha256


def _store_examples(
    store: ObjectStore, archive: StoredArchive, report: Report, read: Callable[[list[dict[str, Any]]], Any]
) -> frozenset[int]:
    """Stores an example strip for each of the first classes, from the images that `read` yields. Returns the ids of the
    classes that have one."""
    from core.service.datasets.examples import first_images, strips_of  # imports Pillow, which the API does not need

    shown = set()
    for class_id, strip in strips_of(read(first_images([member.to_json() for member in report.members]))):
        store.put(example_key(archive.tenant_id, archive.domain_id, archive.dataset_id, class_id), strip)
        shown.add(class_id)
    return frozenset(shown)


def _write_report(dataset: Dataset, report: dict[str, Any]) -> None:
    """Writes the report to the data set's row. The rejected files, which may take megabytes, go to their own column,
    since every listing of data sets reads the rest of the report."""
    dataset.rejected = report.pop("rejected")
    dataset.report = {**report, "rejected_count": len(dataset.rejected)}
