"""Fine-tunes that share forward passes: each ends as it would alone, and a failure of one does not affect the
others."""

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from core.artifact.errors import Cancelled, DeviceLost, EngineStopped
from core.artifact.sites import PRESETS
from core.ml import slices
from core.ml.errors import TrainingDiverged
from core.ml.model.checkpoint import LoadedBase
from core.ml.model.dit import DiT
from core.ml.serving.trainings import Training, Trainings
from core.ml.tuning import passes
from core.ml.tuning.finetune import finetune
from core.ml.tuning.plan import Checkpoint, Evaluation, FinetunePlan, Outcome, Progress, Sample
from core.ml.tuning.trainer import StepReport, Trainer
from tests.core.ml.model.small import CONFIG, random_dit
from tests.core.ml.tuning.test_finetune import PLAN, base, images, run
from tests.core.ml.tuning.test_trainer import Recorder, assert_equal_states, trainer_of

__all__ = ["base"]  # a fixture

DIFFERENT: list[dict[str, Any]] = [
    {"name": "paper", "seed": 1, "batch_size": 8, "learning_rate": 1e-2, "steps": 6},
    {"name": "bitfit", "seed": 2, "batch_size": 12, "gradient_clip": 0.01, "steps": 4},
    {"name": "every site", "seed": 3, "batch_size": 16, "minimum_snr_gamma": 5.0, "steps": 7},
    {"name": "literal", "seed": 4, "batch_size": 10, "warmup_steps": 3, "steps": 5},
]
"""Fine-tunes with different methods, seeds, rates, batch sizes and step counts. An even batch of the small hidden size
is a multiple of 32 numbers."""


@pytest.fixture
def dit() -> DiT:
    return random_dit()


def sharing(dit: DiT, **settings: Any) -> Trainer:
    trainer = trainer_of(dit, settings.pop("name", "paper"), **settings)
    trainer.max_rows = 1000
    return trainer


def steps_of(trainer: Trainer, reports: list[StepReport] | None = None) -> Generator[Any, None, None]:
    while not trainer.done:
        report = yield from trainer.parts()
        if reports is not None:
            reports.append(report)


def run_all(work: list[Any], on_step: Callable[[list[Training]], None] = lambda _: None) -> list[Training]:
    """Runs all fine-tunes side by side until they end."""
    trainings, gathered = Trainings(share=1.0), [Training(steps, lambda _: None) for steps in work]
    for training in gathered:
        trainings.add(training)
    while trainings.is_ready:
        on_step(gathered)
        trainings.step()
    return gathered


def test_shared_finetunes_end_bit_identical_to_single_ones(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, together = ([sharing(dit, **settings) for settings in DIFFERENT] for _ in range(2))
    expected, actual = ([list[StepReport]() for _ in DIFFERENT] for _ in range(2))
    for trainer, reports in zip(alone, expected, strict=True):
        slices.run(steps_of(trainer, reports))
    rows = Recorder(monkeypatch).labels
    run_all([steps_of(trainer, reports) for trainer, reports in zip(together, actual, strict=True)])
    assert [len(labels) for labels in rows] == [46, 46, 46, 46, 8 + 16 + 10, 8 + 16, 16]
    assert actual == expected
    for shared, single in zip(together, alone, strict=True):
        assert_equal_states(shared.state(), single.state())
        assert_equal_states(shared.averaged, single.averaged)


def test_shared_finetunes_with_small_batches_end_as_single_ones_within_rounding(dit: DiT) -> None:
    alone, together = ([sharing(dit, batch_size=2, seed=seed) for seed in range(5)] for _ in range(2))
    for trainer in alone:
        slices.run(steps_of(trainer))
    run_all([steps_of(trainer) for trainer in together])
    for shared, single in zip(together, alone, strict=True):
        torch.testing.assert_close(shared.state()["first_moment"], single.state()["first_moment"], rtol=1e-3, atol=1e-6)


SIZES = [{"batch_size": 1}, {"batch_size": 17, "micro_batch_size": 16}, {"batch_size": 17}, {"batch_size": 3}]


@pytest.mark.parametrize("order", [SIZES, SIZES[::-1]])
def test_neighbours_never_change_an_adapter_on_a_cpu(
    order: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With micro-batches of a single row too, which passes alone. The hidden size is a multiple of 32, as that of all
    DiTs is."""
    dit = random_dit(replace(CONFIG, hidden_size=64))
    alone, together = ([sharing(dit, steps=3, seed=2, **settings) for settings in order] for _ in range(2))
    for trainer in alone:
        slices.run(steps_of(trainer))
    rows = Recorder(monkeypatch).labels
    run_all([steps_of(trainer) for trainer in together])
    for shared, single in zip(together, alone, strict=True):
        assert_equal_states(shared.state(), single.state())
    assert max(map(len, rows)) == 16 + 17 + 3


def test_micro_batches_of_several_finetunes_share_passes(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [{"batch_size": 6, "micro_batch_size": 2}, {"batch_size": 3}]
    alone, together = ([sharing(dit, steps=4, **options) for options in settings] for _ in range(2))
    for trainer in alone:
        slices.run(steps_of(trainer))
    rows = Recorder(monkeypatch).labels
    run_all([steps_of(trainer) for trainer in together])
    assert [len(labels) for labels in rows] == [2 + 3, 2 + 3, 2 + 3, 2 + 3, 2, 2, 2, 2, 2, 2, 2, 2]
    for shared, single in zip(together, alone, strict=True):
        torch.testing.assert_close(shared.state()["first_moment"], single.state()["first_moment"], rtol=1e-3, atol=1e-6)


def test_shared_pass_has_at_most_the_smallest_row_limit(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    together = [sharing(dit, steps=2, batch_size=4) for _ in range(5)]
    together[3].max_rows = 8
    rows = Recorder(monkeypatch).labels
    run_all([steps_of(trainer) for trainer in together])
    assert sum(map(len, rows)) == 5 * 2 * 4
    assert [len(labels) for labels in rows] == [16, 8, 12, 4], "when it is its turn, the fourth shares with one other"


@pytest.mark.parametrize("other", ["full", "another size", "another base"])
def test_finetunes_that_cannot_share_take_turns(dit: DiT, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    pair = [sharing(dit, steps=3, batch_size=4), sharing(dit, steps=3, batch_size=4)]
    if other == "full":
        stranger = sharing(dit, name="full", steps=3, batch_size=4)
    elif other == "another base":
        stranger = sharing(random_dit(seed=1), steps=3, batch_size=4)
    else:
        stranger = sharing(dit, steps=3, batch_size=4)
    if other == "another size":
        latents = stranger.batches.latents
        stranger.batches.latents = replace(
            latents, mean=latents.mean.repeat(1, 1, 1, 2, 2), deviation=latents.deviation.repeat(1, 1, 1, 2, 2)
        )
    rows = Recorder(monkeypatch).labels
    run_all([steps_of(trainer) for trainer in (pair[0], stranger, pair[1])])
    assert [len(labels) for labels in rows] == [8, 4, 8, 4, 8, 4]


def plans(count: int, **settings: Any) -> list[FinetunePlan]:
    return [
        replace(
            PLAN,
            sites=PRESETS[("paper", "literal")[seed % 2]],
            training=replace(PLAN.training, seed=seed, batch_size=8 + 2 * seed, steps=5 + seed, **settings),
        )
        for seed in range(count)
    ]


@pytest.mark.parametrize("settings", [{}, {"evaluate_every": 2, "keep": "best"}], ids=["plain", "evaluated"])
def test_shared_finetunes_emit_the_same_events_and_adapters_as_single_ones(
    base: LoadedBase, settings: dict[str, Any]
) -> None:
    """Compares events, samples, held-out losses and adapters."""
    alone = [run(base, plan) for plan in plans(3, **settings)]
    events = [list[Any]() for _ in alone]
    trainings = Trainings(share=1.0)
    gathered = []
    for plan, into in zip(plans(3, **settings), events, strict=True):
        gathered.append(Training(finetune(base, plan, images()), into.append))
        trainings.add(gathered[-1])
    while trainings.is_ready:
        trainings.step()
    for training, received, (expected, outcome) in zip(gathered, events, alone, strict=True):
        result: Outcome = training.future.result(0)
        assert result.losses == outcome.losses
        assert_equal_states(result.tensors, outcome.tensors)
        assert [type(event) for event in received] == [type(event) for event in expected]
        for event, single in zip(received, expected, strict=True):
            if isinstance(event, Progress):
                assert replace(event, seconds=0) == replace(single, seconds=0)
                assert event.seconds > 0
            if isinstance(event, Evaluation):
                assert event == single
            if isinstance(event, Checkpoint):
                assert_equal_states(load(event.data), load(single.data))
            if isinstance(event, Sample):
                assert event.image.tobytes() == single.image.tobytes()


def test_checkpoint_of_a_shared_run_can_be_resumed_alone(base: LoadedBase) -> None:
    (_, first), (_, second) = (run(base, plan) for plan in plans(2))
    checkpoints: list[Checkpoint] = []
    trainings = Trainings(share=1.0)
    for plan in plans(2):
        keep = checkpoints.append if plan.training.seed else lambda _: None
        trainings.add(Training(finetune(base, plan, images()), lambda event, keep=keep: keep(event)))  # type: ignore[misc]
    while trainings.is_ready:
        trainings.step()
    taken = [event for event in checkpoints if isinstance(event, Checkpoint)]
    _, resumed = run(base, plans(2)[1], taken[1].data)
    assert_equal_states(resumed.tensors, second.tensors)
    assert resumed.tensors.keys() != first.tensors.keys()


def test_diverging_finetune_fails_alone(dit: DiT) -> None:
    settings = [{"batch_size": 8, "seed": seed, "steps": 5} for seed in range(3)]
    alone, together = ([sharing(dit, **options) for options in settings] for _ in range(2))
    for trainer in alone:
        slices.run(steps_of(trainer))

    def poison(_: list[Training]) -> None:
        if together[1].steps_done == 2:
            together[1].parameters.data[7] = math.inf

    gathered = run_all([steps_of(trainer) for trainer in together], poison)
    assert isinstance(gathered[1].future.exception(), TrainingDiverged)
    assert together[1].steps_done == 2
    for index in (0, 2):
        assert gathered[index].future.exception() is None
        assert_equal_states(together[index].state(), alone[index].state())


def test_cancelling_one_shared_finetune_does_not_affect_the_others(dit: DiT) -> None:
    settings = [{"batch_size": 8, "seed": seed, "steps": 5} for seed in range(3)]
    alone, together = ([sharing(dit, **options) for options in settings] for _ in range(2))
    for trainer in alone:
        slices.run(steps_of(trainer))

    def cancel(gathered: list[Training]) -> None:
        if together[0].steps_done == 3:
            gathered[0].cancelled.set()

    gathered = run_all([steps_of(trainer) for trainer in together], cancel)
    assert isinstance(gathered[0].future.exception(), Cancelled)
    assert together[0].steps_done == 3
    for index in (1, 2):
        assert_equal_states(together[index].state(), alone[index].state())


def test_error_in_a_shared_pass_fails_only_its_finetune(dit: DiT) -> None:
    together = [sharing(dit, batch_size=8, seed=seed, steps=4) for seed in range(3)]
    together[2].batches.latents = replace(together[2].batches.latents, labels=together[2].batches.latents.labels + 100)
    gathered = run_all([steps_of(trainer) for trainer in together])
    assert isinstance(gathered[2].future.exception(), IndexError)
    assert [trainer.steps_done for trainer in together] == [4, 4, 0]


def test_out_of_memory_makes_shared_groups_smaller(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [{"batch_size": 4, "seed": seed, "steps": 6} for seed in range(4)]
    alone, together = ([sharing(dit, **options) for options in settings] for _ in range(2))
    for trainer in alone:
        slices.run(steps_of(trainer))
    sizes, losses = list[int](), passes.row_losses

    def limited(model: Any, x0: Tensor, *others: Any) -> Any:
        sizes.append(len(x0))
        if len(x0) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(model, x0, *others)

    monkeypatch.setattr(passes, "row_losses", limited)
    gathered = run_all([steps_of(trainer) for trainer in together])
    assert [training.future.exception() for training in gathered] == [None] * 4
    assert sizes.count(16) == 1
    assert max(sizes[1:]) == 8
    for shared, single in zip(together, alone, strict=True):
        torch.testing.assert_close(shared.state()["first_moment"], single.state()["first_moment"], rtol=1e-3, atol=1e-6)


def test_finetunes_share_again_after_one_out_of_memory(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.ml.model.sizes.GROWTH_FORWARDS", 2)
    sizes, losses = list[int](), passes.row_losses

    def scarce_at_first(model: Any, x0: Tensor, *others: Any) -> Any:
        sizes.append(len(x0))
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(model, x0, *others)

    monkeypatch.setattr(passes, "row_losses", scarce_at_first)
    gathered = run_all([steps_of(sharing(dit, batch_size=4, seed=seed, steps=8)) for seed in range(2)])
    assert [training.future.exception() for training in gathered] == [None] * 2
    assert sizes[:2] == [8, 4]
    assert 8 in sizes[2:]


def test_lost_device_fails_no_finetune_by_itself(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(passes, "row_losses", lost)
    trainings = Trainings(share=1.0)
    gathered = [Training(steps_of(sharing(dit, seed=seed)), lambda _: None) for seed in range(2)]
    for training in gathered:
        trainings.add(training)
    trainings.step()
    trainings.step()
    with pytest.raises(RuntimeError, match="illegal memory access"):
        trainings.step()
    trainings.stop(DeviceLost("gone"))
    assert all(isinstance(training.future.exception(), DeviceLost) for training in gathered)


def test_stop_between_shared_passes_keeps_the_last_step_of_each(base: LoadedBase) -> None:
    outcomes = [run(base, plan)[1] for plan in plans(2)]
    events: list[list[Any]] = [[], []]
    trainings = Trainings(share=1.0)
    for plan, into in zip(plans(2), events, strict=True):
        trainings.add(Training(finetune(base, plan, images()), into.append))
    while not all(any(isinstance(event, Progress) for event in into) for into in events):
        trainings.step()
    trainings.step()
    trainings.stop(EngineStopped())
    for plan, into, outcome in zip(plans(2), events, outcomes, strict=True):
        assert isinstance(into[-1], Checkpoint)
        _, resumed = run(base, plan, into[-1].data)
        assert_equal_states(resumed.tensors, outcome.tensors)


def test_shared_finetunes_advance_at_the_same_rate(dit: DiT) -> None:
    """So a tenant's fourth fine-tune takes nothing from another tenant's only one."""
    together = [sharing(dit, batch_size=size, steps=20) for size in (2, 2, 2, 2, 7)]
    ranges = list[int]()

    def watch(_: list[Training]) -> None:
        done = [trainer.steps_done for trainer in together]
        ranges.append(max(done) - min(done))

    run_all([steps_of(trainer) for trainer in together], watch)
    assert max(ranges) <= 1
