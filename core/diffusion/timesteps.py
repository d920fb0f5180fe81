"""Which timesteps a sampling run visits. No torch here: the scheduler of the engine uses it too."""

TIMESTEPS = 1000


def sampling_timesteps(steps: int) -> list[int]:
    """`steps` timesteps from 999 down, evenly spaced and counted from the end ("trailing", arXiv 2305.08891), so that
    sampling starts from the noise that training saw last.

    Raises ValueError when steps is not within 1..1000.
    """
    if not 1 <= steps <= TIMESTEPS:
        raise ValueError(f"steps must be within 1..{TIMESTEPS}, not {steps}")
    return [round(TIMESTEPS - index * TIMESTEPS / steps) - 1 for index in range(steps)]
