"""Samplers for batches whose rows may be at different timesteps, with different samplers, step counts and guidance
scales.

Every sampler here computes the next latent as a linear combination of the latent x, the predicted x0, the x0 predicted
at the previous step, and fresh noise. So a sampler is a table with one line of coefficients per sampling step, and the
function `step` advances a whole batch, in which each row has its own line.
"""

import math
from functools import lru_cache
from typing import get_args

import torch
from torch import Tensor

from core.artifact.sampling import SamplerName, SamplingSettings
from core.ml.diffusion.schedule import SCHEDULE

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


def coefficients(sampling: SamplingSettings) -> Tensor:
    """Returns the coefficients that `step` needs for each sampling step, [steps, 8] in fp32 on the CPU.

    From the latent x and the predicted noise, x0 = c0 x + c1 noise. The next x is c2 x + c3 x0 + c4 x0_before + c7
    exp(c5 + c6 v) z, where x0_before is the x0 of the previous step, v in [-1, 1] the model's interpolation of the
    variance, and z standard normal noise.
    """
    return _coefficients(sampling.sampler, sampling.eta, tuple(sampling.timesteps))


@lru_cache(maxsize=256)
def _coefficients(sampler: SamplerName, eta: float, timesteps: tuple[int, ...]) -> Tensor:
    kept = [float(SCHEDULE.alphas_cumprod[t]) for t in timesteps] + [1.0]
    lines = []
    for index in range(len(timesteps)):
        now, after = kept[index], kept[index + 1]
        if sampler == "ddim":
            line = _ddim(now, after, eta)
        elif sampler == "ddpm":
            line = _ddpm(now, after)
        else:
            line = _dpm_solver(now, after, kept[index - 1] if index else None)
        lines.append([1 / math.sqrt(now), -math.sqrt((1 - now) / now), *line])
    return torch.tensor(lines, dtype=torch.float64).float()


def step(
    x: Tensor, noise: Tensor, interpolation: Tensor, x0_before: Tensor, fresh: Tensor, lines: Tensor
) -> tuple[Tensor, Tensor]:
    """Computes one sampling step of every row. Returns the next x and the x0 predicted at this step, both [B, C, H, W].

    x is the latent, `noise` the predicted noise, `interpolation` the model's interpolation of the variance, `x0_before`
    the x0 predicted at the previous step (anything finite at the first) and `fresh` standard normal noise (anything
    finite where the line adds none): all [B, C, H, W] in fp32. lines [B, 8]: each row's line of its sampler's
    coefficients.
    """
    c = lines[:, :, None, None, None].unbind(1)
    x0 = c[0] * x + c[1] * noise
    drift = c[2] * x + c[3] * x0 + c[4] * x0_before
    return drift + c[7] * (c[5] + c[6] * interpolation).exp() * fresh, x0


def guided_noise(conditional: Tensor, unconditional: Tensor, scale: Tensor, channels: int) -> Tensor:
    """Applies classifier-free guidance (arXiv 2207.12598) to the first `channels` channels of the predicted noise; the
    other channels stay conditional.

    conditional and unconditional [B, C, H, W], scale [B] -> [B, C, H, W]. The original DiT guides 3 of 4 channels,
    diffusers all of them.
    """
    first = unconditional[:, :channels]
    guided = conditional.clone()
    guided[:, :channels] = first + scale.view(-1, 1, 1, 1) * (conditional[:, :channels] - first)
    return guided


def _ddim(now: float, after: float, eta: float) -> list[float]:
    """Returns c2 to c7 of a DDIM step (arXiv 2010.02502, equations 12 and 16). `now` and `after` are alpha_bar before
    and after the step."""
    deviation = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
    direction = math.sqrt(max(1 - after - deviation**2, 0.0)) / math.sqrt(1 - now)
    noise = [math.log(deviation), 0.0, 1.0] if deviation else [0.0, 0.0, 0.0]
    return [direction, math.sqrt(after) - direction * math.sqrt(now), 0.0, *noise]


def _ddpm(now: float, after: float) -> list[float]:
    """Returns c2 to c7 of a DDPM step (arXiv 2006.11239, equation 7) between visited timesteps, with the learned
    variance of arXiv 2102.09672, equation 15. `now` and `after` are alpha_bar before and after the step. The last step
    adds no noise."""
    alpha = now / after
    of_x, of_x0 = math.sqrt(alpha) * (1 - after) / (1 - now), math.sqrt(after) * (1 - alpha) / (1 - now)
    if after == 1.0:
        return [of_x, of_x0, 0.0, 0.0, 0.0, 0.0]
    smallest, largest = math.log((1 - alpha) * (1 - after) / (1 - now)), math.log(1 - alpha)
    # The log variance is (v + 1) / 2 * largest + (1 - v) / 2 * smallest; c5 + c6 v is half of it, since `step` needs
    # the log of the standard deviation.
    return [of_x, of_x0, 0.0, (largest + smallest) / 4, (largest - smallest) / 4, 1.0]


def _dpm_solver(now: float, after: float, before: float | None) -> list[float]:
    """Returns c2 to c7 of a DPM-Solver++(2M) step with the midpoint rule (arXiv 2211.01095, algorithm 2). `before`,
    `now` and `after` are alpha_bar at the previous timestep, at this one and at the next. The first and the last step
    are of first order."""
    if after == 1.0:
        return [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    size = _half_log_snr(after) - _half_log_snr(now)
    of_x, of_x0 = math.sqrt((1 - after) / (1 - now)), -math.sqrt(after) * math.expm1(-size)
    share = 0.0 if before is None else size / (_half_log_snr(now) - _half_log_snr(before)) / 2
    return [of_x, of_x0 * (1 + share), -of_x0 * share, 0.0, 0.0, 0.0]


def _half_log_snr(kept: float) -> float:
    return 0.5 * math.log(kept / (1 - kept))
