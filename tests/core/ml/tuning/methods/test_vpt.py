"""VPT-deep compared with a plain forward that has tokens in front."""

import math

import pytest
import torch

from core.artifact.additions import Prompts
from core.artifact.sites import trainable_shapes
from core.ml.model.dit import DiT
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.start import start_tensors
from tests.core.ml.model.small import CONFIG, batch, difference, random_dit
from tests.core.ml.tuning.methods.small import METHODS, far, plain_forward

VPTS = [name for name, (method, _) in METHODS.items() if method == "vpt"]


@pytest.mark.parametrize("name", VPTS)
def test_prompts_of_each_block_are_put_in_front_and_dropped_at_the_end(name: str) -> None:
    dit = random_dit(dtype=torch.float64)
    tensors, sites = far(dit, name), METHODS[name][1]
    assert isinstance(sites, Prompts)
    prompts = [tensors[f"blocks.{i}.prompts"] for i in range(sites.blocks)]
    weights = {name: tensor for name, tensor in tensors.items() if not name.endswith(".prompts")}
    assert any(name.startswith("final_layer.") for name in weights)
    x, t, y = batch()
    output = dit(x, t, y, adapter_of(sites, tensors))
    assert output.shape == (len(x), CONFIG.out_channels, CONFIG.input_size, CONFIG.input_size)
    assert difference(output, plain_forward(dit, weights, x.double(), t, y, prompts=prompts)) < 1e-12


def test_vpt_works_at_another_image_size() -> None:
    dit = random_dit()
    x, t, y = batch()
    large = torch.randn(len(x), CONFIG.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    assert dit(large, t, y, adapter_of(METHODS["vpt"][1], far(dit, "vpt"))).shape[-2:] == (16, 16)


def test_prompts_are_initialized_like_the_patch_embedding() -> None:
    sites = Prompts(blocks=2, tokens=200)
    shapes = trainable_shapes(CONFIG, "vpt", sites, CONFIG.num_classes)
    prompts = start_tensors(DiT(CONFIG), shapes, torch.Generator().manual_seed(0))["blocks.1.prompts"]
    limit = math.sqrt(6 / (CONFIG.patch_values + CONFIG.hidden_size))
    assert 0.99 * limit < prompts.abs().max() <= limit
    assert prompts.mean().item() == pytest.approx(0, abs=0.01 * limit * 3)
