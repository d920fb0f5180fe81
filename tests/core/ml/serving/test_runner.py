"""Runner steps: fixed buffers, graphs replayed by a stand-in, steps in several parts, and steps that fail midway."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.artifact.errors import DeviceLost
from core.ml.errors import DrawingDiverged
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import AdapterBank, FoldedAdapter
from core.ml.model.graphs import CudaGraphs
from core.ml.serving import batches, states
from core.ml.serving.batches import Computation, Place, pack, split
from core.ml.serving.pixels import PixelDecoder
from core.ml.serving.request import Row
from core.ml.serving.runner import Runner, buckets_for
from tests.core.ml.model.small import random_dit
from tests.core.ml.serving.small import StandInGraphs, draw, engine_of, request, tensors

MIX: list[dict[str, Any]] = [
    {"guidance_scale": 1.0},
    {"sampler": "ddpm"},
    {"eta": 0.7, "guidance_scale": 1.0},
    {"sampler": "dpmpp_2m", "guidance_interval": (200, 800)},
    {"guidance_scale": 6.0, "steps": 5},
    {"scale": 2, "sampler": "ddpm"},
]
"""Settings of images that share steps. They take 7 or 8 batch rows of the base's size, and 2 of twice the size."""


@pytest.fixture(scope="module")
def bank() -> AdapterBank:
    return AdapterBank(random_dit(), 8)


@pytest.fixture(scope="module")
def adapters(bank: AdapterBank) -> list[FoldedAdapter | None]:
    return [None, *(bank.fold(f"adapter-{seed}", tensors(seed)) for seed in range(3))]


class Stepping:
    """Batch rows of a mix, on a runner of their own."""

    def __init__(self, runner: Runner, adapters: Sequence[FoldedAdapter | None], mix: Sequence[dict[str, Any]] = MIX):
        self.runner = runner
        self.rows = [Row(request(str(n), seeds=(n,), **settings), 0) for n, settings in enumerate(mix)]
        for index, row in enumerate(self.rows):
            runner.start(row, adapters[index % len(adapters)])

    def step(self) -> list[Row]:
        rows = [row for row in self.rows if not row.finished]
        self.runner.step(rows)
        for row in rows:
            row.position += 1
        self.runner.wait()
        return rows

    def latents(self) -> list[Tensor]:
        """Steps until every row is finished and returns the final latents."""
        while self.step():
            pass
        return self.current()

    def current(self) -> list[Tensor]:
        return [self.runner.latent(row) for row in self.rows] + [self.runner.x0(row) for row in self.rows]


@pytest.fixture
def stepping(
    bank: AdapterBank, adapters: list[FoldedAdapter | None], autoencoder: Autoencoder
) -> Callable[..., Stepping]:
    def stepping(buckets: Sequence[int] = (16,), graphs: StandInGraphs | None = None, **others: Any) -> Stepping:
        return Stepping(Runner(bank, autoencoder, buckets, graphs=graphs), adapters, **others)

    return stepping


def assert_equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> None:
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))
    assert all(tensor.isfinite().all() for tensor in one)


def test_replayed_steps_equal_ordinary_ones(stepping: Callable[..., Stepping]) -> None:
    graphs = StandInGraphs()
    assert_equal(stepping(graphs=graphs).latents(), stepping().latents())
    assert (graphs.captures, graphs.replays) == (2, 2 * 4 - 1), "the first step of each image size is an ordinary one"


@pytest.mark.parametrize("replayed", [False, True])
def test_a_step_in_several_parts_equals_one_in_a_single_batch(
    stepping: Callable[..., Stepping], *, replayed: bool
) -> None:
    """Checks that no part sees another's data, although all parts share the buffers."""
    graphs = StandInGraphs() if replayed else None
    parts = stepping(buckets=(8,), graphs=graphs, mix=MIX * 4)
    assert_equal(parts.latents(), stepping(buckets=(40,), mix=MIX * 4).latents())
    assert graphs is None or graphs.replays > 2 * 5


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_step_that_fails_in_a_later_part_changes_nothing(
    stepping: Callable[..., Stepping], monkeypatch: pytest.MonkeyPatch, failing: int, *, replayed: bool
) -> None:
    """Repeats the failed step, which draws the same noise again. Its last forward is for images of twice the size."""
    graphs = StandInGraphs() if replayed else None
    disturbed = stepping(buckets=(8,), graphs=graphs, mix=MIX * 2)
    for _ in range(2):
        disturbed.step()
    before = disturbed.current()
    forward, calls = batches.folded_forward, []

    def broken(*arguments: Any) -> Tensor:
        calls.append(arguments)
        if len(calls) == failing:
            raise RuntimeError("a text that nobody knows")
        return forward(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batches, "folded_forward", broken)
        with pytest.raises(RuntimeError, match="nobody knows"):
            disturbed.step()
    assert len(calls) == failing
    assert_equal(disturbed.current(), before)
    assert_equal(disturbed.latents(), stepping(buckets=(8,), mix=MIX * 2).latents())


@pytest.mark.parametrize("replayed", [False, True])
def test_tables_that_grow_keep_every_row(
    stepping: Callable[..., Stepping], monkeypatch: pytest.MonkeyPatch, *, replayed: bool
) -> None:
    expected = stepping().latents()
    monkeypatch.setattr(states, "FIRST_SLOTS", 2)
    graphs = StandInGraphs() if replayed else None
    grown = stepping(graphs=graphs)
    for _ in range(2):
        grown.step()
    more = Stepping(grown.runner, [None], [{"guidance_scale": 1.0}] * 20)
    assert_equal(grown.latents(), expected)
    assert all(latent.isfinite().all() for latent in more.latents())
    assert graphs is None or graphs.captures >= 4, "graphs read the tables at their old addresses"


def test_slots_of_rows_that_ended_are_used_again(stepping: Callable[..., Stepping]) -> None:
    first = stepping()
    expected = first.latents()
    for _ in range(states.FIRST_SLOTS):
        for row in first.rows:
            first.runner.end(row)
        first = Stepping(first.runner, [None])
    assert all(len(table.latents) == states.FIRST_SLOTS for table in first.runner._tables.values())
    again = stepping()
    assert_equal(again.latents(), expected)


def test_host_work_of_a_step_does_not_grow_with_its_rows(stepping: Callable[..., Stepping]) -> None:
    """Counts torch operations. Noise that is drawn on the host takes one per image."""

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return function(*args, **(kwargs or {}))

    counts = []
    for images in (2, 8):
        steps = stepping(mix=[{}] * images)
        with Counter() as counter:
            steps.step()
        counts.append(counter.count)
    assert counts[0] == counts[1]


def test_inputs_hold_images_then_partners_then_padding() -> None:
    coefficients = np.arange(24, dtype=np.float32).reshape(3, 8)
    places = [
        Place(slot=9, adapter=3, timestep=999, guidance=None, coefficients=coefficients[0]),
        Place(slot=4, adapter=0, timestep=1, guidance=2.5, coefficients=coefficients[1]),
        Place(slot=7, adapter=5, timestep=40, guidance=4.0, coefficients=coefficients[2]),
    ]
    slots, classes, timesteps, adapters, partners, guidance = pack(places, 8)[:6].tolist()
    assert slots == [9, 4, 7, 4, 7, 9, 9, 9]
    assert classes == [18, 8, 14, 9, 15, 18, 18, 18]
    assert timesteps == [999, 1, 40, 1, 40, 999, 999, 999]
    assert adapters == [3, 0, 5, 0, 5, 3, 3, 3]
    assert partners == [0, 3, 4, 3, 4, 5, 6, 7]
    assert guidance == [1, 2.5, 4, 1, 1, 1, 1, 1]
    assert (coefficients[[0, 1, 2, 1, 2, 0, 0, 0]] == pack(places, 8)[6:].T).all()


@pytest.mark.parametrize("limit", [2, 3, 5, 8, 100])
def test_no_part_separates_an_image_from_its_partner(limit: int) -> None:
    guidances = [None, 2.0, 3.0, None, None, 4.0, 5.0, None, 6.0]
    places = [Place(n, 0, 0, guidance, np.zeros(8, np.float32)) for n, guidance in enumerate(guidances)]
    parts = [places[part] for part in split(places, limit)]
    assert [place for part in parts for place in part] == places
    assert all(sum(place.rows for place in part) <= limit for part in parts)
    assert all(parts)


def test_batches_are_captured_ahead_while_nothing_is_asked(autoencoder: Autoencoder) -> None:
    graphs = StandInGraphs()
    engine = engine_of(autoencoder, graphs=graphs)
    engine.start()
    while engine.runner.has_uncaptured:
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


def test_memory_that_runs_out_in_a_capture_shrinks_the_batch(
    bank: AdapterBank, adapters: list[FoldedAdapter | None], autoencoder: Autoencoder, stepping: Callable[..., Stepping]
) -> None:
    graphs = Failing(torch.OutOfMemoryError("too much"), largest=8)
    scarce = Stepping(Runner(bank, autoencoder, (8, 16), graphs=graphs), adapters, MIX * 2)
    assert_equal(scarce.latents(), stepping(mix=MIX * 2).latents())
    assert scarce.runner.sizes.in_use == (8,)
    assert (scarce.runner.out_of_memory, graphs.resets) == (1, 1)
    assert graphs.captures > 0


def test_memory_that_runs_out_in_a_capture_ahead_shrinks_the_batch(bank: AdapterBank, autoencoder: Autoencoder) -> None:
    runner = Runner(bank, autoencoder, (8, 16), graphs=Failing(torch.OutOfMemoryError("too much"), largest=8))
    runner.capture_next()
    assert (runner.sizes.in_use, runner.has_uncaptured) == ((8,), True)
    runner.capture_next()
    assert not runner.has_uncaptured


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("too much"), torch.AcceleratorError("CUDA error: operation not permitted")]
)
def test_steps_go_on_without_graphs_when_none_can_be_captured(
    stepping: Callable[..., Stepping], bank: AdapterBank, autoencoder: Autoencoder, error: Exception
) -> None:
    runner = Runner(bank, autoencoder, (16,), graphs=Failing(error, largest=0))
    runner.capture_next()
    assert not runner.has_uncaptured
    assert_equal(Stepping(runner, [None]).latents(), Stepping(Runner(bank, autoencoder, (16,)), [None]).latents())


def test_a_step_of_the_smallest_batch_goes_on_when_its_capture_does_not_fit(
    bank: AdapterBank, autoencoder: Autoencoder
) -> None:
    """Without the pauses of a step that does not fit at all: the graph is given up, not the step."""
    runner = Runner(bank, autoencoder, (16,), graphs=Failing(torch.OutOfMemoryError("too much"), largest=0))
    assert_equal(Stepping(runner, [None]).latents(), Stepping(Runner(bank, autoencoder, (16,)), [None]).latents())
    assert runner.out_of_memory == 1


def test_a_capture_that_fails_on_a_device_which_computes_nothing_loses_it(
    stepping: Callable[..., Stepping], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise DeviceLost("no answer")

    steps = stepping(graphs=Failing(RuntimeError("a text that nobody knows"), largest=0))
    monkeypatch.setattr(steps.runner, "check", lost)
    steps.step()
    with pytest.raises(DeviceLost):
        steps.step()


def test_an_error_that_shows_when_the_step_ends_is_the_devices(
    bank: AdapterBank, autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expects any such error to mean a lost device, whatever its text."""

    class Stream:
        def synchronize(self) -> None:
            raise RuntimeError("a text that nobody knows")

    runner = Runner(bank, autoencoder, (8,))
    runner.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    with pytest.raises(DeviceLost, match="nobody knows"):
        runner.wait()


@pytest.mark.parametrize("hidden", [False, True])
def test_memory_that_runs_out_while_a_graph_is_recorded_is_no_lost_device(
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


def test_batches_without_room_for_a_guided_image_are_refused(bank: AdapterBank, autoencoder: Autoencoder) -> None:
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


def test_pixels_in_half_precision_are_nearly_those_in_full(autoencoder: Autoencoder) -> None:
    """Uses bf16, which every CPU has, instead of a GPU's fp16; bf16 is coarser."""
    decoder = PixelDecoder(autoencoder, torch.device("cpu"))
    latents = list(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    expected = decoder.decode(latents)
    decoder.precision = torch.bfloat16
    difference = torch.stack(decoder.decode(latents)).int() - torch.stack(expected).int()
    assert 0 < difference.abs().max() <= 8


def test_pixels_that_half_precision_cannot_hold_are_decoded_in_full(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = PixelDecoder(autoencoder, torch.device("cpu"))
    latents = list(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    expected = decoder.decode(latents)
    decode = autoencoder.decode

    def overflowing(batch: Tensor) -> Tensor:
        return decode(batch) * (torch.inf if torch.is_autocast_enabled("cpu") else 1)

    monkeypatch.setattr(autoencoder, "decode", overflowing)
    decoder.precision = torch.bfloat16
    assert_equal(decoder.decode(latents), expected)
    latents[1] = torch.full_like(latents[1], torch.nan)
    with pytest.raises(DrawingDiverged):
        decoder.decode(latents)


def test_pixels_do_not_depend_on_a_neighbor_that_half_precision_cannot_hold(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = PixelDecoder(autoencoder, torch.device("cpu"))
    latents = list(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    decoder.sizes = (4,)
    full, decode = decoder.decode(latents), autoencoder.decode
    decoder.precision = torch.bfloat16
    reduced = decoder.decode(latents)
    assert not torch.equal(full[2], reduced[2])

    def overflowing(batch: Tensor) -> Tensor:
        pixels = decode(batch)
        if torch.is_autocast_enabled("cpu"):
            pixels[1] = torch.inf
        return pixels

    monkeypatch.setattr(autoencoder, "decode", overflowing)
    assert_equal(decoder.decode(latents), [reduced[0], full[1], reduced[2]])


def test_pixels_are_decoded_in_padded_batches(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes 11 latents of two sizes in batches of at most 4, as on a GPU."""
    decoder, sizes = PixelDecoder(autoencoder, torch.device("cpu")), []
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(4, *[8 + 8 * (n % 2)] * 2, generator=generator) for n in range(11)]
    expected = [decoder.decode([latent])[0] for latent in latents]
    decode = autoencoder.decode
    monkeypatch.setattr(autoencoder, "decode", lambda x: (sizes.append(len(x)), decode(x))[1])
    decoder.sizes = (1, 2, 4)
    for one, other in zip(decoder.decode(latents), expected, strict=True):
        assert (one.int() - other.int()).abs().max() <= 1
    assert sorted(sizes) == [1, 2, 4, 4]
    latents[5] = torch.full_like(latents[5], torch.nan)
    with pytest.raises(DrawingDiverged):
        decoder.decode(latents)
