from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.common import Output, Time
from core.db.models import Dataset


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

    @classmethod
    def of(cls, row: Dataset) -> "DatasetOut":
        return cls.model_validate({**row.__dict__, "size_bytes": row.archive_bytes, "error": job_error(row)})


def job_error(row: object) -> dict[str, str] | None:
    code, detail = getattr(row, "error_code", None), getattr(row, "error_detail", None)
    return None if code is None else {"code": code, "detail": detail or ""}
