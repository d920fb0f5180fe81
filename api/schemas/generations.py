from dataclasses import asdict, fields
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from api.schemas.common import (
    WHOLE,
    ClassName,
    Digest,
    Identifier,
    Input,
    Integer,
    Output,
    SignedUrl,
    Time,
    exactly_one,
)
from api.schemas.datasets import JobError
from api.schemas.webhooks import Url
from core.artifact.jobs import JobStatus
from core.artifact.sampling import (
    MAX_ADAPTER_SCALE,
    MAX_GUIDANCE_SCALE,
    RECOMMENDED_GUIDANCE,
    RECOMMENDED_SAMPLER,
    RECOMMENDED_STEPS,
    TIMESTEPS,
    SamplerName,
    SamplingSettings,
    TimestepSpacing,
)
from core.artifact.seeds import MAX_SEED, random_seed
from core.service.db.models import Generation, GenerationImage
from core.service.generations import GenerationRequest

Timestep = Annotated[int, Field(ge=0, le=TIMESTEPS - 1), WHOLE]
_DEFAULTS, _STORED = GenerationRequest(), SamplingSettings()
_SAMPLING = {field.name for field in fields(SamplingSettings)}
"""Fields of `GenerationCreate` and `GenerationOut` that belong to the sampling settings (`SamplingSettings`)."""

_ONE_CLASS = exactly_one("class_name", "class_id")
_NOISE_OF_DDIM: list[JsonValue] = [
    {"properties": {"sampler": {"enum": ["ddim", None]}}},
    {"properties": {"eta": {"const": 0}}},
]
_URL_OF_A_WEBHOOK: list[JsonValue] = [
    {"properties": {"webhook_url": {"type": "null"}}},
    {"required": ["webhook_id"], "properties": {"webhook_id": {"type": "string"}}},
]
_MIX_OF_TWO: list[JsonValue] = [
    {"properties": {"mix_adapter_id": {"type": "null"}, "mix_weight": {"const": 0}}},
    {"required": ["mix_adapter_id", "mix_weight"], "properties": {"mix_adapter_id": {"type": "string"}}},
]
_RULES: dict[str, JsonValue] = {"allOf": [{"anyOf": rule} for rule in (_NOISE_OF_DDIM, _URL_OF_A_WEBHOOK, _MIX_OF_TWO)]}
_MOST_IMAGES, _MOST_CLASSES = 64, 64


class _OneClass(Input):
    """Class of images, by its name or its id."""

    class_name: ClassName | None = Field(None, description="Name of one of the adapter's classes.")
    class_id: Annotated[int, Field(ge=0, lt=2**31), WHOLE] | None = Field(
        None, description="Index of the class, instead of its name."
    )

    @model_validator(mode="after")
    def _one_class(self) -> Self:
        if (self.class_name is None) == (self.class_id is None):
            raise ValueError("give either class_name or class_id")
        return self


class _Settings(Input):
    """Settings of a generation, apart from its class."""

    count: Integer = Field(_DEFAULTS.count, ge=1, le=_MOST_IMAGES, description="Number of images.")
    seed: Annotated[int, Field(ge=0, lt=MAX_SEED), WHOLE] | None = Field(
        None, description="Image k uses seed + k. Random by default; the response has the seed."
    )
    steps: Annotated[int, Field(ge=1, le=TIMESTEPS), WHOLE] | None = Field(
        None,
        description=f"Sampling steps. Default: {RECOMMENDED_STEPS['dpmpp_2m']} with `dpmpp_2m`, "
        f"{RECOMMENDED_STEPS['ddim']} with the other samplers.",
    )
    adapter_scale: float = Field(
        _STORED.adapter_scale,
        ge=0,
        le=MAX_ADAPTER_SCALE,
        description="Strength of the adapter: 0 is the base, 1 the adapter; values between are weaker, values above 1 "
        "exaggerate. Costs the same.",
    )
    guidance_scale: float = Field(
        _STORED.guidance_scale,
        ge=0,
        le=MAX_GUIDANCE_SCALE,
        description="Guidance: how far images move away from what the adapter draws without a class. 1 switches it off "
        "and needs one model evaluation per step, instead of two in each guided step. A version with learned guidance "
        "takes scales up to `learned_guidance`, with one evaluation per step.",
    )
    guidance_adapter_scale: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="Scale of the adapter that guidance moves away from: 1 for the adapter itself (classifier-free "
        "guidance), 0 for the base, values between for a weaker version of the adapter. Multiplies `adapter_scale`. "
        f"Costs the same. Default: {RECOMMENDED_GUIDANCE['guidance_adapter_scale']:g}, or 1 for images of twice the "
        "base's size.",
    )
    guidance_interval: Annotated[tuple[Timestep, Timestep], Field(strict=False)] | None = Field(
        None,
        description="Lowest and highest noise level (of 1,000) with guidance. Guiding only the middle levels costs "
        "less and gives more varied images. Default: {} to {}, or all levels for images of twice the base's "
        "size.".format(*RECOMMENDED_GUIDANCE["guidance_interval"]),
        examples=[[200, 800]],
    )
    sampler: SamplerName | None = Field(
        None,
        description="`dpmpp_2m` needs the fewest steps; `ddpm` adds fresh noise at every step, and so does `ddim` with "
        f"`eta`. Default: `{RECOMMENDED_SAMPLER}`, or `ddim` if `eta` is given.",
    )
    eta: float = Field(
        _STORED.eta, ge=0, le=1, description="Noise added by `ddim`: 0 for none, 1 for as much as `ddpm`."
    )
    timestep_spacing: TimestepSpacing = Field(
        _STORED.timestep_spacing,
        description="Noise levels of the steps: `trailing` starts at the highest and spaces the rest evenly; `dit` "
        "includes the lowest too, as DiT's own sampling does.",
    )
    adapter_id: Identifier | None = Field(
        None, description="Id of a version of the domain, or `base` for the base itself. The active version by default."
    )
    mix_adapter_id: Identifier | None = Field(
        None,
        description="Another version, of any of your domains and of the same base, that is mixed into the first with "
        "the weight `mix_weight`. Classes are matched by name. Costs the same. Versions with learned guidance or for "
        "images of twice the base's size cannot be mixed.",
    )
    mix_weight: float = Field(
        _STORED.mix_weight,
        ge=0,
        le=1,
        description="Weight of `mix_adapter_id`: 0 is the first version, 1 the other, values between mix them. "
        "`adapter_scale` is then the strength of the mix. Needs `mix_adapter_id`.",
    )
    priority: Integer = Field(
        _DEFAULTS.priority, ge=-10, le=10, description="Priority among your own requests; higher runs first."
    )
    deadline_seconds: float | None = Field(
        None, gt=0, le=86_400, description="Seconds until the request fails with `deadline_exceeded` if unfinished."
    )
    previews: Integer = Field(
        _DEFAULTS.previews, ge=0, le=10, description="Number of evenly spaced previews per image."
    )
    webhook_id: Identifier | None = Field(
        None,
        description="One of your webhooks, which is sent the end of this generation, whatever its `events` are. A "
        "webhook whose `events` are empty is sent nothing else.",
    )
    webhook_url: Url | None = Field(
        None,
        description="URL to which it is sent instead of the webhook's own, signed with the webhook's secret. Starts "
        "with https:// and resolves to a public address. Needs `webhook_id`.",
    )

    @model_validator(mode="after")
    def _settings_that_fit(self) -> Self:
        SamplingSettings.completed(self._sampling())
        if self.webhook_url is not None and self.webhook_id is None:
            raise ValueError("webhook_url needs webhook_id, the webhook whose secret signs the event")
        if self.mix_adapter_id is None and self.mix_weight:
            raise ValueError("mix_weight needs mix_adapter_id, the version to mix")
        if self.mix_adapter_id is not None and "mix_weight" not in self.model_fields_set:
            raise ValueError("mix_adapter_id needs mix_weight, the weight of that version")
        return self

    def _sampling(self) -> dict[str, Any]:
        return self.model_dump(include=_SAMPLING, exclude_none=True, exclude_unset=True)


class GenerationCreate(_Settings, _OneClass):
    """Settings of a generation. Give either `class_name` or `class_id`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _ONE_CLASS, **_RULES})

    def to_request(self) -> GenerationRequest:
        return GenerationRequest(**self.model_dump(exclude=_SAMPLING), sampling=self._sampling())


class BatchClassCreate(_OneClass):
    """Class of a batch. Give either `class_name` or `class_id`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _ONE_CLASS})

    count: Annotated[int, Field(ge=1, le=_MOST_IMAGES), WHOLE] | None = Field(
        None, description="Number of images of this class."
    )


class GenerationBatchCreate(_Settings):
    """Settings of a batch: one generation for each class. All get the same seed, so that image k of every class uses
    seed + k, as in separate requests with this seed."""

    model_config = ConfigDict(json_schema_extra=_RULES)

    count: Integer = Field(
        _DEFAULTS.count, ge=1, le=_MOST_IMAGES, description="Number of images of each class without its own `count`."
    )
    classes: list[BatchClassCreate] = Field(
        fail_fast=True,
        min_length=1,
        max_length=_MOST_CLASSES,
        description="Classes, in the order of the response.",
        examples=[[{"class_name": "fruit", "count": 4}, {"class_name": "heart"}]],
    )

    def to_requests(self) -> list[GenerationRequest]:
        """Returns the request for each class. A batch without a seed gets a random one."""
        shared = self.model_dump(exclude={"classes", *_SAMPLING}) | {"sampling": self._sampling()}
        shared["seed"] = random_seed() if self.seed is None else self.seed
        own = (each.model_dump(exclude_none=True) for each in self.classes)
        return [GenerationRequest(**shared | values) for values in own]


class ImageOut(BaseModel):
    id: str = Field(description="Id for requests about several images.", examples=["gen_01m84b6j5r0q4d8n8c6t8y9k2p/0"])
    index: int
    url: str = Field(
        description="Absolute, signed and expiring URL. It works in an `<img>` without a key.",
        examples=["http://127.0.0.1:8000/v1/generations/gen_…/images/0?expires=1795442340&signature=…"],
    )
    seed: int = Field(description="Regenerates this image alone, with a count of 1.")
    sha256: Digest = Field(description="SHA-256 of the bytes that the URL returns.")
    width: int
    height: int
    favourite: bool
    label: str | None = Field(description="Your text on the image.")


class PreviewOut(BaseModel):
    """Preview: the final image as predicted after one of its sampling steps."""

    index: int = Field(description="Index of the image.")
    step: int = Field(description="Number of completed steps.")
    url: str = Field(description="Absolute, signed and expiring URL.")


class Timings(BaseModel):
    """Durations of a generation's phases, in seconds. They are null until the generation has succeeded."""

    model_config = ConfigDict(extra="allow")

    loading: float | None = Field(None, description="Time to load the adapter into the worker's memory.")
    queued: float | None = Field(None, description="Time in the engine before the first step.")
    activation: float | None = Field(None, description="Time to copy the adapter to the device.")
    total: float | None = Field(None, description="Time in the engine until the last image.")


class GenerationOut(Output):
    id: str = Field(examples=["gen_01m84b6j5r0q4d8n8c6t8y9k2p"])
    domain_id: str
    status: JobStatus
    progress: float = Field(description="Completed fraction, from 0 to 1.")
    class_id: int
    class_name: str
    count: int
    seed: int = Field(description="Seed of the first image, random if the request had none.")
    steps: int
    adapter_scale: float
    mix_weight: float
    guidance_scale: float
    guidance_adapter_scale: float
    guidance_interval: tuple[int, int]
    sampler: str
    eta: float
    timestep_spacing: str
    learned_guidance: bool = Field(description="Whether the version itself has learned guidance.")
    priority: int
    webhook_id: str | None
    webhook_url: str | None
    adapter_id: str | None = Field(
        description="Version used, which may have been deleted since; null for the base itself."
    )
    mix_adapter_id: str | None = Field(
        description="Version that was mixed into it, which may have been deleted since; null for none."
    )
    images: list[ImageOut] = Field(
        description="Empty until the generation succeeds. Favourites may be left after it expires."
    )
    previews: list[PreviewOut] = Field(
        description="Previews so far, ordered by step. Stored for some days after the end."
    )
    timings: Timings
    model_evaluations: int = Field(
        description="Model evaluations (NFE): one per image and step, a second in guided steps."
    )
    error: JobError | None
    created_at: Time
    cancel_requested_at: Time | None = Field(description="Time of the first request to cancel it.")
    finished_at: Time | None
    expired_at: Time | None = Field(
        description="Time when previews and images expired, apart from favourites that are kept. Since then their URLs "
        "return 410 `image_expired`."
    )

    @classmethod
    def of(cls, row: Generation, signed: SignedUrl) -> "GenerationOut":
        facts = {name: getattr(row, name) for name in cls.model_fields.keys() - _SAMPLING - {"images", "previews"}}
        path = f"/v1/generations/{row.id}"
        # These conditions avoid queries that cannot return any rows.
        images = row.images if row.status == "succeeded" else []  # after it has expired, the favourites that are kept
        previews = row.previews if row.preview_count and row.expired_at is None else []
        return cls.model_validate(
            {
                **facts,
                **asdict(row.sampling),
                "learned_guidance": row.sampling.learned_guidance > 0,
                "images": [rendered_image(image, signed) for image in images],
                "previews": [
                    {
                        "index": preview.index,
                        "step": preview.step,
                        "url": signed(f"{path}/previews/{preview.index}/{preview.step}"),
                    }
                    for preview in previews
                ],
            }
        )


class GenerationBatchOut(BaseModel):
    """Generations of a batch."""

    domain_id: str
    seed: int = Field(description="Seed of the first image of every class.")
    data: list[GenerationOut] = Field(description="One generation for each class of the request, in its order.")

    @classmethod
    def of(cls, rows: list[GenerationOut]) -> "GenerationBatchOut":
        return cls(domain_id=rows[0].domain_id, seed=rows[0].seed, data=rows)


def rendered_image(image: GenerationImage, signed: SignedUrl) -> dict[str, object]:
    """Returns the fields of an `ImageOut`, with the image's signed URL."""
    url = signed(f"/v1/generations/{image.generation_id}/images/{image.index}")
    return {**{name: getattr(image, name) for name in ImageOut.model_fields if name != "url"}, "url": url}
