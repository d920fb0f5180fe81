"""Sampling of a batch whose rows all take the same steps, for previews and evaluation. The server samples with
`core.ml.serving` instead."""

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from core.artifact.sampling import SamplingSettings
from core.ml import slices
from core.ml.diffusion.samplers import coefficients, guided_noise, step

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Model as a function of noisy latents x [B, C, H, W], timesteps t [B] and class labels y [B], which returns [B, 2C, H,
W]."""


@torch.no_grad()
def sample_steps(
    model: Model,
    noise: Tensor,
    labels: Tensor,
    null_class: int,
    sampling: SamplingSettings,
    *,
    channels: int,
    fresh: Callable[[], Tensor] | None = None,
) -> Generator[None, None, Tensor]:
    """Samples latents [B, C, H, W] from noise [B, C, H, W] for class labels [B], and yields after each sampling step.
    Guides the first `channels` channels, at every timestep.

    `fresh` returns noise [B, C, H, W] for each step that adds noise; only ddpm and an eta above 0 need it.
    """
    x, count = noise.float(), len(noise)
    scale = torch.full((count,), sampling.guidance_scale, device=x.device)
    both = torch.cat([labels, torch.full_like(labels, null_class)])
    lines = coefficients(sampling).to(x.device)
    x0, none = torch.zeros_like(x), torch.zeros_like(x)
    for line, now in zip(lines, sampling.timesteps, strict=True):
        t = torch.full((2 * count,), now, device=x.device)
        output = model(torch.cat([x, x]), t, both).float()
        epsilon, interpolation = output.chunk(2, dim=1)
        guided = guided_noise(epsilon[:count], epsilon[count:], scale, channels)
        added = fresh().to(x) if fresh is not None and line[-1] else none
        x, x0 = step(x, guided, interpolation[:count], x0_before=x0, fresh=added, lines=line.expand(count, -1))
        yield
    return x


sample = slices.whole(sample_steps)


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Returns standard normal noise [len(seeds), *shape], each row from its own seed. Draws it on the CPU, so that it
    is the same for every device."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
