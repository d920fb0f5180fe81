"""Sampling steps beside diffusers' DDIM scheduler."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from core.diffusion.samplers import ddim_step, guided_noise
from core.diffusion.sampling import kept, sample, seeded_noise
from core.diffusion.schedule import SCHEDULE
from core.diffusion.timesteps import sampling_timesteps

DIVISORS = [steps for steps in range(1, 1001) if 1000 % steps == 0]


def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A stand-in that depends on everything it is given; its second half is the variance, which DDIM does not use."""
    epsilon = torch.tanh(x * (1 + y.view(-1, 1, 1, 1)) + t.view(-1, 1, 1, 1) / 1000)
    return torch.cat([epsilon, torch.full_like(epsilon, 9.0)], dim=1)


def diffusers_scheduler(steps: int) -> Any:
    scheduler: Any = DDIMScheduler(beta_schedule="linear", clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", DIVISORS)
def test_a_run_is_diffusers(steps: int) -> None:
    scheduler = diffusers_scheduler(steps)
    noise, labels = seeded_noise([1, 2], (3, 4, 4)), torch.tensor([0, 1])
    expected = noise
    for t in scheduler.timesteps:
        epsilon = model(expected, t.expand(2), labels)[:, :3]
        expected = scheduler.step(epsilon, t, expected).prev_sample
    found = sample(model, noise, labels, 2, steps=steps, guidance_scale=1.0, channels=3)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_timesteps_are_diffusers_but_for_its_rounding() -> None:
    """Its rounding errors decide ties between two timesteps, and now and then add a timestep -1."""
    for steps in range(1, 1001):
        theirs = [t for t in diffusers_scheduler(steps).timesteps.tolist() if t >= 0]
        for index, (found, expected) in enumerate(zip(sampling_timesteps(steps), theirs, strict=True)):
            tie = 2 * (1000 * index % steps) == steps
            assert abs(found - expected) <= tie, (steps, index)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 333, 999, 1000])
def test_timesteps_fall_from_the_last_and_never_repeat(steps: int) -> None:
    timesteps = sampling_timesteps(steps)
    assert timesteps[0] == 999
    assert len(timesteps) == len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[-1] >= 0


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_that_cannot_be_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=r"within 1\.\.1000"):
        sampling_timesteps(steps)


def test_rows_of_one_step_may_stand_at_different_timesteps() -> None:
    x, noise = seeded_noise([1, 2, 3], (4, 8, 8)), seeded_noise([4, 5, 6], (4, 8, 8))
    now, following = [999, 500, 20], [980, 250, None]
    together = ddim_step(x, noise, *(torch.tensor([kept(t) for t in some]) for some in (now, following)))
    for row in range(3):
        alone = (torch.tensor([kept(some[row])]) for some in (now, following))
        assert torch.equal(together[row], ddim_step(x[row, None], noise[row, None], *alone)[0])


def test_the_true_noise_leads_back_in_one_step() -> None:
    x0, noise = seeded_noise([1, 2], (4, 8, 8)), seeded_noise([3, 4], (4, 8, 8))
    t = torch.tensor([700, 30])
    back = ddim_step(SCHEDULE.add_noise(x0, noise, t), noise, SCHEDULE.alphas_cumprod[t].float(), torch.ones(2))
    torch.testing.assert_close(back, x0, rtol=1e-4, atol=1e-4)


def test_guidance_moves_the_first_channels_and_each_row_by_its_own_scale() -> None:
    conditional, unconditional = seeded_noise([1, 2, 3], (4, 2, 2)), seeded_noise([4, 5, 6], (4, 2, 2))
    found = guided_noise(conditional, unconditional, torch.tensor([1.0, 0.0, 4.0]), 3)
    torch.testing.assert_close(found[0], conditional[0])
    torch.testing.assert_close(found[1, :3], unconditional[1, :3])
    torch.testing.assert_close(found[2, :3], 4 * conditional[2, :3] - 3 * unconditional[2, :3])
    assert torch.equal(found[:, 3:], conditional[:, 3:])


def test_a_run_asks_for_the_null_class() -> None:
    asked = []

    def recording(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        asked.append((t.tolist(), y.tolist()))
        return model(x, t, y)

    sample(recording, seeded_noise([1, 2], (3, 4, 4)), torch.tensor([0, 4]), 7, steps=2, guidance_scale=3.0, channels=3)
    assert asked == [([999] * 4, [0, 4, 7, 7]), ([499] * 4, [0, 4, 7, 7])]


def test_noise_belongs_to_its_seed_alone() -> None:
    rows = seeded_noise([3, 1, 3], (4, 8, 8))
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], seeded_noise([1], (4, 8, 8))[0])
    assert not torch.equal(rows[0], rows[1])
