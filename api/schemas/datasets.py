from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas.common import (
    ClassName,
    Digest,
    Identifier,
    Input,
    Integer,
    KeyPrefix,
    Name,
    Output,
    SignedUrl,
    Time,
    exactly_one,
    listing,
    optional,
)
from core.service.datasets.contents import Entry
from core.service.datasets.report import Member
from core.service.datasets.uploads import MOST_PARTS
from core.service.db.models import Dataset
from core.service.db.paging import Page

DatasetStatus = Literal["validating", "ready", "rejected"]
UploadStatus = Literal["open", "completed", "failed"]
ImageWarningCode = Literal["near_duplicate", "tiny", "blank", "extreme_aspect", "colours_converted"]
_REPORT_BYTES = 2**16
_ImportUrl = Annotated[
    str, Field(min_length=1, max_length=4000, pattern="^[!-~]+$", examples=["https://images.example.com/apple.png"])
]


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
    def of(cls, row: Entry) -> "RejectedFile":
        return cls.model_validate(row.value)


class DatasetWarning(BaseModel):
    """Possible mistake in the data set. No file is rejected because of it."""

    file: str | None = Field(None, description="First file concerned.", examples=["labels.csv"])
    code: str = Field(examples=["few_images", "unbalanced_classes", "labels_read", "labels_not_read"])
    detail: str


class ImageWarning(BaseModel):
    """Possible reason why an image spoils the fine-tune. The image is used nevertheless."""

    code: ImageWarningCode
    detail: str
    image: int | None = Field(description="Number of the earlier image that a near-duplicate looks like.")


class DatasetImageOut(BaseModel):
    number: int = Field(description="Number of the image in the data set, from 1.")
    class_id: int
    class_name: str = Field(examples=["fruit"])
    file: str = Field(description="Path in the zip.", examples=["fruit/apple.png"])
    sha256: Digest | None = Field(description="Null for data sets of earlier releases.")
    size_bytes: int | None = Field(description="Size of the file. Null for data sets of earlier releases.")
    width: int | None = Field(description="Width in pixels, upright. Null for data sets of earlier releases.")
    height: int | None = Field(description="Height in pixels, upright. Null for data sets of earlier releases.")
    thumbnail_url: str | None = Field(
        description="A JPEG of what training sees. The URL is absolute, signed and expires. Null for data sets of "
        "earlier releases."
    )
    warnings: list[ImageWarning]

    @classmethod
    def of(cls, dataset: Dataset, entry: Entry, signed: SignedUrl) -> "DatasetImageOut":
        member = Member.from_json(entry.value)
        path = f"/v1/datasets/{dataset.id}/images/{entry.number}/thumbnail"
        return cls(
            number=entry.number,
            class_id=member.class_id,
            class_name=dataset.classes[member.class_id]["name"],
            file=member.file,
            sha256=member.sha256 or None,
            size_bytes=member.size_bytes or None,
            width=member.width or None,
            height=member.height or None,
            thumbnail_url=None if member.thumbnail is None else signed(path),
            warnings=[
                ImageWarning.model_validate({"code": code, **warning}) for code, warning in member.warnings.items()
            ],
        )


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
    name: str | None = Field(examples=["Icons, first batch"])
    parent_id: str | None = Field(description="Id of the data set that this one is a version or copy of.")
    status: DatasetStatus
    classes: list[ClassOut] = Field(description="Empty until an uploaded data set is ready.")
    images: int = Field(description="Number of accepted images.")
    report: ReportOut
    size_bytes: int = Field(
        description="Size of the zips with its images. Versions share zips, which are stored and counted once."
    )
    digest: Digest | None = Field(
        description="Digest of the accepted images and their classes. The same content gives the same digest."
    )
    error: JobError | None = Field(description="Reason for the rejection.")
    created_at: Time
    finished_at: Time | None = Field(description="Time when it became ready or rejected.")

    @classmethod
    def of(cls, row: Dataset, signed: SignedUrl) -> "DatasetOut":
        dataset = cls.model_validate(row)
        dataset.size_bytes += sum(zip["size_bytes"] for zip in row.sources)
        having = {entry["id"] for entry in row.classes if entry.get("has_example")}
        for entry in dataset.classes:
            if entry.id in having:
                entry.example_url = signed(f"/v1/datasets/{row.id}/classes/{entry.id}/example")
        return dataset


class DatasetEdit(Input):
    """Changes that make a new version, in the order of these fields."""

    add_dataset_ids: list[Identifier] = Field(
        [], fail_fast=True, max_length=100, description="Data sets of the same domain whose images are added."
    )
    remove_images: list[Integer] = Field(
        [], fail_fast=True, max_length=20_000, description="Numbers of images of the edited data set."
    )
    drop_classes: list[ClassName] = Field(
        [], fail_fast=True, max_length=1000, description="Names of classes whose images are left out."
    )
    rename_classes: dict[ClassName, ClassName] = Field(
        {},
        max_length=1000,
        description="New names of classes by their old names. Classes with the same new name are merged.",
        examples=[{"fruit": "food"}],
    )
    name: Name | None = Field(None, description="Name of the version.")


class DatasetCopy(Input):
    dataset_id: Identifier = Field(description="Data set of another of your domains.")
    name: Name | None = Field(None, description="Name of the copy; that of the original by default.")


class ImportedImage(Input):
    url: _ImportUrl = Field(description="Redirects are followed. It may be signed: it is deleted after the import.")
    class_name: ClassName


class ImportedBucket(Input):
    """Public bucket of an S3-compatible store, which can be listed without credentials."""

    url: _ImportUrl = Field(examples=["https://drawings.s3.eu-central-1.amazonaws.com"])
    prefix: KeyPrefix = Field("", description="Folder in the bucket. The folders in it are the classes, as in a zip.")


class DatasetImport(Input):
    """Places of the images: give either `images` or `bucket`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": exactly_one("images", "bucket")})

    images: list[ImportedImage] | None = Field(None, fail_fast=True, min_length=1, max_length=1000)
    bucket: ImportedBucket | None = None
    name: Name | None = Field(None, description="Name of the data set.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.images is None) == (self.bucket is None):
            raise ValueError("give either images or bucket")
        return self


class DatasetChange(Input):
    """Changes of a data set. Omitted fields do not change."""

    name: Name | None = optional("Free text. Null removes the name.")


def first_rejected(page: Page[Entry]) -> list[RejectedFile]:
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
    name: Name | None = Field(None, description="Name of the data set.")


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
