"""Mixes of two adapters: against a reference that mixes what the adapters do at each site, among other images, and
after a deletion."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.artifact.errors import ArtifactInvalid
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import CLASS_TABLE
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.model.adapter import Adapter, TensorAdapter
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.model.folding import folded_forward
from core.ml.serving.engine import Engine
from core.ml.serving.request import Drawn, ImageRequest
from tests.core.ml.model.small import CONFIG, batch, difference, random_dit, random_tensors
from tests.core.ml.serving.small import draw, request, tensors

CLASSES = ([0, 1, 2], [2, 0, 1])
"""Indices of the same classes in the first and in the second adapter."""
METHODS = ("every site", "bitfit")
BASE_CLASSES = [3, 0, 2]
"""Indices of these classes in the base."""


class Mix(Adapter):
    """Mix by definition: wherever adapters change the base's linear layers, norms and gates, computes each adapter's
    result separately and adds them up, multiplied by their coefficients. Nothing is folded."""

    def __init__(self, adapters: Sequence[Mapping[str, Tensor]], coefficients: Sequence[float], table: Tensor) -> None:
        self.tensors, self.table = adapters, table
        self.adapters, self.coefficients = [TensorAdapter(adapter) for adapter in adapters], coefficients

    def total(self, parts: Sequence[Tensor]) -> Tensor:
        return sum(c * part for c, part in zip(self.coefficients, parts, strict=True))  # type: ignore[return-value]

    def linear(self, name: str, x: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor:
        outputs = [adapter.linear(name, x, layer) for adapter in self.adapters]
        if "adaLN" in name:
            self.modulations = [output.chunk(6 if "blocks" in name else 2, dim=-1) for output in outputs]
        if not name.endswith("qkv"):
            return self.total(outputs)
        # The factor of the key multiplies the query instead, and softmax ignores the bias of the key.
        factors = [adapter.get(f"{name}.factor", x.new_ones(outputs[0].shape[-1])) for adapter in self.tensors]
        queries, _, values = zip(*(output.chunk(3, dim=-1) for output in outputs), strict=True)
        queries = [query * factor.chunk(3)[1] for query, factor in zip(queries, factors, strict=True)]
        key = F.linear(x, layer.weight).chunk(3, dim=-1)[1]
        return torch.cat([self.total(queries), key, self.total(values)], dim=-1)

    def modulation(self, norm: str, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        at = 3 if norm.endswith("norm2") else 0
        parts = [
            adapter.modulation(norm, parts[at], 1 + parts[at + 1])
            for adapter, parts in zip(self.adapters, self.modulations, strict=True)
        ]
        shifts, scales = zip(*parts, strict=True)
        return self.total(shifts), self.total(scales)

    def gate(self, branch: str, gate: Tensor) -> Tensor:
        at = 5 if branch.endswith("mlp") else 2
        pairs = zip(self.adapters, self.modulations, strict=True)
        return self.total([adapter.gate(branch, parts[at]) for adapter, parts in pairs])

    def classes(self, table: Tensor, y: Tensor) -> Tensor:
        return F.embedding(y, self.table)


def mix_of(first: Mapping[str, Tensor], second: Mapping[str, Tensor], weight: float, scale: float) -> Mix:
    """Returns base + scale ((1 - weight) first + weight second - base). Its classes are those of the first adapter."""
    dit = random_dit(dtype=torch.float64)
    base = dit.y_embedder.embedding_table.weight
    coefficients = (1 - scale, scale * (1 - weight), scale * weight)
    tables = base[[*BASE_CLASSES, -1]], first[CLASS_TABLE][[*CLASSES[0], -1]], second[CLASS_TABLE][[*CLASSES[1], -1]]
    table = sum(c * rows.double() for c, rows in zip(coefficients, tables, strict=True))
    adapters = [{name: tensor.double() for name, tensor in each.items()} for each in ({}, first, second)]
    return Mix(adapters, coefficients, table)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folded(bank: AdapterBank) -> list[FoldedAdapter]:
    """Returns two adapters of different methods with different sites."""
    return [bank.fold(name, random_tensors(bank.dit, name, seed=seed)) for seed, name in enumerate(METHODS)]


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.5])
@pytest.mark.parametrize("weight", [0.0, 0.25, 0.6, 1.0])
def test_mix_equals_the_sum_of_what_the_adapters_do(
    bank: AdapterBank, folded: list[FoldedAdapter], weight: float, scale: float
) -> None:
    adapter = folded[0].mixed(folded[1], weight).at(scale)
    x, t, y = batch(size=6)
    (slot,) = bank.activate([adapter])
    rows = [
        bank.classes(
            adapter, CLASSES[0][i], other_class=CLASSES[1][i], scale=scale, null_scale=scale, base_class=BASE_CLASSES[i]
        )
        for i in range(3)
    ]
    table = torch.stack([*(row[0] for row in rows), rows[0][1]])
    output = folded_forward(bank.dit, x, t, table[y], bank.table[slot].expand(len(x), -1))
    first, second = (random_tensors(bank.dit, name, seed=seed) for seed, name in enumerate(METHODS))
    expected = random_dit(dtype=torch.float64)(x, t, y, mix_of(first, second, weight, scale))
    assert difference(output, expected) < 1e-4


def test_mix_with_weight_zero_or_one_is_one_of_the_adapters(bank: AdapterBank, folded: list[FoldedAdapter]) -> None:
    """Bit for bit, with the first adapter's own slot at weight 0."""
    first, second = folded
    slots = bank.activate([first, first.mixed(second, 0.0), first.mixed(second, 1.0), first.mixed(second, 0.5)])
    assert slots[0] == slots[1]
    assert len(set(slots)) == 3
    assert torch.equal(bank.table[slots[2]], second.vectors)
    for weight, adapter, class_id in ((0.0, first, 1), (1.0, second, 2)):
        rows = bank.classes(first.mixed(second, weight), 1, other_class=2)
        assert torch.equal(rows, bank.classes(adapter, class_id))


def test_mix_of_an_unknown_class_is_rejected(bank: AdapterBank, folded: list[FoldedAdapter]) -> None:
    with pytest.raises(IndexError, match="class 3 of 3"):
        bank.classes(folded[0].mixed(folded[1], 0.5), 1, other_class=3)


def test_forgetting_either_adapter_clears_its_mixes(folded: list[FoldedAdapter]) -> None:
    first, second = folded
    bank = AdapterBank(random_dit(), 4)
    mixes = [first.mixed(second, 0.5), first.mixed(second, 0.25).at(1.5)]
    for forgotten, left in ((first, second), (second, first)):
        *slots, kept = bank.activate([*mixes, left])
        assert bank.resident == [METHODS[0], METHODS[1]]
        bank.forget(forgotten.digest)
        assert bank.resident == [left.digest]
        assert not bank.table[slots].any()
        assert torch.equal(bank.table[kept], left.vectors)
        bank.forget(left.digest)


def mixed(id: str, weight: float, **changes: Any) -> ImageRequest:
    return request(id, mix_adapter="adapter-1", mix_class=2, mix_weight=weight, base_class=3, **changes)


def draw_mix(engine: Engine, request: ImageRequest) -> Drawn:
    return engine.submit(request, lambda: tensors(0), lambda: tensors(1)).result(60)


@pytest.mark.parametrize(("scale", "guide"), [(1.0, 1.0), (0.5, 1.0), (1.5, 0.5), (1.0, 0.0)])
def test_image_of_a_mix_equals_a_plain_sampling_run(engine: Engine, scale: float, guide: float) -> None:
    """Also with guidance against a weaker version of the mix, or against the base."""
    dit = random_dit(dtype=torch.float64)
    conditional, unconditional = (mix_of(tensors(0), tensors(1), 0.3, at) for at in (scale, scale * guide))

    def both(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        outputs = [dit(x[:1], t[:1], y[:1], conditional), dit(x[1:], t[1:], y[1:], unconditional)]
        return torch.cat(outputs).float()

    latents = sample(
        both,
        seeded_noise([5], (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)),
        torch.tensor([0]),
        3,
        SamplingSettings(steps=4, guidance_scale=3.0),
        channels=CONFIG.guidance_channels,
    )
    expected = engine.runner.decode([latents[0]])[0]
    asked = mixed("mix", 0.3, class_id=0, adapter_scale=scale, guidance_adapter_scale=guide)
    (image, _) = draw_mix(engine, asked).images
    assert (image.int() - expected.int()).abs().max() <= 1


def test_weight_zero_is_the_first_adapter_and_one_the_second(engine: Engine) -> None:
    chosen: dict[str, Any] = {"adapter_scale": 1.25, "guidance_adapter_scale": 0.5, "sampler": "ddpm"}
    for weight, name, class_id in ((0.0, "adapter-0", 1), (1.0, "adapter-1", 2)):
        alone = request(name, adapter=name, class_id=class_id, base_class=3, **chosen)
        images = draw_mix(engine, mixed(f"{weight}", weight, **chosen)).images
        expected = draw(engine, alone).result(60).images
        assert all(torch.equal(first, second) for first, second in zip(images, expected, strict=True))


def test_mix_in_a_mixed_batch_equals_its_solo_run(engine: Engine) -> None:
    """Among its own adapters, other weights and scales of the same mix, and the base."""
    asked: dict[str, Any] = {"adapter_scale": 0.8, "guidance_adapter_scale": 0.5, "sampler": "ddpm"}
    alone = draw_mix(engine, mixed("alone", 0.4, **asked)).images
    engine.forget(["adapter-0", "adapter-1"])
    crowd = [
        draw(engine, request(f"{name}-{seed}", adapter=name, seeds=(seed,), steps=2 + seed))
        for seed in range(3)
        for name in ("adapter-0", "adapter-1", "adapter-2", None)
    ]
    crowd += [
        engine.submit(mixed(f"{weight}", weight, seeds=(9,)), lambda: tensors(0), lambda: tensors(1))
        for weight in (0.0, 0.3, 0.5, 1.0)
    ]
    together = draw_mix(engine, mixed("together", 0.4, **asked)).images
    assert all(future.result(60).images for future in crowd)
    assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))


def test_deleted_adapter_of_a_mix_leaves_host_and_device(engine: Engine) -> None:
    draw_mix(engine, mixed("mix", 0.5))
    assert set(engine.bank.resident) == set(engine.cache.resident) == {"adapter-0", "adapter-1"}
    engine.forget(["adapter-1"])
    assert engine.cache.resident == ["adapter-0"]
    assert engine.bank.resident == []


@pytest.mark.parametrize("broken", [0, 1])
def test_broken_adapter_of_a_mix_fails_its_request(engine: Engine, broken: int) -> None:
    def fail() -> dict[str, Tensor]:
        raise ArtifactInvalid("not finite")

    loads = [lambda: tensors(0), lambda: tensors(1)]
    loads[broken] = fail
    error = engine.submit(mixed("mix", 0.5), *loads).exception(60)
    assert isinstance(error, ArtifactInvalid)
    assert [engine.cache.is_broken(load) for load in loads] == [index == broken for index in range(2)]


def test_mix_without_a_load_for_each_adapter_is_rejected(engine: Engine) -> None:
    with pytest.raises(ValueError, match="a way to load each"):
        engine.submit(mixed("mix", 0.5), lambda: tensors(0))
