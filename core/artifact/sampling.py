"""Names of samplers, and which timesteps a run visits. No torch here: the scheduler of the engine uses it too."""

from typing import Literal

TIMESTEPS = 1000
EVERY_TIMESTEP = (0, TIMESTEPS - 1)
SamplerName = Literal["ddim", "ddpm", "dpmpp_2m"]
"""DDIM, ancestral sampling with the learned variance, and DPM-Solver++ of second order, multistep."""


def sampling_timesteps(steps: int) -> list[int]:
    """`steps` timesteps from 999 down, evenly spaced and counted from the end ("trailing", arXiv 2305.08891), so that
    sampling starts from the noise that training saw last.

    Raises ValueError when steps is not within 1..1000.
    """
    if not 1 <= steps <= TIMESTEPS:
        raise ValueError(f"steps must be within 1..{TIMESTEPS}, not {steps}")
    return [round(TIMESTEPS - index * TIMESTEPS / steps) - 1 for index in range(steps)]
