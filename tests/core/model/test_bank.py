"""The bank: slots on the device, a cache on the host, pins for rows in flight."""

import pytest
import torch
from torch import Tensor

from core.artifact.sites import CLASS_TABLE
from core.model.bank import BASE_SLOT, AdapterBank
from core.model.dit import DiT
from core.model.folding import fold
from tests.core.model.small import random_dit, random_tensors

PLENTY = 2**30


@pytest.fixture(scope="module")
def dit() -> DiT:
    return random_dit()


@pytest.fixture(scope="module")
def adapters(dit: DiT) -> dict[str, dict[str, Tensor]]:
    return {name: random_tensors(dit, "paper", seed=seed) for seed, name in enumerate("abcd")}


def bank_of(dit: DiT, adapters: dict[str, dict[str, Tensor]], slots: int, host_bytes: int = PLENTY) -> AdapterBank:
    bank = AdapterBank(dit, slots, host_bytes)
    for digest, tensors in adapters.items():
        bank.add(digest, tensors)
    return bank


def test_slot_zero_is_the_base(dit: DiT) -> None:
    bank = AdapterBank(dit, 1, PLENTY)
    assert bank.pin(None) == BASE_SLOT
    torch.testing.assert_close(bank.table[BASE_SLOT], fold(dit, {}))
    expected = dit.y_embedder.embedding_table.weight[[2, dit.config.null_class]]
    assert torch.equal(bank.classes(None, 2), expected)


def test_a_pinned_slot_holds_its_adapters_vectors(dit: DiT, adapters: dict[str, dict[str, Tensor]]) -> None:
    bank = bank_of(dit, adapters, slots=4)
    slots = {digest: bank.pin(digest) for digest in adapters}
    assert sorted(slots.values(), key=str) == [1, 2, 3, 4]
    for digest, slot in slots.items():
        torch.testing.assert_close(bank.table[slot], fold(dit, adapters[digest]))
        assert torch.equal(bank.classes(digest, 1), adapters[digest][CLASS_TABLE][[1, 3]])


def test_the_least_recently_used_slot_goes_first_and_a_pinned_one_never(
    dit: DiT, adapters: dict[str, dict[str, Tensor]]
) -> None:
    bank = bank_of(dit, adapters, slots=2)
    bank.pin("a")
    bank.pin("b")
    assert bank.pin("c") is None, "both are in flight"
    bank.unpin("b")
    taken = bank.pin("c")
    assert taken is not None
    assert bank.resident == ["a", "c"]
    torch.testing.assert_close(bank.table[taken], fold(dit, adapters["c"]))
    bank.unpin("a")
    bank.unpin("c")
    bank.pin("a")
    bank.unpin("a")
    bank.pin("b")
    assert bank.resident == ["a", "b"], "c was used longest ago"


def test_a_slot_is_free_when_its_last_row_has_left(dit: DiT, adapters: dict[str, dict[str, Tensor]]) -> None:
    bank = bank_of(dit, adapters, slots=1)
    assert bank.pin("a") == bank.pin("a") == 1
    bank.unpin("a")
    assert bank.pin("b") is None
    bank.unpin("a")
    assert bank.pin("b") == 1


def test_the_host_cache_drops_the_longest_unused(dit: DiT, adapters: dict[str, dict[str, Tensor]]) -> None:
    size = bank_of(dit, {"a": adapters["a"]}, slots=1)._host["a"].size
    bank = bank_of(dit, {name: adapters[name] for name in "ab"}, slots=2, host_bytes=2 * size)
    bank.pin("a")
    bank.unpin("a")
    bank.add("c", adapters["c"])
    assert [digest for digest in "abc" if digest in bank] == ["a", "c"]
    with pytest.raises(KeyError):
        bank.pin("b")


def test_an_adapter_in_flight_stays_in_the_cache(dit: DiT, adapters: dict[str, dict[str, Tensor]]) -> None:
    bank = bank_of(dit, {"a": adapters["a"]}, slots=2, host_bytes=1)
    bank.pin("a")
    bank.add("b", adapters["b"])
    assert "a" in bank
    bank.unpin("a")
    bank.add("c", adapters["c"])
    assert "a" not in bank


def test_what_is_forgotten_frees_its_slot(dit: DiT, adapters: dict[str, dict[str, Tensor]]) -> None:
    bank = bank_of(dit, adapters, slots=1)
    bank.pin("a")
    bank.forget("a")
    assert "a" in bank, "a row in flight uses it"
    bank.unpin("a")
    bank.forget("a")
    assert "a" not in bank
    assert bank.pin("b") == 1


@pytest.mark.parametrize("class_id", [-1, 3, 99])
def test_a_class_that_is_not_there_is_refused(dit: DiT, adapters: dict[str, dict[str, Tensor]], class_id: int) -> None:
    with pytest.raises(IndexError, match=f"class {class_id} of 3"):
        bank_of(dit, {"a": adapters["a"]}, slots=1).classes("a", class_id)
