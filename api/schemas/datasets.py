from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.common import Output, Time


class ClassOut(BaseModel):
    id: int
    name: str
    images: int


class RejectedFile(BaseModel):
    file: str
    code: str = Field(examples=["duplicate", "corrupt", "not_an_image"])
    detail: str


class ReportOut(BaseModel):
    accepted: int = 0
    rejected: list[RejectedFile] = []


class JobError(BaseModel):
    code: str
    detail: str


class DatasetOut(Output):
    id: str
    domain_id: str
    status: Literal["validating", "ready", "rejected"]
    classes: list[ClassOut]
    images: int
    report: ReportOut
    size_bytes: int
    digest: str | None = Field(description="Of the accepted images and their classes.")
    error: JobError | None
    created_at: Time
