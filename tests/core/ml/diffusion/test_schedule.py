"""The schedule and the posterior compared with diffusers' DDPM scheduler."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from core.ml.diffusion.loss import model_log_variance, posterior_mean, predicted_x0
from core.ml.diffusion.schedule import SCHEDULE, rows


@pytest.fixture(scope="module")
def theirs() -> Any:
    return DDPMScheduler(beta_schedule="linear", variance_type="learned_range", clip_sample=False)


def test_tables_equal_those_of_diffusers(theirs: Any) -> None:
    torch.testing.assert_close(SCHEDULE.betas.float(), theirs.betas, rtol=1e-6, atol=0)
    torch.testing.assert_close(SCHEDULE.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-4, atol=0)


def test_added_noise_equals_that_of_diffusers(theirs: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 4, 8, 8, generator=generator)
    t = torch.tensor([0, 10, 500, 999])
    torch.testing.assert_close(SCHEDULE.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [0, 1, 2, 17, 500, 998, 999])
def test_mean_and_learned_variance_give_the_ancestral_step_of_diffusers(theirs: Any, t: int) -> None:
    generator = torch.Generator().manual_seed(1)
    xt = torch.randn(3, 4, 8, 8, generator=generator)
    epsilon = torch.randn(3, 4, 8, 8, generator=generator)
    interpolation = torch.rand(3, 4, 8, 8, generator=generator) * 2 - 1
    output = torch.cat([epsilon, interpolation], dim=1)
    expected = theirs.step(output, t, xt, generator=torch.Generator().manual_seed(2)).prev_sample
    steps = torch.full((3,), t)
    mean = posterior_mean(predicted_x0(epsilon, xt, steps, SCHEDULE), xt, steps, SCHEDULE)
    deviation = (0.5 * model_log_variance(interpolation, steps, SCHEDULE)).exp()
    noise = torch.randn(xt.shape, generator=torch.Generator().manual_seed(2))
    stepped = mean + deviation * noise if t else mean  # the last step adds no noise
    torch.testing.assert_close(stepped, expected, rtol=2e-4, atol=2e-4 * float(expected.abs().max()))


def test_posterior_variance_follows_bayes_rule() -> None:
    """The precisions of the two factors, q(x_{t-1} | x_0) and q(x_t | x_{t-1}), add up."""
    from_x0, from_xt = 1 / (1 - SCHEDULE.alphas_cumprod_before[1:]), (1 - SCHEDULE.betas[1:]) / SCHEDULE.betas[1:]
    torch.testing.assert_close(SCHEDULE.posterior_variance[1:], 1 / (from_x0 + from_xt), rtol=1e-9, atol=0)
    assert SCHEDULE.posterior_variance[0] == 0


def test_log_variance_of_the_posterior_is_finite_at_the_last_step() -> None:
    assert SCHEDULE.posterior_log_variance.isfinite().all()
    assert SCHEDULE.posterior_log_variance[0] == SCHEDULE.posterior_log_variance[1]
    torch.testing.assert_close(SCHEDULE.posterior_log_variance[1:].exp(), SCHEDULE.posterior_variance[1:])


def test_table_rows_are_broadcast_to_the_dtype_and_rank_of_the_images() -> None:
    values = rows(SCHEDULE.betas, torch.tensor([0, 999]), torch.zeros(2, 4, 8, 8))
    assert (values.shape, values.dtype) == ((2, 1, 1, 1), torch.float32)
    assert values.flatten().tolist() == pytest.approx([1e-4, 0.02])
