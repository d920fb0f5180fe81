"""The loss compared with formulas derived another way: Bayes' rule, torch's distributions, the exact normal
integral."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from core.ml.diffusion.loss import Loss, diffusion_loss
from core.ml.diffusion.schedule import SCHEDULE

B, C, S = 6, 4, 4
T = torch.tensor([1, 2, 50, 500, 998, 999])


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns a model output close to the right one, x0 and the noise."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand(B, C, S, S, generator=generator) * 2 - 1
    noise = torch.randn(B, C, S, S, generator=generator)
    epsilon = noise + 0.1 * torch.randn(B, C, S, S, generator=generator)
    interpolation = torch.rand(B, C, S, S, generator=generator) * 2 - 1
    return torch.cat([epsilon, interpolation], dim=1), x0, noise


def posterior(x0: Tensor, xt: Tensor, t: int) -> Normal:
    """q(x_{t-1} | x_t, x_0) by Bayes' rule, in float64."""
    alpha_bar, beta = SCHEDULE.alphas_cumprod[t - 1], SCHEDULE.betas[t]
    variance = 1 / (1 / (1 - alpha_bar) + (1 - beta) / beta)
    mean = variance * (alpha_bar.sqrt() * x0 / (1 - alpha_bar) + (1 - beta).sqrt() * xt / beta)
    return Normal(mean, variance.sqrt())


def model(output: Tensor, xt: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """The model's x0 and its variance, in float64."""
    epsilon, interpolation = output.double().chunk(2)
    alpha_bar, beta = SCHEDULE.alphas_cumprod[t], SCHEDULE.betas[t]
    x0 = (xt - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
    fraction = (interpolation + 1) / 2
    before = SCHEDULE.alphas_cumprod[max(t, 1) - 1]
    smallest = SCHEDULE.betas[max(t, 1)] * (1 - before) / (1 - SCHEDULE.alphas_cumprod[max(t, 1)])
    return x0, beta**fraction * smallest ** (1 - fraction)


def test_bound_is_the_divergence_of_the_two_gaussians_in_bits() -> None:
    output, x0, noise = draw()
    bound = diffusion_loss(output, x0, noise, T, SCHEDULE).bound
    xt = SCHEDULE.add_noise(x0.double(), noise.double(), T)
    for row, t in enumerate(T.tolist()):
        predicted, variance = model(output[row], xt[row], t)
        truth = posterior(x0[row].double(), xt[row], t)
        guess = Normal(posterior(predicted, xt[row], t).mean, variance.sqrt())
        expected = kl_divergence(truth, guess).mean() / math.log(2)
        assert bound[row].item() == pytest.approx(expected.item(), rel=1e-3, abs=1e-6), t


def test_bound_at_the_last_step_is_the_likelihood_of_the_pixel_level() -> None:
    """Integrates over the 256 levels between -1 and 1; the first and last level extend to infinity."""
    output, x0, noise = draw()
    x0 = (x0 * 127.5).round() / 127.5
    x0[0], x0[1] = 1.0, -1.0
    output[:, :C] = noise + 0.05 * (output[:, :C] - noise)  # the likelihood's approximation is poor in the tails
    t = torch.zeros(B, dtype=torch.long)
    bound = diffusion_loss(output, x0, noise, t, SCHEDULE).bound
    xt = SCHEDULE.add_noise(x0.double(), noise.double(), t)
    for row in range(B):
        mean, variance = model(output[row], xt[row], 0)
        level, exact = x0[row].double(), Normal(mean, variance.sqrt())
        above = torch.where(level > 0.999, 1.0, exact.cdf(level + 1 / 255))
        below = torch.where(level < -0.999, 0.0, exact.cdf(level - 1 / 255))
        expected = -(above - below).log().mean() / math.log(2)
        assert bound[row].item() == pytest.approx(expected.item(), rel=5e-3), row


def test_mse_compares_only_the_noise() -> None:
    output, x0, noise = draw()
    loss = diffusion_loss(output, x0, noise, T, SCHEDULE)
    expected = torch.stack([(output[row, :C] - noise[row]).pow(2).sum() / (C * S * S) for row in range(B)])
    torch.testing.assert_close(loss.mse, expected)
    torch.testing.assert_close(loss.total, loss.mse + loss.bound)


def test_bound_trains_the_variance_but_not_the_mean() -> None:
    output, x0, noise = draw()
    for part, untrained in (("bound", slice(0, C)), ("mse", slice(C, 2 * C))):
        leaf = output.clone().requires_grad_()
        loss: Loss = diffusion_loss(leaf, x0, noise, T, SCHEDULE)
        (gradient,) = torch.autograd.grad(getattr(loss, part).sum(), [leaf])
        assert not gradient[:, untrained].any()
        trained = gradient[:, C:] if part == "bound" else gradient[:, :C]
        assert trained.all()


@pytest.mark.parametrize("t", [0, 1, 999])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_losses_and_gradients_stay_finite(t: int, scale: float) -> None:
    """The posterior has no variance at t = 0, which must not become an infinite weight."""
    output, x0, noise = draw()
    leaf = (scale * output).requires_grad_()
    loss = diffusion_loss(leaf, x0, noise, torch.full((B,), t), SCHEDULE)
    (gradient,) = torch.autograd.grad(loss.total.sum(), [leaf])
    assert loss.total.isfinite().all()
    assert gradient.isfinite().all()


def test_loss_of_a_bf16_output_is_computed_in_fp32() -> None:
    output, x0, noise = draw()
    loss = diffusion_loss(output.bfloat16(), x0, noise, T, SCHEDULE)
    assert loss.mse.dtype == loss.bound.dtype == torch.float32
    expected = diffusion_loss(output.bfloat16().float(), x0, noise, T, SCHEDULE)
    assert torch.equal(loss.total, expected.total)
