from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.common import Digest, Identifier, Input, Integer, Name, Output, SignedUrl, Time, listing
from core.service.datasets.repository import Rejection
from core.service.datasets.uploads import MOST_PARTS
from core.service.db.models import Dataset
from core.service.db.paging import Page

DatasetStatus = Literal["validating", "ready", "rejected"]
UploadStatus = Literal["open", "completed", "failed"]
_REPORT_BYTES = 2**16


class ClassOut(BaseModel):
    id: int = Field(description="Position of the name among all class names, sorted after NFC normalization.")
    name: str = Field(examples=["fruit"])
    images: int
    example_url: str | None = Field(
        None, description="A strip of its first pictures: absolute, signed and expiring. Null where there is none."
    )


class RejectedFile(BaseModel):
    file: str = Field(examples=["fruit/apple.png"])
    code: str = Field(examples=["duplicate", "corrupt", "not_an_image"])
    detail: str

    @classmethod
    def of(cls, row: Rejection) -> "RejectedFile":
        return cls.model_validate(row.file)


class DatasetWarning(BaseModel):
    """Something about a zip that its sender may not have meant. It refuses nothing."""

    file: str | None = Field(None, description="The first file that it is about.", examples=["labels.csv"])
    code: str = Field(examples=["labels_not_read", "captions_not_read", "splits_joined", "in_several_classes"])
    detail: str


class ReportOut(BaseModel):
    """Accepted, ignored and rejected files together are the files that were sent."""

    accepted: int = 0
    ignored: int = Field(0, description="Files that are not meant as images: notes, labels, Thumbs.db and the like.")
    rejected_count: int = Field(0, description="Files that were not used.")
    rejected: list[RejectedFile] | None = Field(
        default=None,
        description="The first of them, at most 100; `/v1/datasets/{id}/report` lists all. Null in lists and in the "
        "answer to an upload.",
    )
    warnings: list[DatasetWarning] = []


class JobError(BaseModel):
    """Why it failed."""

    code: str = Field(description="Stable.", examples=["crashed_worker"])
    detail: str = Field(description="What to do.")


class DatasetOut(Output):
    id: str = Field(examples=["ds_01m84b6j3wmxg6fxz5yqv3ce5r"])
    domain_id: str
    status: DatasetStatus
    classes: list[ClassOut] = Field(description="Empty until it is ready.")
    images: int = Field(description="Accepted ones.")
    report: ReportOut
    size_bytes: int = Field(description="Of the zip.")
    digest: Digest | None = Field(description="Of the accepted images and their classes: equal content, equal digest.")
    error: JobError | None = Field(description="Why it was rejected.")
    created_at: Time
    finished_at: Time | None = Field(description="When it became ready or rejected.")

    @classmethod
    def of(cls, row: Dataset, signed: SignedUrl) -> "DatasetOut":
        found = cls.model_validate(row)
        having = {one["id"] for one in row.classes if one.get("has_example")}
        for one in found.classes:
            if one.id in having:
                one.example_url = signed(f"/v1/datasets/{row.id}/classes/{one.id}/example")
        return found


def first_rejected(page: Page[Rejection]) -> list[RejectedFile]:
    """Returns those that fit into the answer about their data set."""
    return listing(page, RejectedFile.of, _REPORT_BYTES).data


class DatasetUploadCreate(Input):
    size_bytes: Integer = Field(ge=1, lt=2**53, description="Of the zip.", examples=[1_400_000_000])
    sha256: str | None = Field(
        None,
        min_length=64,
        max_length=64,
        pattern="^[0-9a-f]{64}$",
        description="Of the zip. When it is told, another zip is refused; uploads can be found again by it.",
    )
    filename: Name | None = Field(None, description="For you to know it by.", examples=["drawings.zip"])


class UploadedPart(Input):
    number: Integer = Field(ge=1, le=MOST_PARTS, description="From 1.")
    etag: Identifier = Field(min_length=1, description="As the part's PUT was answered, with quotes or without.")


class DatasetUploadComplete(Input):
    parts: list[UploadedPart] = Field(fail_fast=True, max_length=MOST_PARTS, description="All of them.")


class DatasetUploadOut(Output):
    id: str = Field(examples=["upl_01m84b6j3wmxg6fxz5yqv3ce5r"])
    domain_id: str
    status: UploadStatus
    filename: str | None
    size_bytes: int
    sha256: Digest | None
    part_bytes: int = Field(description="Of every part but the last.")
    dataset_id: str = Field(description="The data set that it becomes, once it is completed.")
    error: JobError | None = Field(description="Why its zip cannot be a data set.")
    created_at: Time
    expires_at: Time = Field(description="An upload that is still open then is removed with its parts.")


class UploadPartOut(BaseModel):
    number: int
    size_bytes: int
    url: str = Field(description="Takes a PUT of the part's bytes without a key, for an hour; read it again then.")
    etag: str | None = Field(description="Of the part that is there; null while there is none.")


class DatasetUploadPartsOut(DatasetUploadOut):
    """An upload with its parts, in their order. There are none once it has ended."""

    parts: list[UploadPartOut]
