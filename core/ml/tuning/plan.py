"""Plan of a fine-tune, the events on its way, and its outcome."""

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from core.artifact.base import BaseDescription
from core.artifact.file import encode
from core.artifact.manifest import Manifest
from core.artifact.sites import Method, MethodSites
from core.artifact.training import TrainingSettings

ABOUT_DEFAULTS = {
    "training": {name: value for name, value in TrainingSettings(steps=0).to_json().items() if name != "steps"}
}
"""Values of fields that checkpoints of earlier releases lack. A new field of TrainingSettings must therefore train by
default as before it existed."""


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """Everything that determines the result, in addition to the base and the images."""

    method: Method
    sites: MethodSites
    class_names: tuple[str, ...]
    dataset_digest: str
    training: TrainingSettings
    image_size: int | None = None
    """Pixels a side: the base's size, as None is, or twice that, with the positional encoding trick."""
    train_class_table: bool = True
    """False keeps the base's rows, for classes that it knows by name, as the paper does where only the image size
    changes (section 4.3)."""
    progress_every: int = 5
    checkpoint_every: int = 50
    samples_every: int = 100
    memory_bytes: int | None = None
    """Memory limit of a step in bytes. A batch passes in parts that fit, which changes only the rounding."""
    preset: str | None = None
    """Name of the sites, where they have one."""

    def manifest(self, base: BaseDescription) -> Manifest:
        """Returns the manifest of the adapter that it ends with."""
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
        """Returns the training settings as a manifest stores them."""
        return self.training.to_json() | ({} if self.train_class_table else {"train_class_table": False})

    def about(self, base_digest: str) -> dict[str, Any]:
        """Returns the settings that a checkpoint must match for a run to continue from it. The micro-batch size is left
        out, so that a machine with less memory can continue too."""
        return {
            "method": self.method,
            "sites": self.sites.to_json(),
            "classes": list(self.class_names),
            "dataset": self.dataset_digest,
            "training": self.recipe() | {"micro_batch_size": None},
            "base": base_digest,
            **({} if self.image_size is None else {"image_size": self.image_size}),
        }


@dataclass(frozen=True)
class Encoding:
    """Images that are encoded so far."""

    done: int


@dataclass(frozen=True)
class Started:
    held_out_loss_base: float
    trainable_parameters: int
    step: int
    """Steps completed at the start: 0, or those of the checkpoint."""


@dataclass(frozen=True)
class Progress:
    step: int
    loss: float
    """Mean since the last event."""
    gradient_norm: float
    seconds: float
    """Device time of the steps since the last event."""


@dataclass(frozen=True)
class Checkpoint:
    step: int
    data: bytes


@dataclass(frozen=True)
class Sample:
    step: int
    image: Image.Image
    """One generated image of each class, with the moving average."""


@dataclass(frozen=True)
class SampleSkipped:
    """The sample of this step is skipped: not even one image fits into memory."""

    step: int


Event = Encoding | Started | Progress | Checkpoint | Sample | SampleSkipped


@dataclass(frozen=True)
class Outcome:
    tensors: dict[str, Tensor]
    """The moving average of every trainable."""
    losses: dict[str, float]
    """Held-out losses: base (null label), adapter (own label) and adapter_null (null label)."""

    def encoded(self, manifest: Manifest) -> bytes:
        """Returns the adapter's file."""
        return encode(manifest, {name: tensor.numpy() for name, tensor in self.tensors.items()})
