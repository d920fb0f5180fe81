"""Forward passes: inputs of a batch, sizes, graphs captured by a stand-in, and memory that runs out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from core.artifact.errors import DeviceLost
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.model.graphs import CudaGraphs
from core.ml.serving import forwards
from core.ml.serving.batches import Computation, Place, pack, split
from core.ml.serving.forwards import buckets_for
from core.ml.serving.runner import Runner
from tests.core.ml.serving.small import MIX, StandInGraphs, Stepping, assert_equal, draw, engine_of, request


def test_inputs_hold_images_then_partners_then_padding() -> None:
    coefficients = np.arange(24, dtype=np.float32).reshape(3, 8)
    places = [
        Place(slot=9, adapter=3, guide=3, timestep=999, guidance=None, coefficients=coefficients[0]),
        Place(slot=4, adapter=0, guide=0, timestep=1, guidance=2.5, coefficients=coefficients[1]),
        Place(slot=7, adapter=5, guide=2, timestep=40, guidance=4.0, coefficients=coefficients[2]),
    ]
    slots, classes, timesteps, adapters, partners, guidance = pack(places, 8)[:6].tolist()
    assert slots == [9, 4, 7, 4, 7, 9, 9, 9]
    assert classes == [18, 8, 14, 9, 15, 18, 18, 18]
    assert timesteps == [999, 1, 40, 1, 40, 999, 999, 999]
    assert adapters == [3, 0, 5, 0, 2, 3, 3, 3]
    assert partners == [0, 3, 4, 3, 4, 5, 6, 7]
    assert guidance == [1, 2.5, 4, 1, 1, 1, 1, 1]
    assert (coefficients[[0, 1, 2, 1, 2, 0, 0, 0]] == pack(places, 8)[6:].T).all()


@pytest.mark.parametrize("limit", [2, 3, 5, 8, 100])
def test_no_part_separates_an_image_from_its_partner(limit: int) -> None:
    guidances = [None, 2.0, 3.0, None, None, 4.0, 5.0, None, 6.0]
    places = [Place(n, 0, 0, 0, guidance, np.zeros(8, np.float32)) for n, guidance in enumerate(guidances)]
    parts = [places[part] for part in split(places, limit)]
    assert [place for part in parts for place in part] == places
    assert all(sum(place.rows for place in part) <= limit for part in parts)
    assert all(parts)


def test_batches_are_captured_ahead_while_the_engine_is_idle(autoencoder: Autoencoder) -> None:
    graphs = StandInGraphs()
    engine = engine_of(autoencoder, graphs=graphs)
    engine.start()
    while engine.runner.forwards.uncaptured:
        engine.check(60)
    assert graphs.sizes == [16, 8]
    draw(engine, request("one")).result(60)
    engine.stop()
    assert (graphs.captures, graphs.replays) == (2, 2 + 4)


class Failing(StandInGraphs):
    """Graphs that fail to capture more than 8 batch rows, or anything at all."""

    def __init__(self, error: Exception, largest: int) -> None:
        super().__init__()
        self.error, self.largest = error, largest

    def capture(self, compute: Computation) -> Computation:
        if len(compute().latents) > self.largest:
            raise self.error
        return super().capture(compute)


def test_out_of_memory_in_a_capture_shrinks_the_batch(
    bank: AdapterBank, adapters: list[FoldedAdapter | None], autoencoder: Autoencoder, stepping: Callable[..., Stepping]
) -> None:
    graphs = Failing(torch.OutOfMemoryError("too much"), largest=8)
    scarce = Stepping(Runner(bank, autoencoder, (8, 16), graphs=graphs), adapters, MIX * 2)
    assert_equal(scarce.latents(), stepping(mix=MIX * 2).latents())
    assert scarce.runner.forwards.sizes.in_use == (8,)
    assert (scarce.runner.forwards.out_of_memory, graphs.resets) == (1, 1)
    assert graphs.captures > 0


def test_out_of_memory_in_a_capture_ahead_shrinks_the_batch(bank: AdapterBank, autoencoder: Autoencoder) -> None:
    runner = Runner(bank, autoencoder, (8, 16), graphs=Failing(torch.OutOfMemoryError("too much"), largest=8))
    runner.forwards.capture_next()
    assert (runner.forwards.sizes.in_use, runner.forwards.uncaptured) == ((8,), [8])
    runner.forwards.capture_next()
    assert not runner.forwards.uncaptured


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("too much"), torch.AcceleratorError("CUDA error: operation not permitted")]
)
def test_steps_continue_without_graphs_if_none_can_be_captured(
    stepping: Callable[..., Stepping], bank: AdapterBank, autoencoder: Autoencoder, error: Exception
) -> None:
    runner = Runner(bank, autoencoder, (16,), graphs=Failing(error, largest=0))
    runner.forwards.capture_next()
    assert not runner.forwards.uncaptured
    assert_equal(Stepping(runner, [None]).latents(), Stepping(Runner(bank, autoencoder, (16,)), [None]).latents())


def test_step_of_the_smallest_batch_continues_if_its_capture_does_not_fit(
    bank: AdapterBank, autoencoder: Autoencoder
) -> None:
    """The step is not repeated with pauses, as if it did not fit at all; only its graph is given up."""
    runner = Runner(bank, autoencoder, (16,), graphs=Failing(torch.OutOfMemoryError("too much"), largest=0))
    assert_equal(Stepping(runner, [None]).latents(), Stepping(Runner(bank, autoencoder, (16,)), [None]).latents())
    assert runner.forwards.out_of_memory == 1


def test_capture_that_fails_on_a_dead_device_means_a_lost_device(
    stepping: Callable[..., Stepping], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: torch.device) -> None:
        raise DeviceLost("no answer")

    steps = stepping(graphs=Failing(RuntimeError("a text that nobody knows"), largest=0))
    monkeypatch.setattr(forwards, "check_device", lost)
    steps.step()
    with pytest.raises(DeviceLost):
        steps.step()


@pytest.mark.parametrize("hidden", [False, True])
def test_out_of_memory_while_a_graph_is_recorded_is_no_lost_device(
    monkeypatch: pytest.MonkeyPatch, *, hidden: bool
) -> None:
    """Simulates an error at the end of the recording that looks like a lost device's."""

    class Recording:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            if hidden:
                raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")

    def compute() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("graph", "CUDAGraph", "Stream", "stream", "current_stream", "graph_pool_handle"):
        monkeypatch.setattr(torch.cuda, name, Recording)
    with pytest.raises(torch.OutOfMemoryError):
        CudaGraphs(torch.device("cuda")).capture(compute)


def test_batches_too_small_for_a_guided_image_are_rejected(bank: AdapterBank, autoencoder: Autoencoder) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Runner(bank, autoencoder, (1, 8))


def test_batch_sizes_follow_the_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert buckets_for(cpu, 20) == (8, 16, 24)
    assert buckets_for(gpu, 20) == (2, 4, 8, 16, 20)
    assert buckets_for(gpu, 128) == (2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
    assert buckets_for(gpu, 300) == (*buckets_for(gpu, 128), 192, 256, 300)
    assert buckets_for(gpu, 2) == (2,)
    assert (buckets_for(cpu, 20, exact=True), buckets_for(gpu, 20, exact=True)) == ((24,), (20,))


def test_steps_in_fp8_are_near_those_without(
    bank: AdapterBank, adapters: list[FoldedAdapter | None], autoencoder: Autoencoder
) -> None:
    small = AdapterBank(bank.dit, 8, fp8=True)
    first, second = (Stepping(Runner(some, autoencoder, (16,)), adapters) for some in (bank, small))
    first.step()
    second.step()
    for latent, expected in zip(second.current(), first.current(), strict=True):
        assert 0 < float((latent - expected).norm() / expected.norm()) < 0.2
