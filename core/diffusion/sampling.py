"""A whole sampling run of one batch in step: for previews and evaluation. Serving goes through `core.engine`."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.diffusion.samplers import ddim_step, guided_noise
from core.diffusion.schedule import SCHEDULE
from core.diffusion.timesteps import sampling_timesteps

Model = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x [B, C, H, W], t [B], y [B] -> [B, 2C, H, W]"""


@torch.no_grad()
def sample(
    model: Model, noise: Tensor, labels: Tensor, null_class: int, *, steps: int, guidance_scale: float, channels: int
) -> Tensor:
    """DDIM from noise [B, C, H, W] for class ids [B] -> latents [B, C, H, W]. Guides the first `channels` channels."""
    x, count = noise, len(noise)
    scale = torch.full((count,), guidance_scale, device=x.device)
    both = torch.cat([labels, torch.full_like(labels, null_class)])
    timesteps = sampling_timesteps(steps)
    for now, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        t = torch.full((2 * count,), now, device=x.device)
        epsilon = model(torch.cat([x, x]), t, both)[:, : x.shape[1]].float()
        guided = guided_noise(epsilon[:count], epsilon[count:], scale, channels)
        x = ddim_step(x, guided, *(torch.full((count,), kept(step), device=x.device) for step in (now, following)))
    return x


def kept(timestep: int | None) -> float:
    """alphas_cumprod at a timestep; 1 after the last (None)."""
    return 1.0 if timestep is None else SCHEDULE.alphas_cumprod[timestep].item()


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [len(seeds), *shape], each row from its own seed, drawn on the CPU: the same everywhere."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
