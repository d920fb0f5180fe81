"""The base of local commands, loaded as a worker of the same settings holds it."""

from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.resident import load_base_on
from core.service.config import Settings


def load(settings: Settings, reference: str | None, device: str | None) -> LoadedBase:
    """Loads a base onto a device; None takes the setting. Raises BaseMissing, CheckpointInvalid."""
    return load_base_on(
        device or settings.device,
        reference or settings.base_model,
        autoencoder=settings.autoencoder,
        threads=settings.torch_threads,
    )
