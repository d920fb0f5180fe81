from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.schemas.common import WHOLE, Identifier, Input, Integer, JobStatus, Output, Time
from api.schemas.datasets import JobError
from core.artifact.sites import METHODS
from core.service.finetunes.service import FinetuneRequest

_DEFAULTS = FinetuneRequest(dataset_id="")


class FinetuneCreate(Input):
    dataset_id: Identifier = Field(
        description="A data set of this domain that is `ready`.", examples=["ds_01m84b6j3wmxg6fxz5yqv3ce5r"]
    )
    method: Identifier = Field(
        _DEFAULTS.method,
        json_schema_extra={"enum": list(METHODS)},  # others get an error of their own
        description="`difffit` trains biases, norms and scale factors; `bitfit` biases alone. Adapters of the paper's "
        "other methods cannot be drawn in one batch with other domains': `difffit train --method` trains them without "
        "a server.",
    )
    preset: Literal["paper", "literal"] = Field(
        "paper",
        description="Where DiffFit (arXiv 2304.06648) trains. `paper`: as in its Table 1, with affine norms; "
        "`literal`: as in its Algorithms 1 to 3 on the released DiT, without them.",
    )
    steps: Integer = Field(_DEFAULTS.steps, ge=1, le=100_000, description="Optimizer steps.")
    batch_size: Integer = Field(
        _DEFAULTS.batch_size, ge=1, le=1024, description="Images a step; may be larger than the data set."
    )
    learning_rate: float = Field(_DEFAULTS.learning_rate, gt=0, le=1)
    seed: Integer = Field(
        _DEFAULTS.seed,
        ge=0,
        lt=2**53,
        description="Equal data, settings and seed give an equal adapter on one device.",
    )
    # The limits stand inside: the document would lack those of a union.
    image_size: Annotated[int, Field(ge=1, lt=2**16), WHOLE] | None = Field(
        _DEFAULTS.image_size,
        description="Pixels a side of what is trained on and drawn: the base's size, which is the default, or twice "
        "that, for four times the work. Both are served side by side.",
    )
    auto_promote: bool = Field(
        _DEFAULTS.auto_promote, description="Make the new version active at once. A domain's first one always is."
    )
    dry_run: bool = Field(False, description="Only estimate: answers 200, and nothing is stored or started.")

    def to_request(self) -> FinetuneRequest:
        return FinetuneRequest(**self.model_dump(exclude={"dry_run"}))


class FinetuneOut(Output):
    id: str = Field(examples=["ft_01m84b6j4c2m5d0mst2xghx6vq"])
    domain_id: str
    dataset_id: str
    status: JobStatus
    method: str
    preset: str | None
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    image_size: int | None = Field(description="Pixels a side; null is the base's size.")
    auto_promote: bool
    step: int = Field(description="Steps that are done.")
    loss: float | None = Field(description="Mean over the last steps.")
    held_out_loss_base: float | None = Field(description="Of the base on held-out images, with the null label.")
    held_out_loss_adapter: float | None = Field(description="Of the adapter on the same images, own labels.")
    held_out_loss_adapter_null: float | None = Field(description="The same with the null label.")
    seconds: float = Field(description="Device time of the training steps.")
    eta_seconds: float | None = Field(description="Device time that is left, as the last steps went.")
    trainable_parameters: int | None = Field(description="Null until it runs.")
    adapter_id: str | None = Field(description="The new version, once it succeeded.")
    error: JobError | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


class EstimateOut(Output):
    """What a fine-tune would take."""

    trainable_parameters: int
    trainable_fraction: float = Field(description="Of the base's parameters.")
    adapter_bytes: int
    images_seen: int = Field(description="steps x batch_size.")
    epochs: float = Field(description="How often each image of the data set is seen.")
    tokens: int = Field(description="That a step puts through the transformer; four times as many at twice the size.")
    seconds: float | None = Field(
        description="Device time, as your last fine-tunes on this base went; null before the first."
    )
    images_at_once: int = Field(
        description="Images of a batch that pass at once, at most. A larger batch passes in parts, for other tenants' "
        "sake and for memory's; sums round differently then, and nothing else changes. A worker that is short of "
        "memory takes fewer. 0 when not even one fits into the workers' memory: it would end as `out_of_memory`."
    )
    memory_bytes: int = Field(
        description="Memory that a step takes on the worker. `batch_size` hardly changes it, `image_size` does."
    )


class MetricPoint(BaseModel):
    """Means since the point before."""

    step: int
    steps: int
    loss: float
    gradient_norm: float
    seconds: float
    eta_seconds: float | None


class MetricsOut(Output):
    data: list[MetricPoint] = Field(description="The loss curve, from the first step on.")
