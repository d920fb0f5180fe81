from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from api.schemas.common import WHOLE, ClassName, Digest, Identifier, Input, Integer, JobStatus, Output, SignedUrl, Time
from api.schemas.datasets import JobError
from core.artifact.sampling import TIMESTEPS, SamplerName
from core.service.db.models import Generation, GenerationImage
from core.service.generations.service import GenerationRequest

Timestep = Annotated[int, Field(ge=0, le=TIMESTEPS - 1), WHOLE]
_DEFAULTS = GenerationRequest()


_ONE_CLASS: list[JsonValue] = [
    {"required": [name], "properties": {name: {"not": {"type": "null"}}, other: {"type": "null"}}}
    for name, other in (("class_name", "class_id"), ("class_id", "class_name"))
]
_NOISE_OF_DDIM: list[JsonValue] = [
    {"properties": {"sampler": {"const": "ddim"}}},
    {"properties": {"eta": {"const": 0}}},
]


class GenerationCreate(Input):
    """Give `class_name` or `class_id`, not both."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _ONE_CLASS, "anyOf": _NOISE_OF_DDIM})

    class_name: ClassName | None = Field(None, description="One of the adapter's classes.")
    class_id: Annotated[int, Field(ge=0, lt=2**31), WHOLE] | None = Field(None, description="The same by its position.")
    count: Integer = Field(_DEFAULTS.count, ge=1, le=64, description="Images to draw.")
    seed: Integer = Field(_DEFAULTS.seed, ge=0, lt=2**53, description="Image k uses seed + k.")
    steps: Integer = Field(_DEFAULTS.steps, ge=1, le=1000, description="Sampling steps.")
    guidance_scale: float = Field(
        _DEFAULTS.guidance_scale,
        ge=0,
        le=50,
        description="Classifier-free guidance; 1 draws without, at half the cost.",
    )
    guidance_interval: tuple[Timestep, Timestep] = Field(
        _DEFAULTS.guidance_interval,
        strict=False,  # JSON has lists alone
        description="Both ends of those of the 1,000 noise levels that are guided. Guiding the middle alone costs less "
        "and varies more.",
        examples=[[200, 800]],
    )
    sampler: SamplerName = Field(
        _DEFAULTS.sampler,
        description="`ddim`; `ddpm`, with fresh noise at every step; `dpmpp_2m`, which needs the fewest steps.",
    )
    eta: float = Field(_DEFAULTS.eta, ge=0, le=1, description="Noise of `ddim`: 0 for none, 1 for as much as `ddpm`.")
    adapter_id: Identifier | None = Field(
        None, description="A version of the domain, or `base` for the base itself; the active version when left out."
    )
    priority: Integer = Field(
        _DEFAULTS.priority, ge=-10, le=10, description="Among your own requests; higher goes first."
    )
    deadline_seconds: float | None = Field(
        None, gt=0, le=86_400, description="From now; what is not drawn by then fails with `deadline_exceeded`."
    )
    previews: Integer = Field(
        _DEFAULTS.previews, ge=0, le=10, description="How often each image is shown on its way, in even distances."
    )

    @model_validator(mode="after")
    def _one_class(self) -> "GenerationCreate":
        if (self.class_name is None) == (self.class_id is None):
            raise ValueError("give either class_name or class_id")
        return self

    @model_validator(mode="after")
    def _settings_that_fit(self) -> "GenerationCreate":
        if self.eta and self.sampler != "ddim":
            raise ValueError("eta belongs to the sampler ddim")
        self.guidance_interval = (min(self.guidance_interval), max(self.guidance_interval))
        return self

    def to_request(self) -> GenerationRequest:
        return GenerationRequest(**self.model_dump())


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


class PreviewOut(BaseModel):
    """An image as it would end, seen from one of its steps."""

    index: int = Field(description="Of the image.")
    step: int = Field(description="Steps made by then.")
    url: str = Field(description="Absolute, signed and expiring.")


class Timings(BaseModel):
    """Seconds; null until it succeeded."""

    model_config = ConfigDict(extra="allow")

    loading: float | None = Field(None, description="Until the adapter lay in the worker's memory.")
    queued: float | None = Field(None, description="In the engine, until the first step was made.")
    activation: float | None = Field(None, description="To bring the adapter into the device's table.")
    total: float | None = Field(None, description="In the engine, until the last image.")


class GenerationOut(Output):
    id: str = Field(examples=["gen_01m84b6j5r0q4d8n8c6t8y9k2p"])
    domain_id: str
    status: JobStatus
    progress: float = Field(description="0 to 1.")
    class_id: int
    class_name: str
    count: int
    seed: int
    steps: int
    guidance_scale: float
    guidance_interval: tuple[int, int]
    sampler: str
    eta: float
    priority: int
    adapter_id: str | None = Field(description="The version that draws; null for the base itself.")
    images: list[ImageOut] = Field(description="Empty until it succeeded, and after they expired.")
    previews: list[PreviewOut] = Field(
        description="As they come, in the order of their steps; kept for some days afterwards."
    )
    timings: Timings
    row_steps: int = Field(description="Forward rows that it took: one for each image and step, two where guided.")
    error: JobError | None
    created_at: Time
    finished_at: Time | None
    expired_at: Time | None = Field(
        description="When its images and previews were removed by age; their URLs answer 410 `image_expired` since."
    )

    @classmethod
    def of(cls, row: Generation, signed: SignedUrl) -> "GenerationOut":
        own = {"images", "previews", "guidance_interval"}
        facts = {name: getattr(row, name) for name in cls.model_fields if name not in own}
        path = f"/v1/generations/{row.id}"
        # No query for what cannot be there.
        images = row.images if row.status == "succeeded" and row.expired_at is None else []
        previews = row.previews if row.preview_count and row.expired_at is None else []
        return cls.model_validate(
            {
                **facts,
                "guidance_interval": (row.guidance_from, row.guidance_to),
                "images": [_image(image, signed(f"{path}/images/{image.index}")) for image in images],
                "previews": [
                    {"index": one.index, "step": one.step, "url": signed(f"{path}/previews/{one.index}/{one.step}")}
                    for one in previews
                ],
            }
        )


def _image(image: GenerationImage, url: str) -> dict[str, object]:
    return {**{name: getattr(image, name) for name in ImageOut.model_fields if name != "url"}, "url": url}
