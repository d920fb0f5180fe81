"""Steps as captured graphs, with a stand-in for the device: a traced graph, which replays only tensor operations."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from core.ml import slices
from core.ml.serving.trainings import Training, Trainings
from core.ml.tuning import passes
from core.ml.tuning.capture import EAGER_CALLS, Replayed
from core.ml.tuning.trainer import Trainer
from tests.core.ml.model.small import random_dit
from tests.core.ml.tuning.test_joint import sharing, steps_of
from tests.core.ml.tuning.test_trainer import assert_equal_states, trainer_of


class TracedGraphs:
    """Stand-in for CUDA graphs: a replay repeats the traced operations on the same tensors and runs no Python. As on a
    GPU, reading a number back to the host cannot be captured."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def capture(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        graph = make_fx(lambda _: compute())(torch.zeros(()))
        fixed = pytree.tree_map(lambda tensor: torch.full_like(tensor, torch.nan), compute())
        self.captures += 1

        def replay() -> Any:
            self.replays += 1
            with torch.no_grad():
                pytree.tree_map(lambda target, tensor: target.copy_(tensor), fixed, graph(torch.zeros(())))
            return fixed

        return replay


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> TracedGraphs:
    graphs = TracedGraphs()
    monkeypatch.setattr(passes, "capture_for", lambda _: graphs.capture)
    return graphs


@pytest.mark.parametrize("name", ["paper", "every site", "bitfit", "full"])
def test_graphed_steps_equal_eager_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dit, graphs = random_dit(), TracedGraphs()
    settings: dict[str, Any] = {"steps": 9, "batch_size": 4, "minimum_snr_gamma": 5.0, "gradient_clip": 0.01}
    eager = trainer_of(dit, name, **settings)
    reports = [eager.step() for _ in range(9)]
    monkeypatch.setattr(passes, "capture_for", lambda _: graphs.capture)
    graphed = trainer_of(dit, name, **settings)
    assert [graphed.step() for _ in range(9)] == reports
    assert_equal_states(graphed.state(), eager.state())
    assert (graphs.captures, graphs.replays) == (1, 9 - EAGER_CALLS)


def test_micro_batches_of_two_sizes_have_one_graph_each(graphs: TracedGraphs) -> None:
    trainer = trainer_of(random_dit(), steps=8, batch_size=5, micro_batch_size=2)
    slices.run(steps_of(trainer))
    assert graphs.captures == 2
    assert graphs.replays == 8 * 3 - 2 * EAGER_CALLS


def test_shared_steps_use_one_graph_in_any_order(graphs: TracedGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotates the queue of fine-tunes, which must not change the graph."""
    dit = random_dit()
    settings = [{"seed": 1, "batch_size": 8}, {"seed": 2, "batch_size": 10}, {"seed": 3, "batch_size": 12}]
    together = [sharing(dit, steps=12, **options) for options in settings]
    trainings = Trainings(share=1.0)
    for trainer in together:
        trainings.add(Training(steps_of(trainer), lambda _: None))
    while trainings.is_ready:
        trainings.step()
        if all(training.joint is not None for training in trainings._queue):
            trainings._queue.rotate(1)
    assert graphs.captures == 1
    with monkeypatch.context() as patch:
        patch.setattr(passes, "capture_for", lambda _: None)
        alone = [sharing(dit, steps=12, **options) for options in settings]
        for trainer in alone:
            slices.run(steps_of(trainer))
    for shared, single in zip(together, alone, strict=True):
        assert_equal_states(shared.state(), single.state())


def test_out_of_memory_during_capture_does_not_shrink_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[object] = []

    def capture(compute: Callable[[], Any]) -> Callable[[], Any]:
        attempts.append(compute)
        raise torch.OutOfMemoryError("CUDA out of memory")

    dit, settings = random_dit(), {"steps": 10, "batch_size": 4}
    eager = trainer_of(dit, **settings)
    slices.run(steps_of(eager))
    monkeypatch.setattr(passes, "capture_for", lambda _: capture)
    trainer = trainer_of(dit, **settings)
    slices.run(steps_of(trainer))
    assert len(attempts) == 1
    assert trainer.sizes.in_use[-1] == 4
    assert_equal_states(trainer.state(), eager.state())


def test_uncapturable_step_runs_eagerly(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def capture(_: object) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    dit = random_dit()
    expected = [trainer_of(dit).step() for _ in range(1)]
    monkeypatch.setattr(passes, "capture_for", lambda _: capture)
    trainer = trainer_of(dit)
    assert [trainer.step()] == expected
    slices.run(steps_of(trainer))
    assert trainer.done
    assert caplog.text.count("not captured") == 1


def test_graphs_are_freed_with_their_trainer() -> None:
    trainer: Trainer = trainer_of(random_dit())
    trainer.step()
    cached = weakref.ref(next(iter(trainer._passes._passes.values())))
    del trainer
    gc.collect()
    assert cached() is None


def test_first_eager_calls_return_results_too() -> None:
    calls: list[int] = []
    replayed = Replayed(lambda: calls.append(1) or len(calls), None)  # type: ignore[func-returns-value]
    assert [replayed() for _ in range(5)] == [1, 2, 3, 4, 5]
