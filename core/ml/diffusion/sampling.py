"""A whole sampling run of one batch in step: for previews and evaluation. Serving goes through `core.ml.serving`."""

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from core.artifact.sampling import SamplingSettings
from core.ml import slices
from core.ml.diffusion.samplers import coefficients, guided_noise, step

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x [B, C, H, W], t [B], y [B] -> [B, 2C, H, W]"""


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
    """From noise [B, C, H, W] for class ids [B] to latents [B, C, H, W]; yields after each step. Guides the first
    `channels` channels, at every timestep.

    `fresh` brings the noise [B, C, H, W] of each step that adds some; ddpm and an eta above 0 need it.
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
    """Standard normal noise [len(seeds), *shape], each row from its own seed, drawn on the CPU: the same everywhere."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
