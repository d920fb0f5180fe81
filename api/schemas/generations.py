from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from api.schemas.common import Identifier, Input, Output, Time
from api.schemas.datasets import JobError
from core.db.models import Generation, GenerationImage
from core.generations.service import GenerationRequest

ImageUrl = Callable[[str, int], str]


class GenerationCreate(Input):
    class_name: Identifier | None = Field(None, examples=["fruit"])
    class_id: int | None = Field(None, ge=0, lt=2**31)
    count: int = Field(1, ge=1, le=64)
    seed: int = Field(0, ge=0, lt=2**62, description="Image k uses seed + k.")
    steps: int = Field(50, ge=1, le=1000)
    guidance_scale: float = Field(4.0, ge=0, le=50, description="1 draws without guidance, at half the cost.")
    sampler: Literal["ddim"] = "ddim"
    adapter_id: Identifier | None = Field(None, description="A version of the domain, or `base` for the base itself.")
    priority: int = Field(0, ge=-10, le=10, description="Among your own requests.")
    deadline_seconds: float | None = Field(None, gt=0, le=86_400)

    @model_validator(mode="after")
    def _one_class(self) -> "GenerationCreate":
        if (self.class_name is None) == (self.class_id is None):
            raise ValueError("give either class_name or class_id")
        return self

    def to_request(self) -> GenerationRequest:
        return GenerationRequest(**self.model_dump())


class ImageOut(BaseModel):
    index: int
    url: str = Field(description="Signed and expiring: works in an <img> without a key.")
    seed: int
    sha256: str
    width: int
    height: int


class GenerationOut(Output):
    id: str
    domain_id: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float
    class_id: int
    class_name: str
    count: int
    seed: int
    steps: int
    guidance_scale: float
    sampler: str
    priority: int
    adapter_id: str | None
    images: list[ImageOut]
    timings: dict[str, Any] = Field(description="Seconds: queued, activation, total.")
    row_steps: int
    error: JobError | None
    created_at: Time
    finished_at: Time | None

    @classmethod
    def of(cls, row: Generation, image_url: ImageUrl) -> "GenerationOut":
        """`image_url` makes the signed URL of an image's index."""
        facts = {name: getattr(row, name) for name in cls.model_fields if name != "images"}
        return cls.model_validate({**facts, "images": [_image(image, image_url) for image in row.images]})


def _image(image: GenerationImage, image_url: ImageUrl) -> dict[str, object]:
    facts = {name: getattr(image, name) for name in ImageOut.model_fields if name != "url"}
    return {**facts, "url": image_url(image.generation_id, image.index)}
