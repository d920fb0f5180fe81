from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from core.artifact.base import (
    BaseConfig,
    BaseDescription,
    StoredTensor,
    autoencoder_digest,
    base_digest,
    canonical_json,
)

TENSORS = [StoredTensor("a.weight", "F32", (2,), b"12345678"), StoredTensor("b.bias", "F32", (1,), b"abcd")]


def test_configurations_and_descriptions_survive_json() -> None:
    config = BaseConfig(input_size=16, hidden_size=64, num_heads=2, num_classes=3, timestep_convention="diffusers")
    description = BaseDescription(
        name="x", digest="d", config=config, image_size=64, licence="l", parameters=7, class_names=("a", "b", "c")
    )
    assert BaseConfig.from_json(config.to_json()) == config
    assert BaseDescription.from_json(description.to_json()) == description


def test_unknown_fields_are_rejected() -> None:
    with pytest.raises(ValueError, match="unknown fields in the base's configuration: colour"):
        BaseConfig.from_json({**BaseConfig().to_json(), "colour": 1})


@pytest.mark.parametrize("change", [{"input_size": 31}, {"num_heads": 5}, {"hidden_size": 6, "num_heads": 1}])
def test_impossible_shapes_are_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must divide"):
        replace(BaseConfig(), **change)


def test_digest_ignores_the_order_of_tensors() -> None:
    assert base_digest(BaseConfig(), TENSORS, "vae") == base_digest(BaseConfig(), reversed(TENSORS), "vae")


@pytest.mark.parametrize(
    "change",
    [
        lambda: base_digest(replace(BaseConfig(), timestep_convention="diffusers"), TENSORS, "vae"),
        lambda: base_digest(BaseConfig(), TENSORS, "another"),
        lambda: base_digest(BaseConfig(), TENSORS[:1], "vae"),
        lambda: base_digest(BaseConfig(), [replace(TENSORS[0], data=b"12345679"), TENSORS[1]], "vae"),
        lambda: base_digest(BaseConfig(), [replace(TENSORS[0], dtype="I32"), TENSORS[1]], "vae"),
        lambda: base_digest(BaseConfig(), [replace(TENSORS[0], shape=(1, 2)), TENSORS[1]], "vae"),
        lambda: base_digest(BaseConfig(), [replace(TENSORS[0], name="c.weight"), TENSORS[1]], "vae"),
    ],
)
def test_digest_covers_configuration_autoencoder_and_tensors(change: Callable[[], str]) -> None:
    assert change() != base_digest(BaseConfig(), TENSORS, "vae")


def test_digest_ignores_bookkeeping_of_the_autoencoder() -> None:
    digest = autoencoder_digest({"scaling_factor": 0.18215}, TENSORS)
    assert autoencoder_digest({"scaling_factor": 0.18215, "_name_or_path": "/somewhere"}, TENSORS) == digest
    assert autoencoder_digest({"scaling_factor": 1.0}, TENSORS) != digest


def test_canonical_json_is_sorted_compact_and_utf_8() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("nan"))
