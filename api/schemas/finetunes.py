from typing import Any, Literal

from pydantic import Field

from api.schemas.common import Identifier, Input, Output, Time
from api.schemas.datasets import JobError
from core.finetunes.service import FinetuneRequest

_DEFAULTS = FinetuneRequest(dataset_id="")


class FinetuneCreate(Input):
    dataset_id: Identifier
    method: Literal["difffit", "bitfit"] = "difffit"
    preset: Literal["paper", "literal"] = Field("paper", description="Where DiffFit trains. `paper`: Table 1's 0.83 M.")
    steps: int = Field(_DEFAULTS.steps, ge=1, le=100_000)
    batch_size: int = Field(_DEFAULTS.batch_size, ge=1, le=1024, description="May be larger than the data set.")
    learning_rate: float = Field(_DEFAULTS.learning_rate, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**63)
    auto_promote: bool = Field(False, description="Make the new version active at once. The first one always is.")
    dry_run: bool = Field(False, description="Only estimate: nothing is stored or started.")

    def to_request(self) -> FinetuneRequest:
        return FinetuneRequest(**self.model_dump(exclude={"dry_run"}))


class FinetuneOut(Output):
    id: str
    domain_id: str
    dataset_id: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    method: str
    preset: str | None
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    auto_promote: bool
    step: int
    loss: float | None = Field(description="Mean over the last steps.")
    held_out_loss_base: float | None = Field(description="Of the base on held-out images, with the null label.")
    held_out_loss_adapter: float | None = Field(description="Of the adapter on the same images, own labels.")
    held_out_loss_adapter_null: float | None = Field(description="The same with the null label.")
    seconds: float = Field(description="Device time of the training steps.")
    eta_seconds: float | None
    trainable_parameters: int | None
    adapter_id: str | None
    error: JobError | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


class EstimateOut(Output):
    trainable_parameters: int
    trainable_fraction: float
    adapter_bytes: int
    images_seen: int
    epochs: float


class MetricsOut(Output):
    data: list[dict[str, Any]] = Field(
        examples=[[{"step": 5, "loss": 0.31, "gradient_norm": 0.2, "seconds": 1.3}]],
        description="The loss curve: means between events.",
    )
