"""Loads UNets and ControlNets in diffusers' format, and starts a ControlNet from a UNet."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.controlnet.adapter import HINT, HINT_ZERO
from core.ml.errors import CheckpointInvalid

SHARED = ("in_channels", "block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim",
          "attention_head_dim", "transformer_layers_per_block")  # fmt: skip
"""Settings in which a ControlNet must equal its UNet."""


def load_unet(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Loads a UNet, frozen, from its folder or from the folder of a whole pipeline. Raises CheckpointInvalid for a
    folder of something else."""
    from diffusers import UNet2DConditionModel

    inner = folder / "unet"
    network = _loaded(UNet2DConditionModel, inner if inner.is_dir() else folder, dtype)
    return network.eval().requires_grad_(False)


def load_controlnet(folder: Path, unet: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Loads a ControlNet. Raises CheckpointInvalid for a folder of something else, and for the ControlNet of another
    UNet."""
    from diffusers import ControlNetModel

    network = _loaded(ControlNetModel, folder, dtype)
    settings = [(name, network.config.get(name), unet.config.get(name)) for name in SHARED]
    # A config that was read from a file has lists where others have tuples.
    if other := [f"{name} is {ours}, the UNet's {theirs}" for name, ours, theirs in settings
                 if json.dumps(ours) != json.dumps(theirs)]:  # fmt: skip
        raise CheckpointInvalid(f"The ControlNet '{folder}' is of another UNet: its {'; '.join(other)}.")
    return network


def start_controlnet(unet: Any, hint_widths: tuple[int, ...], seed: int) -> Any:
    """Returns a ControlNet that starts as a copy of the UNet's encoder, for hints of one channel.

    The hint block starts from He's initialization. diffusers' default shrinks the hint at each layer, and DiffFit does
    not train these weights.
    """
    from diffusers import ControlNetModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=hint_widths, conditioning_channels=1
        )
        for name, layer in network.get_submodule(HINT).named_modules(prefix=HINT):
            if isinstance(layer, nn.Conv2d) and name != HINT_ZERO:
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.get_parameter("bias"))
    return network


def _loaded(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    try:
        content = json.loads((folder / "config.json").read_bytes()).get("_class_name")
        if content != kind.__name__:
            raise CheckpointInvalid(f"'{folder}' is of {content}, not of {kind.__name__}.")
        network, loading = kind.from_pretrained(str(folder), torch_dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointInvalid(f"'{folder}' cannot be loaded as {kind.__name__}: {error}") from error
    # diffusers would only warn, and leave missing tensors at random values.
    problems = []
    for key, word in (("missing_keys", "lacks"), ("unexpected_keys", "has unknown")):
        if names := sorted(loading[key]):
            problems.append(f"it {word} {', '.join(names[:3])} ({len(names)} in all)")
    if problems:
        raise CheckpointInvalid(f"'{folder}' does not fit {kind.__name__}: {' and '.join(problems)}.")
    return network
