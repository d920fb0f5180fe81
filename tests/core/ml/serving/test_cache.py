"""The host's adapter cache: concurrent requests share one load, the least recently used adapter is evicted first, and
broken adapters are not loaded again for a while."""

import gc
import threading
import weakref
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from core.artifact.errors import ArtifactInvalid, ChecksumMismatch, NotFound
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.serving.cache import AdapterCache
from core.service.storage.errors import StorageUnavailable
from tests.core.ml.model.small import random_dit, random_tensors


@pytest.fixture(scope="module")
def bank() -> AdapterBank:
    return AdapterBank(random_dit(), 1)


@pytest.fixture
def cache(bank: AdapterBank) -> Iterator[AdapterCache]:
    cache = AdapterCache(bank, host_bytes=2**30)
    yield cache
    cache.close()


def tensors(seed: int = 0) -> dict[str, Tensor]:
    return random_tensors(random_dit(), "paper", seed=seed)


def _raise(error: Exception) -> dict[str, Tensor]:
    raise error


def never() -> dict[str, Tensor]:
    raise AssertionError("it is already loaded")


def test_concurrent_requests_share_one_load(cache: AdapterCache) -> None:
    started, go = threading.Event(), threading.Event()

    def load() -> dict[str, Tensor]:
        started.set()
        go.wait()
        return tensors()

    first = cache.get("a", load)
    started.wait()
    second = cache.get("a", load)
    assert not second.done()
    go.set()
    assert first.result() is second.result() is cache.get("a", never).result()
    assert (cache.hits, cache.misses) == (1, 1)


def test_least_recently_used_adapters_are_evicted(bank: AdapterBank) -> None:
    size = bank.host_bytes(bank.fold("a", tensors()))
    cache = AdapterCache(bank, host_bytes=2 * size)
    for name in "ab":
        cache.get(name, tensors).result()
    cache.get("a", never).result()
    cache.get("c", tensors).result()
    assert cache.resident == ["a", "c"]
    assert cache.bytes == 2 * size
    cache.forget("a")
    cache.forget("never here")
    assert (cache.resident, cache.bytes) == (["c"], size)
    cache.close()


def test_adapter_larger_than_the_cache_stays_until_the_next_one(bank: AdapterBank) -> None:
    cache = AdapterCache(bank, host_bytes=1)
    assert cache.get("a", tensors).result().digest == "a"
    assert cache.get("b", tensors).result().digest == "b"
    assert cache.resident == ["b"]
    cache.close()


def test_broken_adapter_is_not_loaded_again_for_a_while(bank: AdapterBank) -> None:
    loads: list[str] = []

    def broken() -> dict[str, Tensor]:
        loads.append("broken")
        raise ArtifactInvalid("no.")

    cache = AdapterCache(bank, host_bytes=2**30)
    assert isinstance(cache.get("a", broken).exception(), ArtifactInvalid)
    assert isinstance(cache.get("a", broken).exception(), ArtifactInvalid)
    assert len(loads) == 1
    cache.close()


def test_broken_adapter_is_loaded_again_after_a_while(bank: AdapterBank) -> None:
    results = [ArtifactInvalid("no."), tensors()]

    def repaired() -> dict[str, Tensor]:
        match results.pop(0):
            case ArtifactInvalid() as error:
                raise error
            case tensors:
                return tensors

    cache = AdapterCache(bank, host_bytes=2**30, quarantine_seconds=-1.0)
    assert isinstance(cache.get("a", repaired).exception(), ArtifactInvalid)
    assert cache.get("a", repaired).result().digest == "a"
    cache.close()


def test_remembered_error_keeps_nothing_of_the_broken_file(cache: AdapterCache) -> None:
    """With and without a cause, whose frames hold the file too."""
    kept: list[weakref.ref[Tensor]] = []

    def broken(cause: type[Exception] | None) -> dict[str, Tensor]:
        file = torch.zeros(1000)
        kept.append(weakref.ref(file))
        try:
            if cause is not None:
                raise cause("damaged")
        except ValueError as error:
            raise ArtifactInvalid("not finite") from error
        raise ArtifactInvalid("too few tensors")

    loads = [partial(broken, cause) for cause in (None, ValueError)]
    details = [str(cache.get(str(place), load).exception()) for place, load in enumerate(loads)]
    while any(reference() is not None for reference in kept):  # the test run has a limit
        gc.collect()
    assert [str(cache.get(str(place), load).exception()) for place, load in enumerate(loads)] == details
    assert len(kept) == 2, "both must be remembered"


def test_expired_errors_are_dropped_with_the_next_request(bank: AdapterBank) -> None:
    cache = AdapterCache(bank, host_bytes=2**30, quarantine_seconds=-1.0)
    broken = partial(_raise, ArtifactInvalid("no."))
    assert isinstance(cache.get("a", broken).exception(), ArtifactInvalid)
    assert cache.is_broken(broken)
    assert cache.get("b", tensors).result().digest == "b"
    assert not cache.is_broken(broken)
    cache.close()


@pytest.mark.parametrize("error", [ChecksumMismatch(), NotFound("adapter", "a"), StorageUnavailable("away")])
def test_file_of_one_owner_does_not_fail_equal_files_of_others(cache: AdapterCache, error: Exception) -> None:
    """The second file is loaded during the first load, and the third one after it has failed."""
    go = threading.Event()

    def broken() -> dict[str, Tensor]:
        go.wait()
        raise error

    first = cache.get("a", broken)
    assert cache.get("a", tensors).result().digest == "a"
    cache.forget("a")
    go.set()
    assert first.exception() is error
    assert cache.get("a", lambda: tensors()).result().digest == "a"


def test_pinned_memory_is_counted_as_allocated(bank: AdapterBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch rounds each pinned allocation up to a power of two. Replaces the device, because this machine has no
    GPU."""
    guided = FoldedAdapter("a", torch.zeros(256), torch.zeros(8, 8))
    adapter = FoldedAdapter("a", torch.zeros(1025), torch.zeros(7, 3), guided=guided)
    assert bank.host_bytes(adapter) == 4100 + 84 + 1024 + 256
    monkeypatch.setattr(bank, "device", torch.device("cuda"))
    assert bank.host_bytes(adapter) == 8192 + 128 + 1024 + 256


def test_equal_files_that_load_at_once_take_the_memory_of_one(cache: AdapterCache) -> None:
    go = threading.Barrier(2)

    def load(_owner: int) -> dict[str, Tensor]:
        go.wait()
        return tensors()

    loading = [cache.get("a", partial(load, owner)) for owner in range(2)]
    first, second = (future.result() for future in loading)
    assert first is second is cache.get("a", never).result()
    assert (cache.resident, cache.bytes) == (["a"], cache.bank.host_bytes(first))


def test_load_from_an_unavailable_store_is_repeated(cache: AdapterCache) -> None:
    def away() -> dict[str, Tensor]:
        raise StorageUnavailable("away")

    assert isinstance(cache.get("a", away).exception(), StorageUnavailable)
    assert cache.get("a", tensors).result().digest == "a"
