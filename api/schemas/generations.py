from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas.common import ClassName, Digest, Identifier, Input, Output, Time
from api.schemas.datasets import JobError
from core.db.models import Generation, GenerationImage
from core.generations.service import GenerationRequest

ImageUrl = Callable[[str, int], str]
_DEFAULTS = GenerationRequest()


class GenerationCreate(Input):
    """Give `class_name` or `class_id`, not both."""

    class_name: ClassName | None = Field(None, description="One of the adapter's classes.")
    class_id: int | None = Field(None, ge=0, lt=2**31, description="The same by its position.")
    count: int = Field(_DEFAULTS.count, ge=1, le=64, description="Images to draw.")
    seed: int = Field(_DEFAULTS.seed, ge=0, lt=2**62, description="Image k uses seed + k.")
    steps: int = Field(_DEFAULTS.steps, ge=1, le=1000, description="Sampling steps.")
    guidance_scale: float = Field(
        _DEFAULTS.guidance_scale,
        ge=0,
        le=50,
        description="Classifier-free guidance; 1 draws without, at half the cost.",
    )
    sampler: Literal["ddim"] = "ddim"
    adapter_id: Identifier | None = Field(
        None, description="A version of the domain, or `base` for the base itself; the active version when left out."
    )
    priority: int = Field(_DEFAULTS.priority, ge=-10, le=10, description="Among your own requests; higher goes first.")
    deadline_seconds: float | None = Field(
        None, gt=0, le=86_400, description="From now; what is not drawn by then fails with `deadline_exceeded`."
    )
    previews: bool = Field(False, description="Reserved: accepted, but this version shows `progress` alone.")

    @model_validator(mode="after")
    def _one_class(self) -> "GenerationCreate":
        if (self.class_name is None) == (self.class_id is None):
            raise ValueError("give either class_name or class_id")
        return self

    def to_request(self) -> GenerationRequest:
        return GenerationRequest(**self.model_dump(exclude={"previews"}))


class ImageOut(BaseModel):
    index: int
    url: str = Field(
        description="Absolute, signed and expiring: works in an `<img>` without a key.",
        examples=["http://127.0.0.1:8000/v1/generations/gen_…/images/0?expires=1795442340&signature=…"],
    )
    seed: int = Field(description="Draws this image alone again, with a count of 1.")
    sha256: Digest = Field(description="Of exactly the bytes that the URL serves.")
    width: int
    height: int


class Timings(BaseModel):
    """Seconds; null until it succeeded."""

    model_config = ConfigDict(extra="allow")

    queued: float | None = Field(None, description="In the engine, before the first step.")
    activation: float | None = Field(None, description="To bring the adapter into the device's table.")
    total: float | None = Field(None, description="In the engine, until the last image.")


class GenerationOut(Output):
    id: str = Field(examples=["gen_01m84b6j5r0q4d8n8c6t8y9k2p"])
    domain_id: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: float = Field(description="0 to 1.")
    class_id: int
    class_name: str
    count: int
    seed: int
    steps: int
    guidance_scale: float
    sampler: str
    priority: int
    adapter_id: str | None = Field(description="The version that draws; null for the base itself.")
    images: list[ImageOut] = Field(description="Empty until it succeeded.")
    timings: Timings
    row_steps: int = Field(description="Forward rows that it took: one for each image and step, two where guided.")
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
