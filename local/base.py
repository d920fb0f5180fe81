"""Loads the base model for the local commands, in the same way as a worker with the same settings."""

from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.resident import load_base_on
from core.service.config import Settings


def load(settings: Settings, reference: str | None, device: str | None) -> LoadedBase:
    """Loads the base model `reference` onto `device`. None means the value in `settings`. Raises BaseMissing,
    CheckpointInvalid."""
    return load_base_on(
        device or settings.device,
        reference or settings.base_model,
        autoencoder=settings.autoencoder,
        threads=settings.torch_threads,
    )
