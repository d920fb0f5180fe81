"""Generates images without the engine, for adapters of methods that the engine does not serve (LoRA, for example)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from core.artifact.errors import InvalidRequest
from core.artifact.file import Artifact
from core.artifact.sampling import EVERY_TIMESTEP, SamplingSettings
from core.ml.diffusion.sampling import sample
from core.ml.errors import DrawingDiverged
from core.ml.model.autoencoder import to_uint8
from core.ml.model.checkpoint import LoadedBase
from core.ml.tuning.methods import adapter_of

_AT_ONCE = 8


def draw_alone(
    base: LoadedBase, artifact: Artifact, class_id: int, sampling: SamplingSettings, seeds: Sequence[int]
) -> list[Tensor]:
    """Generates one image of a class for each seed, and returns their 8-bit pixels, [S, S, 3] each. Raises
    InvalidRequest for sampling settings that only the engine supports, such as a guidance interval, and DrawingDiverged
    when an image is not finite."""
    method = artifact.manifest.method
    if sampling.guidance_interval != EVERY_TIMESTEP:
        raise InvalidRequest(
            "--guidance-interval", f"adapters of the method '{method}' need guidance at every timestep"
        )
    for name in ("adapter_scale", "guidance_adapter_scale"):
        if getattr(sampling, name) != 1:
            option = "--" + name.replace("_", "-")
            raise InvalidRequest(option, f"adapters of the method '{method}' have no other scale")
    device = base.dit.positions.device
    tensors = {name: torch.from_numpy(array).to(device) for name, array in artifact.tensors.items()}
    adapter = adapter_of(artifact.manifest.sites, tensors)
    config, classes = base.dit.config, len(artifact.manifest.class_names)
    size = config.input_size * base.description.scale_of(artifact.manifest.image_size)
    images: list[Tensor] = []
    for start in range(0, len(seeds), _AT_ONCE):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + _AT_ONCE]]
        shape = (config.in_channels, size, size)
        latents = sample(
            lambda x, t, y: base.dit(x, t, y, adapter),
            _noise(generators, shape).to(device),
            torch.full((len(generators),), class_id, device=device),
            classes,
            sampling,
            channels=config.guidance_channels,
            fresh=lambda: _noise(generators, shape),  # noqa: B023
        )
        images += [_pixels(base.autoencoder.decode(latent[None])[0]) for latent in latents]
    return images


def _noise(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Returns noise for each image from its own generator, [B, *shape], as the engine draws it."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def _pixels(image: Tensor) -> Tensor:
    """Converts an image [3, S, S] in [-1, 1] into 8-bit pixels [S, S, 3] on the host. Raises DrawingDiverged when the
    image is not finite."""
    if not image.isfinite().all():
        raise DrawingDiverged()
    return to_uint8(image).permute(1, 2, 0).cpu()
