"""LoRA, AdaptFormer and VPT on DiT-XL/2 with Food101's 101 classes: the counts of the DiffFit paper's Table 1."""

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


@pytest.mark.parametrize(
    ("method", "sites", "expected"),
    [
        ("lora", Lora(), 1_149_696),
        ("lora", Lora(rank=16), 2_181_888),
        ("lora", Lora(matrices="qkv"), 1_149_696),
        ("adaptformer", AdaptFormer(), 4_280_320),
        ("adaptformer", AdaptFormer(placement="sequential"), 4_280_320),
        ("vpt", Prompts(), 2_816_672),
    ],
)
def test_counts_of_table_1(method: Method, sites: MethodSites, expected: int) -> None:
    assert count(trainable_shapes(XL, method, sites, FOOD)) == expected


@pytest.mark.parametrize(("method", "sites"), [("lora", Lora()), ("adaptformer", AdaptFormer()), ("vpt", Prompts())])
def test_vpt_trains_the_bases_final_layer_and_the_others_nothing_of_it(method: Method, sites: MethodSites) -> None:
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
        ("lora", PRESETS["paper"], "Sites is not a kind of sites for the method 'lora'"),
        ("difffit", Lora(), "Lora is not a kind of sites for the method 'difffit'"),
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
def test_json_that_is_not_the_methods_is_refused(method: Method, change: dict[str, Any]) -> None:
    values = SITES[method]().to_json()
    with pytest.raises(ValueError, match=r"Invalid value for|the method"):
        sites_of(method, values | change)
    with pytest.raises(ValueError, match="takes the sites"):
        sites_of(method, {})
    with pytest.raises(ValueError, match="takes the sites"):
        sites_of(method, None)


def test_a_whole_number_is_a_scale_too() -> None:
    values = dataclasses.asdict(Lora()) | {"scale": 2}
    assert sites_of("lora", values) == Lora(scale=2.0)
