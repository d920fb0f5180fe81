"""Sampling steps compared with diffusers' schedulers, on any model output."""

from typing import Any, get_args

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from core.artifact.sampling import SamplerName, SamplingSettings, TimestepSpacing
from core.ml.diffusion.samplers import SAMPLERS, coefficients, guided_noise, step
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.diffusion.schedule import SCHEDULE

DIVISORS = [steps for steps in range(1, 1001) if 1000 % steps == 0]
SHAPE = (3, 4, 4)


def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A stand-in that depends on everything it is given."""
    epsilon = torch.tanh(x * (1 + y.view(-1, 1, 1, 1)) + t.view(-1, 1, 1, 1) / 1000)
    return torch.cat([epsilon, torch.sin(3 * x)], dim=1)


def diffusers_scheduler(steps: int) -> Any:
    scheduler: Any = DDIMScheduler(beta_schedule="linear", clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    return scheduler


def run(steps: int, sampler: SamplerName, eta: float = 0.0) -> tuple[Tensor, list[Tensor]]:
    """Our run, and the noise that it took for each step."""
    taken: list[Tensor] = []

    def fresh() -> Tensor:
        taken.append(seeded_noise([1000 + len(taken), 2000 + len(taken)], SHAPE))
        return taken[-1]

    noise, labels = seeded_noise([1, 2], SHAPE), torch.tensor([0, 1])
    sampling = SamplingSettings(steps=steps, guidance_scale=1.0, sampler=sampler, eta=eta)
    return sample(model, noise, labels, 2, sampling, channels=3, fresh=fresh), taken


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", DIVISORS)
def test_ddim_is_diffusers(steps: int, eta: float) -> None:
    found, taken = run(steps, "ddim", eta)
    scheduler, expected = diffusers_scheduler(steps), seeded_noise([1, 2], SHAPE)
    added = iter([*taken, torch.zeros(2, *SHAPE)])
    for t in scheduler.timesteps:
        epsilon = model(expected, t.expand(2), torch.tensor([0, 1]))[:, :3]
        noise = {"variance_noise": next(added)} if eta else {}
        expected = scheduler.step(epsilon, t, expected, eta=eta, **noise).prev_sample
    assert len(taken) == (steps - 1 if eta else 0), "the last step adds none"
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("steps", DIVISORS)
def test_ddpm_is_diffusers_but_for_its_noise_after_the_last_step(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, taken = run(steps, "ddpm")
    scheduler: Any = DDPMScheduler(
        beta_schedule="linear", clip_sample=False, timestep_spacing="trailing", variance_type="learned_range"
    )
    scheduler.set_timesteps(steps)
    added = iter([*taken, torch.zeros(2, *SHAPE)])  # diffusers adds noise at the last timestep where that is not 0
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(added))
    expected = seeded_noise([1, 2], SHAPE)
    for t in scheduler.timesteps:
        output = model(expected, t.expand(2), torch.tensor([0, 1]))
        expected = scheduler.step(output, t, expected).prev_sample
    assert len(taken) == steps - 1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("steps", [steps for steps in DIVISORS if steps <= 250])
def test_dpm_solver_is_diffusers(steps: int) -> None:
    """Its sigmas are those of the timesteps; up to 250 steps, since it drops timesteps that repeat after rounding."""
    found, taken = run(steps, "dpmpp_2m")
    scheduler: Any = DPMSolverMultistepScheduler(
        beta_schedule="linear", timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    expected = seeded_noise([1, 2], SHAPE)
    for t in scheduler.timesteps:
        epsilon = model(expected, t.expand(2), torch.tensor([0, 1]))[:, :3]
        expected = scheduler.step(epsilon, t, expected).prev_sample
    assert taken == []
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_timesteps_are_diffusers_but_for_its_rounding() -> None:
    """Its rounding errors decide ties between two timesteps, and now and then add a timestep -1."""
    for steps in range(1, 1001):
        theirs = [t for t in diffusers_scheduler(steps).timesteps.tolist() if t >= 0]
        for index, (found, expected) in enumerate(zip(SamplingSettings(steps=steps).timesteps, theirs, strict=True)):
            tie = 2 * (1000 * index % steps) == steps
            assert abs(found - expected) <= tie, (steps, index)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 333, 999, 1000])
def test_timesteps_fall_from_the_last_and_never_repeat(steps: int) -> None:
    timesteps = SamplingSettings(steps=steps).timesteps
    assert timesteps[0] == 999
    assert len(timesteps) == len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[-1] >= 0


def test_rows_of_one_step_may_differ_in_everything() -> None:
    x, noise, before, fresh = (seeded_noise([i, i + 1, i + 2], (4, 8, 8)) for i in (1, 4, 7, 10))
    v = fresh.tanh()
    lines = torch.stack(
        [
            coefficients(SamplingSettings(eta=0.7))[3],
            coefficients(SamplingSettings(sampler="ddpm", steps=7))[0],
            coefficients(SamplingSettings(sampler="dpmpp_2m", steps=9))[5],
        ]
    )
    together = step(x, noise, v, before, fresh, lines)
    for row in range(3):
        alone = step(*(tensor[row, None] for tensor in (x, noise, v, before, fresh, lines)))
        assert all(torch.equal(both[row], one[0]) for both, one in zip(together, alone, strict=True))


@pytest.mark.parametrize("spacing", get_args(TimestepSpacing))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_true_noise_leads_back_in_the_last_step(sampler: SamplerName, spacing: TimestepSpacing) -> None:
    x0, noise = seeded_noise([1, 2], (4, 8, 8)), seeded_noise([3, 4], (4, 8, 8))
    sampling = SamplingSettings(sampler=sampler, steps=40, timestep_spacing=spacing)
    t = sampling.timesteps[-1]
    zero = torch.zeros_like(x0)
    xt = SCHEDULE.add_noise(x0, noise, torch.tensor([t, t]))
    back, predicted = step(xt, noise, zero, zero, zero, coefficients(sampling)[-1].expand(2, -1))
    torch.testing.assert_close(back, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(predicted, x0, rtol=1e-4, atol=1e-4)


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

    sample(recording, seeded_noise([1, 2], (3, 4, 4)), torch.tensor([0, 4]), 7, SamplingSettings(steps=2), channels=3)
    assert asked == [([999] * 4, [0, 4, 7, 7]), ([499] * 4, [0, 4, 7, 7])]


def test_noise_belongs_to_its_seed_alone() -> None:
    rows = seeded_noise([3, 1, 3], (4, 8, 8))
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], seeded_noise([1], (4, 8, 8))[0])
    assert not torch.equal(rows[0], rows[1])
