"""LoRA, AdaptFormer and VPT on DiT-XL/2 with Food101's 101 classes."""

import dataclasses
from typing import Any

import pytest

from core.artifact.additions import AdaptFormer, Lora, Prompts
from core.artifact.base import BaseConfig
from core.artifact.sites import (
    CLASS_TABLE,
    PRESETS,
    SITES,
    Method,
    MethodSites,
    base_shapes,
    count,
    sites_of,
    trainable_shapes,
)

XL = BaseConfig()
FOOD = 101


def test_lora_on_the_stacked_matrix_has_as_many_parameters() -> None:
    assert count(trainable_shapes(XL, "lora", Lora(matrices="qkv"), FOOD)) == 1_149_696


@pytest.mark.parametrize(("method", "sites"), [("lora", Lora()), ("adaptformer", AdaptFormer()), ("vpt", Prompts())])
def test_only_vpt_trains_the_final_layer_of_the_base(method: Method, sites: MethodSites) -> None:
    base, shapes = base_shapes(XL), trainable_shapes(XL, method, sites, FOOD)
    final = {name for name in base if name.startswith("final_layer.")}
    assert len(final) == 4
    assert shapes.keys() & base.keys() == {CLASS_TABLE, *(final if method == "vpt" else ())}
    assert all(shapes[name] == base[name] for name in final & shapes.keys())


@pytest.mark.parametrize(
    ("method", "sites", "problem"),
    [
        ("lora", Lora(rank=0), "rank of 0 is not possible"),
        ("lora", Lora(rank=1153), "rank of 1153 is not possible for matrices of 1152 rows"),
        ("adaptformer", AdaptFormer(bottleneck=0), "bottleneck of 0"),
        ("vpt", Prompts(blocks=0), "0 blocks with prompts"),
        ("vpt", Prompts(blocks=29), "29 blocks with prompts, but the depth is 28"),
        ("vpt", Prompts(tokens=0), "0 prompts per block"),
        ("lora", PRESETS["paper"], "Sites does not describe what is trained by the method 'lora'"),
        ("difffit", Lora(), "Lora does not describe what is trained by the method 'difffit'"),
    ],
)
def test_sites_that_do_not_fit_are_rejected(method: Method, sites: MethodSites, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        trainable_shapes(XL, method, sites, FOOD)


@pytest.mark.parametrize("method", SITES)
def test_sites_survive_json(method: Method) -> None:
    sites = SITES[method]()
    assert sites_of(method, sites.to_json()) == sites


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("lora", {"rank": 8.0}),
        ("lora", {"rank": True}),
        ("lora", {"scale": "1"}),
        ("lora", {"scale": True}),
        ("lora", {"scale": float("inf")}),
        ("lora", {"matrices": "key"}),
        ("lora", {"matrices": ["qkv"]}),
        ("adaptformer", {"placement": None}),
        ("vpt", {"tokens": None}),
        ("vpt", {"more": 1}),
        ("difffit", {"qkv": 1}),
        ("difffit", {"last_block": 1.0}),
    ],
)
def test_invalid_sites_of_a_method_are_rejected(method: Method, change: dict[str, Any]) -> None:
    values = SITES[method]().to_json()
    with pytest.raises(ValueError, match=r"Invalid value for|the method"):
        sites_of(method, values | change)
    with pytest.raises(ValueError, match="takes the sites"):
        sites_of(method, {})
    with pytest.raises(ValueError, match="takes the sites"):
        sites_of(method, None)


def test_scale_may_be_an_integer() -> None:
    values = dataclasses.asdict(Lora()) | {"scale": 2}
    assert sites_of("lora", values) == Lora(scale=2.0)
