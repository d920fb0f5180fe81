"""The training loss of DiT: mean squared error of the noise, plus the variational bound for the learned variance.

The bound follows improved DDPM (arXiv 2102.09672): it is averaged over dimensions, in bits per dimension, and the
predicted mean is detached, so that the bound trains only the variance. The bound's coefficient here is 1. The DiffFit
paper's 0.001 is the same weight, since it multiplies a bound that is summed over 1,000 timesteps.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.ml.diffusion.schedule import Schedule, rows


@dataclass(frozen=True)
class Loss:
    """The two terms of the training loss, each [B] in fp32: one value per image."""

    mse: Tensor
    bound: Tensor

    @property
    def total(self) -> Tensor:
        return self.mse + self.bound


def diffusion_loss(output: Tensor, x0: Tensor, noise: Tensor, t: Tensor, schedule: Schedule) -> Loss:
    """Returns the training loss of each image, from the model's `output` [B, 2C, H, W] at x_t = add_noise(x0, noise,
    t). x0 and noise [B, C, H, W]; t [B]."""
    output, x0, noise = output.float(), x0.float(), noise.float()
    epsilon, interpolation = output.chunk(2, dim=1)
    mse = (epsilon - noise).square().flatten(1).mean(1)
    xt = schedule.add_noise(x0, noise, t)
    bound = _bound_in_bits(epsilon.detach(), interpolation, x0, xt, t, schedule=schedule)
    return Loss(mse, bound)


def model_log_variance(interpolation: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Returns the log variance that the model predicts: `interpolation` in [-1, 1] moves it from the posterior's log
    variance to log beta."""
    smallest = rows(schedule.posterior_log_variance, t, interpolation)
    largest = rows(schedule.log_betas, t, interpolation)
    share = (interpolation + 1) / 2
    return share * largest + (1 - share) * smallest


def posterior_mean(x0: Tensor, xt: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """Returns the mean of q(x_{t-1} | x_t, x_0)."""
    coefficient_x0, coefficient_xt = schedule.posterior_coefficients
    return rows(coefficient_x0, t, x0) * x0 + rows(coefficient_xt, t, xt) * xt


def predicted_x0(epsilon: Tensor, xt: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    kept = rows(schedule.alphas_cumprod, t, xt)
    return (xt - (1 - kept).sqrt() * epsilon) / kept.sqrt()


def _bound_in_bits(
    epsilon: Tensor, interpolation: Tensor, x0: Tensor, xt: Tensor, t: Tensor, *, schedule: Schedule
) -> Tensor:
    true_mean = posterior_mean(x0, xt, t, schedule)
    true_log_variance = rows(schedule.posterior_log_variance, t, x0)
    mean = posterior_mean(predicted_x0(epsilon, xt, t, schedule), xt, t, schedule)
    log_variance = model_log_variance(interpolation, t, schedule)
    divergence = _gaussian_divergence(true_mean, true_log_variance, mean, log_variance)
    likelihood = -_discretized_log_likelihood(x0, mean, log_variance)
    bits = torch.where((t == 0).view(-1, 1), likelihood.flatten(1), divergence.flatten(1))
    return bits.mean(1) / math.log(2.0)


def _gaussian_divergence(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """Returns the KL divergence between two diagonal Gaussians, in nats, elementwise."""
    difference = log_variance1 - log_variance2
    return 0.5 * (-1 - difference + difference.exp() + (mean1 - mean2).square() * (-log_variance2).exp())


def _discretized_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns the log likelihood, elementwise, of x in [-1, 1], rescaled from 256 levels, under a Gaussian that is
    integrated over each level."""
    centered, inverse_deviation = x - mean, (-0.5 * log_variance).exp()
    above = _normal_cdf(inverse_deviation * (centered + 1 / 255))
    below = _normal_cdf(inverse_deviation * (centered - 1 / 255))
    inside = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, inside).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Returns the standard normal CDF in the tanh approximation that DiT was trained with."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
