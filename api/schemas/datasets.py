from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.common import Digest, Output, Time


class ClassOut(BaseModel):
    id: int = Field(description="Position of the name among all class names, sorted after NFC normalization.")
    name: str = Field(examples=["fruit"])
    images: int


class RejectedFile(BaseModel):
    file: str = Field(examples=["fruit/apple.png"])
    code: str = Field(examples=["duplicate", "corrupt", "not_an_image"])
    detail: str


class ReportOut(BaseModel):
    """Accepted and rejected files together are the files that were sent."""

    accepted: int = 0
    rejected: list[RejectedFile] = []


class JobError(BaseModel):
    """Why it failed."""

    code: str = Field(description="Stable.", examples=["attempts_exhausted"])
    detail: str = Field(description="What to do.")


class DatasetOut(Output):
    id: str = Field(examples=["ds_01m84b6j3wmxg6fxz5yqv3ce5r"])
    domain_id: str
    status: Literal["validating", "ready", "rejected"]
    classes: list[ClassOut] = Field(description="Empty until it is ready.")
    images: int = Field(description="Accepted ones.")
    report: ReportOut
    size_bytes: int = Field(description="Of the zip.")
    digest: Digest | None = Field(description="Of the accepted images and their classes: equal content, equal digest.")
    error: JobError | None = Field(description="Why it was rejected.")
    created_at: Time
    finished_at: Time | None = Field(description="When it became ready or rejected.")
