"""Generates images with PEFT's mixed batch: LoRA adapters of different domains in one forward, one adapter name per
batch row.

PEFT is the public library that mixes adapters within a forward of such a model. Its adapters have rank 8 on the linear
layers of the blocks, all of which DiffFit changes too. In PEFT's favour, embedders and the final layer have no
adapters, and every domain generates the base's classes. PEFT has no engine: requests that arrive together stay in one
batch from the first sampling step to the last.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from benchmarks.baselines.diffusers_model import autoencoder, ddim, pixels, transformer
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.dit import DiT

RANK = 8
LAYERS = ["norm1.linear", "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]


class PeftBatch:
    """Model with one LoRA adapter for each of `domains`, all with random, non-zero weights."""

    def __init__(self, dit: DiT, coder: Autoencoder, domains: Sequence[str]) -> None:
        self.config, self.device, self.dtype = dit.config, dit.positions.device, dit.positions.dtype
        lora = LoraConfig(r=RANK, target_modules=LAYERS, init_lora_weights=False)
        torch.manual_seed(0)
        first, *others = domains
        self.model: Any = get_peft_model(transformer(dit), lora, adapter_name=first)
        for domain in others:
            self.model.add_adapter(domain, lora)
        self.model.to(self.device, self.dtype).eval()
        self.coder = autoencoder(coder, self.dtype)

    @torch.inference_mode()
    def draw(
        self, domains: list[str], classes: list[int], seeds: list[int], *, steps: int, guidance_scale: float
    ) -> Tensor:
        """Generates one guided image for each entry of the lists. Returns 8-bit images [B, S, S, 3]."""
        config, scheduler, count = self.config, ddim(), len(domains)
        scheduler.set_timesteps(steps, device=self.device)
        x = torch.stack([self._noise(seed) for seed in seeds])  # [B, C, H, W]
        labels = torch.tensor(classes + [config.null_class] * count, device=self.device)
        names = domains * 2
        for t in scheduler.timesteps:
            both = t.expand(2 * count)
            output = self.model(torch.cat([x, x]), timestep=both, class_labels=labels, adapter_names=names).sample
            conditional, unconditional = output[:, : config.in_channels].chunk(2)
            noise = unconditional + guidance_scale * (conditional - unconditional)
            x = scheduler.step(noise, t, x).prev_sample
        images = self.coder.decode(x / self.coder.config.scaling_factor).sample
        return pixels((images / 2 + 0.5).clamp(0, 1))

    def _noise(self, seed: int) -> Tensor:
        config, generator = self.config, torch.Generator().manual_seed(seed)
        noise = torch.randn(config.in_channels, config.input_size, config.input_size, generator=generator)
        return noise.to(self.device, self.dtype)
