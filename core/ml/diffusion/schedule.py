"""The linear noise schedule of DDPM (arXiv 2006.11239) with 1,000 timesteps, with which DiT is trained."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from core.artifact.sampling import TIMESTEPS


@dataclass(frozen=True)
class Schedule:
    """Noise schedule whose betas rise linearly. All tables are fp64 [1000], on `device`."""

    device: str = "cpu"

    @cached_property
    def betas(self) -> Tensor:
        return torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64).to(self.device)

    @cached_property
    def log_betas(self) -> Tensor:
        return self.betas.log()

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """alpha_bar: the fraction of the signal's variance that is left at each timestep."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def alphas_cumprod_before(self) -> Tensor:
        """alpha_bar one timestep earlier; 1 before the first timestep."""
        return torch.cat([self.betas.new_ones(1), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0); 0 at t = 0."""
        return self.betas * (1 - self.alphas_cumprod_before) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Logarithm of the posterior variance. At t = 0 it has the value of t = 1, so that it stays finite."""
        return torch.log(torch.cat([self.posterior_variance[1:2], self.posterior_variance[1:]]))

    @cached_property
    def posterior_coefficients(self) -> tuple[Tensor, Tensor]:
        """Coefficients of x_0 and of x_t in the mean of q(x_{t-1} | x_t, x_0)."""
        alpha_bar, before = self.alphas_cumprod, self.alphas_cumprod_before
        return self.betas * before.sqrt() / (1 - alpha_bar), (1 - before) * (1 - self.betas).sqrt() / (1 - alpha_bar)

    @cached_property
    def signal_to_noise(self) -> Tensor:
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Returns x_t for the given noise, as q(x_t | x_0) defines it: x0 and noise [B, ...], t [B] -> [B, ...]."""
        kept = rows(self.alphas_cumprod, t, x0)
        return kept.sqrt() * x0 + (1 - kept).sqrt() * noise


SCHEDULE = Schedule()


@lru_cache
def schedule_on(device: torch.device) -> Schedule:
    """Returns the schedule with its tables on `device`. The schedule is cached, so that its tables are copied to the
    device only once: a CUDA graph cannot contain the copy."""
    return Schedule(device=str(device))


def rows(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """Returns the values of `table` [1000] at t [B], in the dtype and on the device of `like` [B, ...], shaped to
    broadcast over `like`."""
    return table.to(like.device)[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))
