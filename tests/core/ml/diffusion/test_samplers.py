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
    """Returns an output that depends on all three arguments."""
    epsilon = torch.tanh(x * (1 + y.view(-1, 1, 1, 1)) + t.view(-1, 1, 1, 1) / 1000)
    return torch.cat([epsilon, torch.sin(3 * x)], dim=1)


def diffusers_scheduler(steps: int) -> Any:
    scheduler: Any = DDIMScheduler(beta_schedule="linear", clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    return scheduler


def run(steps: int, sampler: SamplerName, eta: float = 0.0) -> tuple[Tensor, list[Tensor]]:
    """Returns our samples, and the noise taken for each step."""
    taken: list[Tensor] = []

    def fresh() -> Tensor:
        taken.append(seeded_noise([1000 + len(taken), 2000 + len(taken)], SHAPE))
        return taken[-1]

    noise, labels = seeded_noise([1, 2], SHAPE), torch.tensor([0, 1])
    sampling = SamplingSettings(steps=steps, guidance_scale=1.0, sampler=sampler, eta=eta)
    return sample(model, noise, labels, 2, sampling, channels=3, fresh=fresh), taken


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", DIVISORS)
def test_ddim_equals_diffusers(steps: int, eta: float) -> None:
    samples, taken = run(steps, "ddim", eta)
    scheduler, expected = diffusers_scheduler(steps), seeded_noise([1, 2], SHAPE)
    added = iter([*taken, torch.zeros(2, *SHAPE)])
    for t in scheduler.timesteps:
        epsilon = model(expected, t.expand(2), torch.tensor([0, 1]))[:, :3]
        noise = {"variance_noise": next(added)} if eta else {}
        expected = scheduler.step(epsilon, t, expected, eta=eta, **noise).prev_sample
    assert len(taken) == (steps - 1 if eta else 0), "the last step must add no noise"
    torch.testing.assert_close(samples, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("steps", DIVISORS)
def test_ddpm_equals_diffusers_except_for_noise_in_the_last_step(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, taken = run(steps, "ddpm")
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
    torch.testing.assert_close(samples, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("steps", [steps for steps in DIVISORS if steps <= 250])
def test_dpm_solver_equals_diffusers(steps: int) -> None:
    """Up to 250 steps, because diffusers drops timesteps that repeat after rounding."""
    samples, taken = run(steps, "dpmpp_2m")
    scheduler: Any = DPMSolverMultistepScheduler(
        beta_schedule="linear", timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    expected = seeded_noise([1, 2], SHAPE)
    for t in scheduler.timesteps:
        epsilon = model(expected, t.expand(2), torch.tensor([0, 1]))[:, :3]
        expected = scheduler.step(epsilon, t, expected).prev_sample
    assert taken == []
    torch.testing.assert_close(samples, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_timesteps_equal_diffusers_except_for_rounding() -> None:
    """Rounding errors of diffusers decide ties between two timesteps, and sometimes add a timestep -1."""
    for steps in range(1, 1001):
        theirs = [t for t in diffusers_scheduler(steps).timesteps.tolist() if t >= 0]
        for index, (timestep, expected) in enumerate(zip(SamplingSettings(steps=steps).timesteps, theirs, strict=True)):
            tie = 2 * (1000 * index % steps) == steps
            assert abs(timestep - expected) <= tie, (steps, index)


@pytest.mark.parametrize("steps", [1, 3, 7, 50, 333, 999, 1000])
def test_timesteps_decrease_from_the_last_and_never_repeat(steps: int) -> None:
    timesteps = SamplingSettings(steps=steps).timesteps
    assert timesteps[0] == 999
    assert len(timesteps) == len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[-1] >= 0


def test_batch_rows_of_one_step_may_differ_in_every_setting() -> None:
    x, noise, before, fresh = (seeded_noise([i, i + 1, i + 2], (4, 8, 8)) for i in (1, 4, 7, 10))
    v = fresh.tanh()
    row_coefficients = torch.stack(
        [
            coefficients(SamplingSettings(eta=0.7))[3],
            coefficients(SamplingSettings(sampler="ddpm", steps=7))[0],
            coefficients(SamplingSettings(sampler="dpmpp_2m", steps=9))[5],
        ]
    )
    together = step(x, noise, v, before, fresh, row_coefficients)
    for row in range(3):
        alone = step(*(tensor[row, None] for tensor in (x, noise, v, before, fresh, row_coefficients)))
        assert all(torch.equal(batched[row], single[0]) for batched, single in zip(together, alone, strict=True))


@pytest.mark.parametrize("spacing", get_args(TimestepSpacing))
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_true_noise_recovers_x0_in_the_last_step(sampler: SamplerName, spacing: TimestepSpacing) -> None:
    x0, noise = seeded_noise([1, 2], (4, 8, 8)), seeded_noise([3, 4], (4, 8, 8))
    sampling = SamplingSettings(sampler=sampler, steps=40, timestep_spacing=spacing)
    t = sampling.timesteps[-1]
    zero = torch.zeros_like(x0)
    xt = SCHEDULE.add_noise(x0, noise, torch.tensor([t, t]))
    recovered, predicted = step(xt, noise, zero, zero, zero, coefficients(sampling)[-1].expand(2, -1))
    torch.testing.assert_close(recovered, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(predicted, x0, rtol=1e-4, atol=1e-4)


def test_guidance_changes_the_first_channels_of_each_batch_row_by_its_own_scale() -> None:
    conditional, unconditional = seeded_noise([1, 2, 3], (4, 2, 2)), seeded_noise([4, 5, 6], (4, 2, 2))
    guided = guided_noise(conditional, unconditional, torch.tensor([1.0, 0.0, 4.0]), 3)
    torch.testing.assert_close(guided[0], conditional[0])
    torch.testing.assert_close(guided[1, :3], unconditional[1, :3])
    torch.testing.assert_close(guided[2, :3], 4 * conditional[2, :3] - 3 * unconditional[2, :3])
    assert torch.equal(guided[:, 3:], conditional[:, 3:])


def test_guided_sampling_also_evaluates_the_null_class() -> None:
    calls = []

    def recording(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append((t.tolist(), y.tolist()))
        return model(x, t, y)

    sample(recording, seeded_noise([1, 2], (3, 4, 4)), torch.tensor([0, 4]), 7, SamplingSettings(steps=2), channels=3)
    assert calls == [([999] * 4, [0, 4, 7, 7]), ([499] * 4, [0, 4, 7, 7])]


def test_noise_depends_only_on_its_seed() -> None:
    rows = seeded_noise([3, 1, 3], (4, 8, 8))
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], seeded_noise([1], (4, 8, 8))[0])
    assert not torch.equal(rows[0], rows[1])
