"""The adapter bank: a table on the device, filled with the adapters that one step needs."""

import sys
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.artifact.sites import CLASS_TABLE
from core.ml.model.bank import BASE_SLOT, AdapterBank, FoldedAdapter
from core.ml.model.dit import DiT
from core.ml.model.folding import fold
from tests.core.ml.model.small import random_dit, random_tensors


@pytest.fixture(scope="module")
def dit() -> DiT:
    return random_dit()


@pytest.fixture(scope="module")
def adapters(dit: DiT) -> dict[str, FoldedAdapter]:
    bank = AdapterBank(dit, 1)
    return {name: bank.fold(name, random_tensors(dit, "paper", seed=seed)) for seed, name in enumerate("abcdef")}


def test_slot_zero_holds_the_base(dit: DiT) -> None:
    bank = AdapterBank(dit, 1)
    assert bank.activate([None, None]) == [BASE_SLOT, BASE_SLOT]
    torch.testing.assert_close(bank.table[BASE_SLOT], fold(dit, {}))
    expected = dit.y_embedder.embedding_table.weight[[2, dit.config.null_class]]
    assert torch.equal(bank.classes(None, 2), expected)


def test_folding_keeps_the_class_table(dit: DiT, adapters: dict[str, FoldedAdapter]) -> None:
    tensors = random_tensors(dit, "paper", seed=0)
    assert torch.equal(adapters["a"].classes, tensors[CLASS_TABLE])
    torch.testing.assert_close(adapters["a"].vectors, fold(dit, tensors))
    assert torch.equal(AdapterBank(dit, 1).classes(adapters["a"], 1), tensors[CLASS_TABLE][[1, 3]])


@given(steps=st.lists(st.lists(st.sampled_from([None, *"abcdef"]), min_size=1, max_size=8), min_size=1, max_size=20))
def test_slots_of_a_step_hold_its_adapters(
    dit: DiT, adapters: dict[str, FoldedAdapter], steps: list[list[str | None]]
) -> None:
    large, small = AdapterBank(dit, 6), AdapterBank(dit, 3)
    base = fold(dit, {})
    for names in steps:
        wanted = [None if name is None else adapters[name] for name in names]
        for bank in (large, small):
            if len(set(names) - {None}) > bank.slots:
                with pytest.raises(ValueError, match="slots"):
                    bank.activate(wanted)
                continue
            slots = bank.activate(wanted)
            for adapter, slot in zip(wanted, slots, strict=True):
                vectors = base if adapter is None else adapter.vectors
                assert torch.equal(bank.table[slot], vectors)
            assert len(set(bank.resident)) == len(bank.resident) <= bank.slots


def test_least_recently_used_adapter_is_evicted_first(dit: DiT, adapters: dict[str, FoldedAdapter]) -> None:
    a, b, c = (adapters[name] for name in "abc")
    bank = AdapterBank(dit, 2)
    bank.activate([a])
    bank.activate([b])
    bank.activate([a])
    bank.activate([c])
    assert bank.resident == ["a", "c"]
    bank.activate([b, a])
    assert bank.resident == ["a", "b"] or bank.resident == ["b", "a"]
    assert bank.copies == 4


def test_forgotten_adapter_frees_and_clears_its_slot(dit: DiT, adapters: dict[str, FoldedAdapter]) -> None:
    bank = AdapterBank(dit, 2)
    slot, _ = bank.activate([adapters["a"], adapters["b"]])
    bank.forget("a")
    bank.forget("never here")
    assert bank.resident == ["b"]
    assert not bank.table[slot].any()
    bank.activate([adapters["c"]])
    assert bank.resident == ["b", "c"]


@pytest.mark.parametrize("class_id", [-1, 3, 99])
def test_unknown_class_is_rejected(dit: DiT, adapters: dict[str, FoldedAdapter], class_id: int) -> None:
    with pytest.raises(IndexError, match=f"class {class_id} of 3"):
        AdapterBank(dit, 1).classes(adapters["a"], class_id)


def test_adapter_at_another_scale_has_a_slot_of_its_own(dit: DiT, adapters: dict[str, FoldedAdapter]) -> None:
    bank, adapter = AdapterBank(dit, 3), adapters["a"]
    whole, half, base, again = bank.activate([adapter, adapter.at(0.5), adapter.at(0.0), adapter.at(0.5)])
    assert base == BASE_SLOT
    assert half == again != whole
    torch.testing.assert_close(bank.table[half], (bank.table[base] + adapter.vectors) / 2)
    assert bank.resident == ["a"]
    bank.forget("a")
    assert bank.resident == []
    assert not bank.table[[whole, half]].any()


def test_null_class_lies_between_the_base_and_the_adapter(dit: DiT, adapters: dict[str, FoldedAdapter]) -> None:
    bank, adapter = AdapterBank(dit, 1), adapters["a"]
    base = dit.y_embedder.embedding_table.weight[-1]
    for scale, null in ((0.0, base), (0.5, (base + adapter.classes[-1]) / 2), (1.0, adapter.classes[-1])):
        expected = torch.stack([adapter.classes[1], null])
        torch.testing.assert_close(bank.classes(adapter, 1, null_scale=scale), expected)


@pytest.mark.parametrize("scale", [0.0, 0.25, 1.0, 1.5])
def test_scaled_class_starts_from_the_bases_class_of_the_same_name(
    dit: DiT, adapters: dict[str, FoldedAdapter], scale: float
) -> None:
    bank, adapter, base = AdapterBank(dit, 1), adapters["a"], dit.y_embedder.embedding_table.weight
    for base_class, origin in ((0, base[0]), (None, base[-1])):
        scaled, null = bank.classes(adapter, 1, scale=scale, base_class=base_class)
        torch.testing.assert_close(scaled, origin + scale * (adapter.classes[1] - origin))
        assert torch.equal(null, adapter.classes[-1])


def test_resident_adapters_are_listed_while_another_thread_activates(
    dit: DiT, adapters: dict[str, FoldedAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads take turns after each few bytecodes."""
    bank, adapter = AdapterBank(dit, 60), next(iter(adapters.values()))
    monkeypatch.setattr(bank, "_write", lambda *_: None)
    steps = [[replace(adapter, digest=f"{step}-{place}") for place in range(60)] for step in range(40)]

    def activate() -> None:
        for step in steps:
            bank.activate(step)

    thread = threading.Thread(target=activate)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        while thread.is_alive():
            assert len(bank.resident) <= 60
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert bank.resident == [adapter.digest for adapter in steps[-1]]
