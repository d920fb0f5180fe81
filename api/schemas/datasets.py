from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.common import Digest, Identifier, Input, Integer, Name, Output, SignedUrl, Time, listing
from core.service.datasets.service import Rejection
from core.service.datasets.uploads import MOST_PARTS
from core.service.db.models import Dataset
from core.service.db.paging import Page

DatasetStatus = Literal["validating", "ready", "rejected"]
UploadStatus = Literal["open", "completed", "failed"]
_REPORT_BYTES = 2**16


class ClassOut(BaseModel):
    id: int = Field(description="Index of the class in the sorted, NFC-normalized class names.")
    name: str = Field(examples=["fruit"])
    images: int
    example_url: str | None = Field(
        None,
        description="Thumbnails of its first images. The URL is absolute, signed and expires. Null if there are none.",
    )


class RejectedFile(BaseModel):
    file: str = Field(examples=["fruit/apple.png"])
    code: str = Field(examples=["duplicate", "corrupt", "not_an_image"])
    detail: str

    @classmethod
    def of(cls, row: Rejection) -> "RejectedFile":
        return cls.model_validate(row.file)


class DatasetWarning(BaseModel):
    """Possible mistake in the zip. No file is rejected because of it."""

    file: str | None = Field(None, description="First file concerned.", examples=["labels.csv"])
    code: str = Field(examples=["labels_not_read", "captions_not_read", "splits_joined", "in_several_classes"])
    detail: str


class ReportOut(BaseModel):
    """Result of checking a data set. Every file in the zip is accepted, ignored or rejected."""

    accepted: int = 0
    ignored: int = Field(0, description="Files that are not images, such as notes, labels or Thumbs.db.")
    rejected_count: int = Field(0, description="Number of rejected files.")
    rejected: list[RejectedFile] | None = Field(
        default=None,
        description="The first 100 rejected files; `/v1/datasets/{id}/report` lists all. Null in lists and in the "
        "response to an upload.",
    )
    warnings: list[DatasetWarning] = []


class JobError(BaseModel):
    """Reason why a data set was rejected, or why a multipart upload, fine-tune or generation failed."""

    code: str = Field(description="Stable error code.", examples=["crashed_worker"])
    detail: str = Field(description="Explanation, and what to do next.")


class DatasetOut(Output):
    id: str = Field(examples=["ds_01m84b6j3wmxg6fxz5yqv3ce5r"])
    domain_id: str
    status: DatasetStatus
    classes: list[ClassOut] = Field(description="Empty until the data set is ready.")
    images: int = Field(description="Number of accepted images.")
    report: ReportOut
    size_bytes: int = Field(description="Size of the zip.")
    digest: Digest | None = Field(
        description="Digest of the accepted images and their classes. The same content gives the same digest."
    )
    error: JobError | None = Field(description="Reason for the rejection.")
    created_at: Time
    finished_at: Time | None = Field(description="Time when it became ready or rejected.")

    @classmethod
    def of(cls, row: Dataset, signed: SignedUrl) -> "DatasetOut":
        dataset = cls.model_validate(row)
        having = {entry["id"] for entry in row.classes if entry.get("has_example")}
        for entry in dataset.classes:
            if entry.id in having:
                entry.example_url = signed(f"/v1/datasets/{row.id}/classes/{entry.id}/example")
        return dataset


def first_rejected(page: Page[Rejection]) -> list[RejectedFile]:
    """Returns the first rejected files of a data set, as many as fit into 64 KiB of its response."""
    return listing(page, RejectedFile.of, _REPORT_BYTES).data


class DatasetUploadCreate(Input):
    size_bytes: Integer = Field(ge=1, lt=2**53, description="Size of the zip.", examples=[1_400_000_000])
    sha256: str | None = Field(
        None,
        min_length=64,
        max_length=64,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the zip. If given, a zip with another digest is rejected. Use it to recognise an "
        "interrupted upload.",
    )
    filename: Name | None = Field(None, description="Label of the upload.", examples=["drawings.zip"])


class UploadedPart(Input):
    number: Integer = Field(ge=1, le=MOST_PARTS, description="Number of the part, from 1.")
    etag: Identifier = Field(
        min_length=1, description="`ETag` of the response to the part's PUT, with or without quotes."
    )


class DatasetUploadComplete(Input):
    parts: list[UploadedPart] = Field(fail_fast=True, max_length=MOST_PARTS, description="All parts.")


class DatasetUploadOut(Output):
    id: str = Field(examples=["upl_01m84b6j3wmxg6fxz5yqv3ce5r"])
    domain_id: str
    status: UploadStatus
    filename: str | None
    size_bytes: int
    sha256: Digest | None
    part_bytes: int = Field(description="Size of every part except the last.")
    dataset_id: str = Field(description="Id of the data set that the completed upload becomes.")
    error: JobError | None = Field(description="Reason why the zip cannot be a data set.")
    created_at: Time
    expires_at: Time = Field(description="An upload that is still open at this time is deleted with its parts.")


class UploadPartOut(BaseModel):
    number: int
    size_bytes: int
    url: str = Field(
        description="Accepts a PUT of the part's bytes for an hour, without a key. Read the upload again for a new URL."
    )
    etag: str | None = Field(description="ETag of the received part; null until it has been received.")


class DatasetUploadPartsOut(DatasetUploadOut):
    """Multipart upload with its parts in order. The list of parts is empty once the upload has ended."""

    parts: list[UploadPartOut]
