"""AdaptFormer compared with its formula."""

import pytest
import torch
from torch import Tensor

from core.artifact.additions import AdaptFormer
from core.artifact.sites import CLASS_TABLE
from core.ml.tuning.methods import adapter_of
from tests.core.ml.model.small import batch, difference, random_dit
from tests.core.ml.tuning.methods.small import METHODS, far, plain_forward


@pytest.mark.parametrize("name", ["adaptformer parallel", "adaptformer sequential"])
def test_adaptformer_equals_its_formula(name: str) -> None:
    """s * Up(ReLU(Down(u))), with u the residual stream (parallel) or the MLP's output (sequential)."""
    dit = random_dit(dtype=torch.float64)
    tensors, sites = far(dit, name), METHODS[name][1]
    assert isinstance(sites, AdaptFormer)

    def update(block: int, u: Tensor, output: Tensor) -> Tensor:
        down_weight, down_bias, up_weight, up_bias = (
            tensors[f"blocks.{block}.mlp.adapter.{part}"]
            for part in ("down.weight", "down.bias", "up.weight", "up.bias")
        )
        u_or_output = u if sites.placement == "parallel" else output
        inner = (u_or_output @ down_weight.T + down_bias).clamp(min=0)
        return sites.scale * (inner @ up_weight.T + up_bias)

    x, t, y = batch()
    expected = plain_forward(dit, {CLASS_TABLE: tensors[CLASS_TABLE]}, x.double(), t, y, mlp_update=update)
    assert difference(dit(x, t, y, adapter_of(sites, tensors)), expected) < 1e-12
