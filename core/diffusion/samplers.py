"""Sampling steps over a batch whose rows may stand at different timesteps, with different step counts and scales."""

from torch import Tensor


def guided_noise(conditional: Tensor, unconditional: Tensor, scale: Tensor, channels: int) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598) on the first `channels` channels; the others stay conditional.

    conditional and unconditional [B, C, H, W], scale [B] -> [B, C, H, W]. The original DiT guides 3 of 4 channels,
    diffusers all of them.
    """
    first = unconditional[:, :channels]
    guided = conditional.clone()
    guided[:, :channels] = first + scale.view(-1, 1, 1, 1) * (conditional[:, :channels] - first)
    return guided


def ddim_step(x: Tensor, noise: Tensor, kept: Tensor, kept_next: Tensor) -> Tensor:
    """One deterministic DDIM step (arXiv 2010.02502, equation 12 with eta = 0).

    x and the predicted noise [B, C, H, W]; `kept` and `kept_next` [B] are alphas_cumprod at each row's timestep and
    at the one it goes to (1 after its last) -> [B, C, H, W].
    """
    kept, kept_next = kept.view(-1, 1, 1, 1), kept_next.view(-1, 1, 1, 1)
    x0 = (x - (1 - kept).sqrt() * noise) / kept.sqrt()
    return kept_next.sqrt() * x0 + (1 - kept_next).sqrt() * noise
