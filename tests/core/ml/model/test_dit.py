"""The transformer with the adapter as an argument."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.artifact.base import BaseConfig
from core.artifact.sites import base_shapes
from core.ml.model.adapter import TensorAdapter
from core.ml.model.dit import DiT, initialize, position_table, timestep_features
from tests.core.ml.model.small import ADAPTERS, CONFIG, batch, fresh_tensors, random_dit, random_tensors


def test_tensor_shapes_equal_those_computed_without_torch() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in DiT(CONFIG).state_dict().items()}
    assert shapes == base_shapes(CONFIG)


def test_base_has_no_gradients() -> None:
    assert not any(parameter.requires_grad for parameter in DiT(CONFIG).parameters())


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_adapter_is_bit_identical_to_the_base(name: str, dtype: torch.dtype) -> None:
    dit = random_dit().to(dtype)
    x, t, y = batch(classes=CONFIG.num_classes)
    assert torch.equal(dit(x, t, y, TensorAdapter(fresh_tensors(dit, name))), dit(x, t, y))


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_tensor_of_an_adapter_changes_the_output(name: str) -> None:
    """Changes one factor, bias, norm or table at a time. Softmax ignores the key's part of the stacked bias."""
    dit = random_dit()
    x, t, y = batch(classes=CONFIG.num_classes)
    expected = dit(x, t, y)
    for tensor_name, tensor in fresh_tensors(dit, name).items():
        output = dit(x, t, y, TensorAdapter({tensor_name: 1.5 * tensor + 0.1, **_partner(tensor_name, tensor)}))
        assert not torch.allclose(output, expected, rtol=0, atol=1e-3), tensor_name


@pytest.mark.parametrize("name", ADAPTERS)
def test_gradients_reach_every_tensor_and_none_of_the_base(name: str) -> None:
    dit = random_dit()
    tensors = {name: tensor.requires_grad_() for name, tensor in random_tensors(dit, name).items()}
    dit(*batch(), TensorAdapter(tensors)).square().sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is None or not tensor.grad.any()] == []
    assert all(parameter.grad is None for parameter in dit.parameters())


def test_forward_equals_the_papers_equations() -> None:
    """Compares with the blocks as DiffFit's paper writes them, with factors and affine norms, in float64."""
    dit = random_dit(dtype=torch.float64)
    tensors = random_tensors(dit, "every site")
    x, t, y = batch()
    output = dit(x.double(), t, y, TensorAdapter(tensors))
    torch.testing.assert_close(output, _paper_forward(dit, tensors, x.double(), t, y), rtol=1e-10, atol=1e-10)


def test_every_second_position_at_twice_the_size_equals_one_of_the_base() -> None:
    """At 512x512, positions are (i/2, j/2) in units of 256x256; every second one equals the base's, bit for bit."""
    base = BaseConfig()
    large = replace(base, input_size=64, position_scale=0.5)
    small_table = position_table(base).view(16, 16, -1)
    assert torch.equal(position_table(large).view(32, 32, -1)[::2, ::2], small_table)
    assert not torch.equal(position_table(replace(large, position_scale=1.0)).view(32, 32, -1)[::2, ::2], small_table)
    dit = DiT(replace(base, depth=1))
    assert torch.equal(dit.positions_for(64), position_table(large))
    assert torch.equal(dit.double().positions_for(64), position_table(large).double())


def test_timestep_conventions_order_sine_and_cosine_differently() -> None:
    t = torch.tensor([0, 999])
    ours, theirs = timestep_features(t, "dit"), timestep_features(t, "diffusers")
    assert torch.equal(ours[0], theirs[0])
    assert F.cosine_similarity(ours[1], theirs[1], dim=0).item() == pytest.approx(0.49, abs=0.005)


def test_new_base_is_initialized_as_the_original() -> None:
    dit = DiT(CONFIG)
    initialize(dit, torch.Generator().manual_seed(0))
    assert not dit(*batch()).any()
    table = dit.y_embedder.embedding_table.weight
    assert table.std().item() == pytest.approx(0.02, rel=0.2)
    again = DiT(CONFIG)
    initialize(again, torch.Generator().manual_seed(0))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in dit.state_dict().items())


def _partner(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Returns the other tensor of an affine norm: the bias for a weight, the weight for a bias."""
    if ".norm" not in name:
        return {}
    module, _, kind = name.rpartition(".")
    return {f"{module}.bias": tensor * 0} if kind == "weight" else {f"{module}.weight": torch.ones_like(tensor)}


def _paper_forward(dit: DiT, tensors: dict[str, Tensor], x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    state = dit.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"].flatten(1), tensors[f"{name}.bias"])

    def factor(name: str) -> Tensor | float:
        return tensors.get(f"{name}.factor", 1.0)

    def norm(name: str, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        x = F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)
        return x * (1 + scale[:, None]) + shift[:, None]

    p = dit.config.patch_size
    patches = F.unfold(x, p, stride=p).transpose(1, 2)
    x = factor("x_embedder.proj") * linear("x_embedder.proj", patches) + dit.positions
    features = timestep_features(t, "dit").double()
    time = factor("t_embedder.mlp.2") * linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", features)))
    c = F.silu(time + tensors["y_embedder.embedding_table.weight"][y])
    for i in range(dit.config.depth):
        block = f"blocks.{i}"
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(f"{block}.adaLN_modulation.1", c).chunk(6, dim=1)
        h = norm(f"{block}.norm1", x, shift1, scale1)
        qkv = factor(f"{block}.attn.qkv") * linear(f"{block}.attn.qkv", h)
        q, k, v = qkv.unflatten(-1, (3, dit.config.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        h = factor(f"{block}.attn.proj") * linear(f"{block}.attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        x = x + gate1[:, None] * factor(f"{block}.attn") * h
        h = norm(f"{block}.norm2", x, shift2, scale2)
        h = linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", h), approximate="tanh"))
        x = x + gate2[:, None] * factor(f"{block}.mlp") * h
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)
    x = norm("final_layer.norm_final", x, shift, scale)
    x = factor("final_layer.linear") * linear("final_layer.linear", x)
    values = x.unflatten(-1, (p * p, -1)).permute(0, 3, 2, 1).flatten(1, 2)  # [B, 2C*p*p, N] as fold wants it
    return F.fold(values, (dit.config.input_size,) * 2, p, stride=p)
