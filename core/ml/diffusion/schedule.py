"""The linear noise schedule of DDPM (arXiv 2006.11239), 1,000 steps, with which DiT is trained."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from core.artifact.sampling import TIMESTEPS


@dataclass(frozen=True)
class Schedule:
    """Betas from `first` to `last`. All tables are fp64 [1000], on `device`."""

    first: float = 1e-4
    last: float = 0.02
    device: str = "cpu"

    @cached_property
    def betas(self) -> Tensor:
        return torch.linspace(self.first, self.last, TIMESTEPS, dtype=torch.float64).to(self.device)

    @cached_property
    def log_betas(self) -> Tensor:
        return self.betas.log()

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Share of the signal's variance left at each timestep."""
        return torch.cumprod(1 - self.betas, dim=0)

    @cached_property
    def alphas_cumprod_before(self) -> Tensor:
        """The same one timestep earlier; 1 before the first."""
        return torch.cat([self.betas.new_ones(1), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0); 0 at t = 0."""
        return self.betas * (1 - self.alphas_cumprod_before) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Its logarithm, with t = 0 given the value of t = 1 so that it stays finite."""
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
        """q(x_t | x_0): x0 and noise [B, ...], t [B] -> [B, ...]"""
        kept = rows(self.alphas_cumprod, t, x0)
        return kept.sqrt() * x0 + (1 - kept).sqrt() * noise


SCHEDULE = Schedule()


@lru_cache
def schedule_on(device: torch.device) -> Schedule:
    """The schedule with its tables on `device`: nothing is copied there again, as a CUDA graph requires."""
    return Schedule(device=str(device))


def rows(table: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """table [1000] at t [B], shaped to broadcast over `like` [B, ...] in its dtype and device."""
    return table.to(like.device)[t].to(like.dtype).view(-1, *[1] * (like.ndim - 1))
