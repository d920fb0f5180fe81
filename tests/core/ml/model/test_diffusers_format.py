"""Tensor names and forward pass compared with diffusers."""

from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel

from core.artifact.base import BaseConfig
from core.ml.errors import CheckpointInvalid
from core.ml.model.diffusers_format import config_from_diffusers, config_to_diffusers, from_diffusers, to_diffusers
from tests.core.ml.model.small import CONFIG, batch, difference, random_dit, zeros

SHAPES = [
    CONFIG,
    BaseConfig(input_size=16, hidden_size=96, depth=2, num_heads=3, num_classes=11, patch_size=4),
    BaseConfig(input_size=8, hidden_size=64, depth=3, num_heads=2, num_classes=2, in_channels=6),
]


@pytest.mark.parametrize("config", SHAPES)
def test_names_survive_a_round_trip(config: BaseConfig) -> None:
    state = random_dit(config).state_dict()
    back = from_diffusers(to_diffusers(state, config), config)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("config", SHAPES)
def test_names_equal_those_of_the_class_in_diffusers(config: BaseConfig) -> None:
    theirs = _diffusers_class(config).state_dict()
    renamed = to_diffusers(random_dit(config).state_dict(), config)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


@pytest.mark.parametrize("config", SHAPES)
def test_configuration_survives_a_round_trip(config: BaseConfig) -> None:
    assert config_from_diffusers(_diffusers_class(config).config) == config


@pytest.mark.parametrize("config", SHAPES)
def test_forward_equals_diffusers_with_its_timesteps_and_norms(config: BaseConfig) -> None:
    """Compares in float64, where even another eps in one norm would show."""
    config = BaseConfig(**{**config.to_json(), "timestep_convention": "diffusers", "mlp_norm_eps": 1e-5})
    dit = random_dit(config, torch.float64)
    theirs = _diffusers_model(dit.state_dict(), config).double()
    x, t, y = batch(config, size=6, classes=config.num_classes)
    with torch.no_grad():
        expected = theirs(x.double(), timestep=t, class_labels=y).sample
    assert difference(dit(x, t, y), expected) < 1e-12


def test_timestep_convention_changes_the_forward() -> None:
    """Shows that the comparison above would detect a wrong convention."""
    dit = random_dit()
    theirs = _diffusers_model(dit.state_dict(), CONFIG)
    x, t, y = batch()
    with torch.no_grad():
        assert difference(dit(x, t, y), theirs(x, timestep=t, class_labels=y).sample) > 1e-2


@pytest.mark.parametrize(
    "name",
    [
        "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias",
        "transformer_blocks.3.norm1.emb.timestep_embedder.linear_2.weight",
        "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight",
    ],
)
def test_embedders_that_differ_between_blocks_are_rejected(name: str) -> None:
    state = to_diffusers(random_dit().state_dict(), CONFIG)
    state[name] = state[name].clone()
    state[name].view(-1)[-1] += 1
    with pytest.raises(CheckpointInvalid, match=f"'{name}' differs"):
        from_diffusers(state, CONFIG)


@pytest.mark.parametrize(
    "name",
    [
        "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias",
        "transformer_blocks.0.attn1.to_k.weight",
    ],
)
def test_missing_tensors_are_named(name: str) -> None:
    state = to_diffusers(random_dit().state_dict(), CONFIG)
    del state[name]
    with pytest.raises(CheckpointInvalid, match=f"missing: {name}"):
        from_diffusers(state, CONFIG)


@pytest.mark.parametrize(
    ("setting", "value"), [("activation_fn", "geglu"), ("norm_elementwise_affine", True), ("attention_bias", False)]
)
def test_unsupported_architecture_is_rejected(setting: str, value: Any) -> None:
    with pytest.raises(CheckpointInvalid, match=f"{setting} = {value!r} is not supported"):
        config_from_diffusers({**config_to_diffusers(CONFIG), setting: value})


def _diffusers_model(state: dict[str, torch.Tensor], config: BaseConfig) -> Any:
    assert list(zeros(state)) == []
    model = _diffusers_class(config, norm_eps=1e-5)
    model.load_state_dict(to_diffusers(state, config))
    return model.eval()


def _diffusers_class(config: BaseConfig, **settings: Any) -> Any:
    return DiTTransformer2DModel(**{**config_to_diffusers(config), **settings})
