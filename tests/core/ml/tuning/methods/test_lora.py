"""LoRA compared with its definition, merged into the weights, and with the PEFT library."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.artifact.additions import Lora
from core.artifact.sites import trainable_shapes
from core.ml.model.dit import DiT
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.start import start_tensors
from tests.core.ml.model.small import CONFIG, batch, difference, random_dit
from tests.core.ml.tuning.methods.small import METHODS, far, plain_forward, start

LORAS = [name for name, (method, _) in METHODS.items() if method == "lora"]
DIFFUSERS = replace(CONFIG, timestep_convention="diffusers", mlp_norm_eps=1e-5)
"""Config with which the model computes the same forward as diffusers."""


def lora(name: str) -> Lora:
    sites = METHODS[name][1]
    assert isinstance(sites, Lora)
    return sites


@pytest.mark.parametrize("name", LORAS)
def test_lora_equals_its_updates_merged_into_the_weights(name: str) -> None:
    dit = random_dit(dtype=torch.float64)
    tensors, sites = far(dit, name), lora(name)
    x, t, y = batch()
    expected = plain_forward(dit, merged(dit, tensors, sites), x.double(), t, y)
    assert difference(dit(x, t, y, adapter_of(sites, tensors)), expected) < 1e-12


def merged(dit: DiT, tensors: dict[str, Tensor], sites: Lora) -> dict[str, Tensor]:
    """Returns the class table, and W + scale * up @ down in the rows of each part: query, key, value."""
    d = dit.config.hidden_size
    rows = {"query": slice(0, d), "value": slice(2 * d, 3 * d), "qkv": slice(0, 3 * d)}
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("y_embedder")}
    for i in range(dit.config.depth):
        weight = dit.get_parameter(f"blocks.{i}.attn.qkv.weight").clone()
        for part in sites.parts:
            down, up = (tensors[f"blocks.{i}.attn.{part}.{way}.weight"] for way in ("down", "up"))
            weight[rows[part]] += sites.scale * up @ down
        weights[f"blocks.{i}.attn.qkv.weight"] = weight
    return weights


@pytest.mark.parametrize("name", ["lora", "lora r16 scaled"])
def test_outputs_and_gradients_equal_those_of_peft(name: str) -> None:
    """Compares the forward and the gradient of every matrix in diffusers' transformer."""
    peft = pytest.importorskip("peft")
    from benchmarks.baselines.diffusers_model import transformer

    dit, sites = random_dit(DIFFUSERS), lora(name)
    tensors = {name: tensor.requires_grad_() for name, tensor in far(dit, name, CONFIG.num_classes).items()}
    config = peft.LoraConfig(
        r=sites.rank, lora_alpha=sites.scale * sites.rank, target_modules=["attn1.to_q", "attn1.to_v"]
    )
    state = dit.state_dict() | {name: tensor.detach() for name, tensor in tensors.items() if name in dit.state_dict()}
    theirs = peft.get_peft_model(transformer(dit, state=state), config)
    pairs = []
    for i in range(CONFIG.depth):
        for part, layer in (("query", "to_q"), ("value", "to_v")):
            for way, matrix in (("down", "lora_A"), ("up", "lora_B")):
                site = f"base_model.model.transformer_blocks.{i}.attn1.{layer}.{matrix}.default.weight"
                pairs.append((tensors[f"blocks.{i}.attn.{part}.{way}.weight"], theirs.get_parameter(site)))
    for own, their in pairs:
        their.data.copy_(own.detach())
    x, t, y = batch(classes=CONFIG.num_classes)
    output, expected = dit(x, t, y, adapter_of(sites, tensors)), theirs(x, timestep=t, class_labels=y).sample
    assert difference(output.detach(), expected.detach()) < 1e-5
    output.square().sum().backward()
    expected.square().sum().backward()
    assert all(difference(own.grad, their.grad) < 1e-4 for own, their in pairs if own.grad is not None)
    assert all(own.grad is not None and own.grad.any() for own, _ in pairs)


def test_down_projection_is_initialized_like_a_linear_layer_and_up_at_zero() -> None:
    dit = random_dit()
    tensors = start(dit, "lora r16 scaled")
    down = torch.cat([tensor.flatten() for name, tensor in tensors.items() if name.endswith(".down.weight")])
    limit = 1 / math.sqrt(CONFIG.hidden_size)
    assert 0.99 * limit < down.abs().max() <= limit
    assert down.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert not any(tensor.any() for name, tensor in tensors.items() if name.endswith(".up.weight"))
    again = start_tensors(dit, shapes(), torch.Generator().manual_seed(2), keep_classes=True)
    assert not torch.equal(again["blocks.0.attn.query.down.weight"], tensors["blocks.0.attn.query.down.weight"])


def shapes() -> dict[str, tuple[int, ...]]:
    return trainable_shapes(CONFIG, *METHODS["lora r16 scaled"], CONFIG.num_classes)
