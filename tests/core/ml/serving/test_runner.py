"""Runner steps: rows of several sizes and parts, tables that grow, and steps that fail midway."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.artifact.errors import DeviceLost
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.bank import AdapterBank
from core.ml.serving import batches, states
from core.ml.serving.runner import Runner
from tests.core.ml.serving.small import MIX, StandInGraphs, Stepping, assert_equal


def test_replayed_steps_equal_ordinary_ones(stepping: Callable[..., Stepping]) -> None:
    graphs = StandInGraphs()
    assert_equal(stepping(graphs=graphs).latents(), stepping().latents())
    assert (graphs.captures, graphs.replays) == (2, 2 * 4 - 1), "the first step of each image size must not be replayed"


@pytest.mark.parametrize("replayed", [False, True])
def test_step_in_several_parts_equals_one_in_a_single_batch(
    stepping: Callable[..., Stepping], *, replayed: bool
) -> None:
    """Checks that no part sees another's data, although all parts share the buffers."""
    graphs = StandInGraphs() if replayed else None
    parts = stepping(buckets=(8,), graphs=graphs, mix=MIX * 4)
    assert_equal(parts.latents(), stepping(buckets=(40,), mix=MIX * 4).latents())
    assert graphs is None or graphs.replays > 2 * 5


@pytest.mark.parametrize("replayed", [False, True])
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_step_that_fails_in_a_later_part_changes_nothing(
    stepping: Callable[..., Stepping], monkeypatch: pytest.MonkeyPatch, failing: int, *, replayed: bool
) -> None:
    """Repeats the failed step, which takes the same noise again. Its last forward is for images of twice the size."""
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
def test_growing_tables_keep_every_row(
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
    assert graphs is None or graphs.captures >= 4, "graphs of the old addresses must be captured again"


def test_slots_of_ended_batch_rows_are_reused(stepping: Callable[..., Stepping]) -> None:
    first = stepping()
    expected = first.latents()
    for _ in range(states.FIRST_SLOTS):
        for row in first.rows:
            first.runner.end(row)
        first = Stepping(first.runner, [None])
    assert all(len(table.latents) == states.FIRST_SLOTS for table in map(first.runner.table, (1, 2)))
    again = stepping()
    assert_equal(again.latents(), expected)


def test_host_work_of_a_step_does_not_grow_with_its_batch_rows(stepping: Callable[..., Stepping]) -> None:
    """Counts torch operations. Noise made on the host takes one per image."""

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


def test_error_at_the_end_of_a_step_means_a_lost_device(
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


def test_step_that_runs_ahead_waits_for_the_step_before(
    bank: AdapterBank, autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Event:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            log.append(f"step {self.number}")

    class Stream:
        events = 0

        def record_event(self) -> Event:
            self.events += 1
            return Event(self.events)

        def synchronize(self) -> None:
            log.append("all")

    stream, runner = Stream(), Runner(bank, autoencoder, (8,))
    runner.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    for _ in range(3):
        runner.wait(ahead=True)
    assert log == ["step 1", "step 2"]
    runner.wait()
    runner.wait(ahead=True)
    assert log == ["step 1", "step 2", "all"], "a step must not wait again for what has ended"
