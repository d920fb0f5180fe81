from dataclasses import asdict, replace
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.schemas.common import WHOLE, Identifier, Input, Integer, Output, Time
from api.schemas.datasets import JobError
from core.artifact.jobs import JobStatus
from core.artifact.sites import METHODS
from core.artifact.training import DEFAULT_TRAINING
from core.service.db.models import Finetune
from core.service.finetunes.service import FinetuneRequest

_DEFAULTS = FinetuneRequest(dataset_id="")
_TRAINING = {
    *("steps", "batch_size", "learning_rate", "seed", "sampling"),
    *("evaluate_every", "keep", "early_stopping", "distill_guidance", "distill_steps"),
}
"""Fields of `FinetuneCreate` that belong to the training settings (`TrainingSettings`)."""
_TWO_STEPS_WITH_GUIDANCE: list[JsonValue] = [
    {"properties": {"distill_guidance": {"type": "null"}}},
    {"properties": {"steps": {"minimum": 2}}},
]


class FinetuneCreate(Input):
    model_config = ConfigDict(json_schema_extra={"allOf": [{"anyOf": _TWO_STEPS_WITH_GUIDANCE}]})

    dataset_id: Identifier = Field(
        description="A data set of this domain that is `ready`.", examples=["ds_01m84b6j3wmxg6fxz5yqv3ce5r"]
    )
    method: Identifier = Field(
        _DEFAULTS.method,
        json_schema_extra={"enum": list(METHODS)},  # not a Literal, since other methods get an error of their own
        description="`difffit` trains biases, norms and scale factors; `bitfit` trains only biases. Adapters of the "
        "paper's other methods cannot share a batch with other domains: train them without a server, with "
        "`difffit train --method`.",
    )
    preset: Literal["paper", "literal"] = Field(
        "paper",
        description="Parameters that DiffFit (arXiv 2304.06648) trains. `paper`: those of Table 1, with affine norms; "
        "`literal`: those of Algorithms 1 to 3 on the released DiT, without affine norms.",
    )
    steps: Integer = Field(_DEFAULTS.training.steps, ge=1, le=100_000, description="Optimizer steps.")
    batch_size: Integer = Field(
        _DEFAULTS.training.batch_size,
        ge=1,
        le=1024,
        description="Images per step; may exceed the size of the data set.",
    )
    learning_rate: float = Field(_DEFAULTS.training.learning_rate, gt=0, le=1)
    seed: Integer = Field(
        _DEFAULTS.training.seed,
        ge=0,
        lt=2**53,
        description="The same data, settings and seed give the same adapter up to rounding, which depends on the "
        "device and, for batches that are split, on its free memory.",
    )
    sampling: Literal["shuffled", "balanced"] = Field(
        _DEFAULTS.training.sampling,
        description="Choice of the training images. `shuffled` shows every image equally often; `balanced` shows every "
        "class equally often, for data sets with classes of very different size.",
    )
    evaluate_every: Integer = Field(
        _DEFAULTS.training.evaluate_every,
        ge=1,
        le=100_000,
        description="Steps between two evaluations of the adapter on held-out images. They add at most 5 % to the time "
        "of training. A data set too small for held-out images has no evaluations.",
    )
    keep: Literal["last", "best"] = Field(
        _DEFAULTS.training.keep,
        description="Adapter that becomes the new version: that of the last step, or that of the evaluation with the "
        "lowest held-out loss.",
    )
    early_stopping: Annotated[int, Field(ge=1, le=1000), WHOLE] | None = Field(
        _DEFAULTS.training.early_stopping,
        description="Number of evaluations without a lower held-out loss after which training ends early, and "
        "succeeds. The new version is then the best, whatever `keep` is. By default all steps are trained.",
    )
    distill_guidance: Annotated[float, Field(gt=1, le=10)] | None = Field(
        _DEFAULTS.training.distill_guidance,
        description="Highest guidance scale that the version learns. It then generates guided images in one model "
        "evaluation per step instead of two, and takes no other kind of guidance. It learns guidance against 75 % of "
        "itself, at all noise levels.",
    )
    distill_steps: Integer = Field(
        _DEFAULTS.training.distill_steps,
        ge=1,
        le=100_000,
        description="Number of the last steps that learn guidance, at most half of all. Each takes about twice the "
        "time.",
    )
    # The limits are inside the union, or the OpenAPI document would lack them.
    image_size: Annotated[int, Field(ge=1, lt=2**16), WHOLE] | None = Field(
        _DEFAULTS.image_size,
        description="Side in pixels of training and generated images: the base's size (the default) or twice that, "
        "which costs four times as much. Both sizes are served at the same time.",
    )
    train_class_table: bool = Field(
        _DEFAULTS.train_class_table,
        description="Whether to train the class embeddings. `false` keeps those of the base, which must then have all "
        "classes of the data set by name, or those of the version to continue from. The paper does so where only the "
        "image size changes.",
    )
    from_adapter_id: Identifier | None = Field(
        _DEFAULTS.from_adapter_id,
        description="Version to continue from, of any of your domains and of the same base. `method`, `preset` and "
        "`image_size` are those of the version. Classes are matched by name; new classes start as without a version.",
    )
    auto_promote: bool = Field(
        _DEFAULTS.auto_promote,
        description="Make the new version active when it succeeds. A domain's first version always becomes active.",
    )
    dry_run: bool = Field(
        False, description="Only estimate the cost: the response is 200, and nothing is stored or started."
    )

    def to_request(self) -> FinetuneRequest:
        """Returns the request. Raises InvalidRequest for settings that exclude each other."""
        training = replace(DEFAULT_TRAINING, **self.model_dump(include=_TRAINING))
        training.check()
        own, stated = self.model_dump(exclude={"dry_run", *_TRAINING}), frozenset(self.model_fields_set)
        return FinetuneRequest(**own, training=training, stated=stated)


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
    sampling: str
    evaluate_every: int = Field(description="0 for fine-tunes of earlier releases, which were not evaluated.")
    keep: str
    early_stopping: int | None
    distill_guidance: float | None
    distill_steps: int
    image_size: int | None = Field(description="Side in pixels; null means the base's size.")
    train_class_table: bool
    from_adapter_id: str | None = Field(
        description="Version that it continues from, which may have been deleted since; null for the base."
    )
    auto_promote: bool
    step: int = Field(description="Number of completed steps.")
    loss: float | None = Field(description="Mean training loss of the latest steps.")
    held_out_loss_base: float | None = Field(description="Loss of the base on held-out images, with the null label.")
    held_out_loss_adapter: float | None = Field(
        description="Loss of the adapter on the same images, with their labels."
    )
    held_out_loss_adapter_null: float | None = Field(
        description="Loss of the adapter on the same images, with the null label."
    )
    seconds: float = Field(description="Device time of the training steps.")
    eta_seconds: float | None = Field(description="Estimated remaining device time, from the latest steps.")
    trainable_parameters: int | None = Field(description="Null until the fine-tune runs.")
    adapter_id: str | None = Field(
        description="The new version, once the fine-tune has succeeded, and until the version is deleted."
    )
    adapter_step: int | None = Field(description="Step that the new version is of. The best can be before the last.")
    stop_reason: str | None = Field(
        description="Reason why training ended: `all_steps`, or `early_stopping` before the last step. Null until then."
    )
    error: JobError | None
    created_at: Time
    cancel_requested_at: Time | None = Field(description="Time of the first request to cancel it.")
    started_at: Time | None
    finished_at: Time | None

    @classmethod
    def of(cls, row: Finetune) -> "FinetuneOut":
        training = asdict(row.training)
        return cls.model_validate({name: training.get(name, getattr(row, name, None)) for name in cls.model_fields})


class EstimateOut(Output):
    """Estimated cost of a fine-tune."""

    trainable_parameters: int
    trainable_fraction: float = Field(description="Fraction of the base's parameters.")
    adapter_bytes: int = Field(description="Size of the adapter's file, apart from its manifest of about a kilobyte.")
    images_seen: int = Field(description="steps x batch_size.")
    epochs: float = Field(description="Number of times each image of the data set is seen.")
    suggested_steps: int = Field(
        description="Number of steps that suits the size of the data set at this batch size: about 80 epochs, measured "
        "on small data sets. With `early_stopping`, more steps do no harm."
    )
    tokens: int = Field(description="Tokens per training step. Doubling the image size quadruples this.")
    seconds: float | None = Field(
        description="Device time, estimated from your latest fine-tunes on this base. Null before the first."
    )
    images_at_once: int = Field(
        description="Maximum number of images per forward pass. A larger batch is split, to save memory and to let "
        "other tenants run in between; only rounding differs. A worker short of memory takes fewer images. 0 means "
        "that not even one image fits into the workers' memory, so the fine-tune would fail with `out_of_memory`."
    )
    memory_bytes: int = Field(
        description="Memory of a training step on the worker. It depends on `image_size`, and little on `batch_size`."
    )


class MetricPoint(BaseModel):
    """Point of the loss curve: mean loss and seconds since the previous point, and the latest gradient norm."""

    step: int
    steps: int
    loss: float
    gradient_norm: float
    seconds: float
    eta_seconds: float | None


class EvaluationPoint(BaseModel):
    """Loss of the adapter on the held-out images after a training step. Timesteps and noise are the same each time."""

    step: int
    held_out_loss: float
    best_step: int = Field(description="Step with the lowest loss so far.")


class MetricsOut(Output):
    data: list[MetricPoint] = Field(description="The loss curve, from the first step.")
    evaluations: list[EvaluationPoint] = Field(description="The held-out losses during training.")
