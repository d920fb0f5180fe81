"""VPT-deep (arXiv 2203.12119): prompt tokens in front of the image's tokens, the final layer, and a new class table."""

import torch
from torch import Tensor

from core.ml.model.adapter import TensorAdapter


class PromptAdapter(TensorAdapter):
    """Adapter that adds prompt tokens. Each block that has prompts replaces the prompts of the block before with its
    own. The prompts of the last such block stay until the final layer, which gets only the image's tokens. Prompts have
    no positional encoding."""

    def tokens(self, name: str, x: Tensor) -> Tensor:
        prompts = self.tensors.get(f"{name}.prompts")
        if prompts is None and name != "final_layer":
            return x
        image = x if name == "blocks.0" else x[:, len(self.tensors["blocks.0.prompts"]) :]  # [B, N, D]
        return image if prompts is None else torch.cat([prompts.to(x.dtype).expand(len(x), -1, -1), image], dim=1)
