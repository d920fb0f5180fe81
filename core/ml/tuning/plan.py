"""Plan of a fine-tune, the events that it yields while it runs, and its outcome."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from PIL import Image
from torch import Tensor

from core.artifact.base import BaseDescription
from core.artifact.file import encode
from core.artifact.manifest import Manifest
from core.artifact.sites import Method, MethodSites
from core.artifact.training import StopReason, TrainingSettings

ABOUT_DEFAULTS = {
    "training": {name: value for name, value in TrainingSettings(steps=0).to_json().items() if name != "steps"}
}
"""Values that are assumed for settings that checkpoints of earlier releases lack. The default of a new field of
TrainingSettings must therefore train exactly as before the field existed."""
_UNTAUGHT: dict[str, Any] = {
    field.name: field.default for field in fields(TrainingSettings) if field.name.startswith("distill_")
}


@dataclass(frozen=True)
class StartingPoint:
    """Adapter whose training a fine-tune continues. It has the method, sites and image size of the fine-tune."""

    sha256: str
    """Digest of the adapter file."""
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    """Names of the adapter's classes, by which they are matched to the classes of the fine-tune."""
    steps: int
    """Number of steps that trained the adapter; 0 if it is not known."""


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """Settings of a fine-tune. Together with the base and the images they determine the trained adapter."""

    method: Method
    sites: MethodSites
    class_names: tuple[str, ...]
    dataset_digest: str
    training: TrainingSettings
    image_size: int | None = None
    """Side of the images in pixels: the base's size, which is also the default, or twice the base's size with DiffFit's
    positional encoding trick."""
    train_class_table: bool = True
    """False keeps the base's class embeddings instead of training them, which requires that the base knows all classes
    by name. The DiffFit paper (arXiv 2304.06648) does so where only the image size changes (section 4.3)."""
    progress_every: int = 5
    checkpoint_every: int = 50
    samples_every: int = 100
    memory_bytes: int | None = None
    """Memory limit of a training step in bytes. Batches are split into micro-batches that fit, which changes only
    rounding."""
    preset: str | None = None
    """Name of the preset that `sites` equals, if any."""
    start: StartingPoint | None = None
    """Adapter to continue from; None starts from the base."""

    def manifest(self, base: BaseDescription) -> Manifest:
        """Returns the manifest of the adapter that the fine-tune produces."""
        return Manifest(
            method=self.method,
            preset=self.preset,
            sites=self.sites,
            class_names=self.class_names,
            base_name=base.name,
            base_digest=base.digest,
            base_licence=base.licence,
            dataset_digest=self.dataset_digest,
            training=self.recipe(),
            image_size=self.image_size,
        )

    def recipe(self) -> dict[str, Any]:
        """Returns the training settings in the form in which a manifest stores them. They include the digest of the
        adapter that the fine-tune continues, if any. Settings of learned guidance have their class defaults in a
        fine-tune that learns none, so that other defaults of requests change nothing for it."""
        training = self.training if self.training.distill_guidance is not None else replace(self.training, **_UNTAUGHT)
        changes: dict[str, Any] = {} if self.train_class_table else {"train_class_table": False}
        return training.to_json() | changes | ({"continues": self.start.sha256} if self.start else {})

    def about(self, base_digest: str) -> dict[str, Any]:
        """Returns the settings that a checkpoint must have for this plan to continue from it. The micro-batch size is
        left out, so that a machine with less memory can continue too."""
        return {
            "method": self.method,
            "sites": self.sites.to_json(),
            "classes": list(self.class_names),
            "dataset": self.dataset_digest,
            "training": self.recipe() | {"micro_batch_size": None},
            "base": base_digest,
            # Checkpoints of learned guidance from before this entry existed have other tensors.
            **({} if self.training.distill_guidance is None else {"guided_tensors": True}),
            **({} if self.image_size is None else {"image_size": self.image_size}),
        }


@dataclass(frozen=True)
class Encoding:
    """Event while the training images are being encoded. `done` is the number of images encoded so far."""

    done: int


@dataclass(frozen=True)
class Started:
    held_out_loss_base: float
    trainable_parameters: int
    step: int
    """Training steps completed at the start: 0, or the step of the checkpoint that training continues from."""


@dataclass(frozen=True)
class Progress:
    step: int
    loss: float
    """Mean loss of the training steps since the last progress event."""
    gradient_norm: float
    seconds: float
    """Device time of the training steps since the last progress event."""


@dataclass(frozen=True)
class Evaluation:
    """Event after an evaluation of the moving average on the held-out images."""

    step: int
    held_out_loss: float
    best_step: int
    """Step of the evaluation with the lowest loss so far."""


@dataclass(frozen=True)
class Checkpoint:
    step: int
    data: bytes


@dataclass(frozen=True)
class Sample:
    step: int
    image: Image.Image
    """Grid with one generated image for each of the first 8 classes, made with the moving average of the weights."""


@dataclass(frozen=True)
class SampleSkipped:
    """Event that replaces a sample: no sample was generated, since not even one image fits into memory."""

    step: int


Event = Encoding | Started | Progress | Evaluation | Checkpoint | Sample | SampleSkipped


@dataclass(frozen=True)
class Outcome:
    tensors: dict[str, Tensor]
    """The adapter's tensors by name: moving averages of the trainable tensors, and the frozen tensors."""
    losses: dict[str, float]
    """Losses on the held-out images: `adapter` with their own labels, `base` and `adapter_null` with the null label."""
    adapter_step: int
    """Training step that the adapter is of: an earlier one than the last if the best moving average was kept."""
    stop_reason: StopReason

    def encoded(self, manifest: Manifest) -> bytes:
        """Returns the bytes of the adapter file. Its manifest states the adapter's step if that is not the last."""
        if self.adapter_step != manifest.training["steps"]:
            manifest = replace(manifest, training=manifest.training | {"adapter_step": self.adapter_step})
        return encode(manifest, {name: tensor.numpy() for name, tensor in self.tensors.items()})
