"""Evaluations during training: the best moving average is kept, training can end early, and resumes stay exact."""

import math
from dataclasses import replace

import pytest
import torch

from core.artifact.errors import EngineStopped
from core.artifact.file import decode
from core.artifact.training import TrainingSettings
from core.ml.model.checkpoint import LoadedBase
from core.ml.tuning.finetune import finetune
from core.ml.tuning.held_out import Best, evaluation_sample
from core.ml.tuning.latents import Latents
from core.ml.tuning.passes import MicroBatch
from core.ml.tuning.plan import Checkpoint, Evaluation, FinetunePlan, Outcome, Progress, Started
from tests.core.ml.tuning import test_finetune
from tests.core.ml.tuning.test_finetune import PLAN, images, of_kind, run

base = test_finetune.base
EVALUATED = replace(PLAN, training=replace(PLAN.training, evaluate_every=3, keep="best"))
# The large learning rate passes the best weights early.
OVERSHOOTING = replace(
    PLAN,
    training=replace(PLAN.training, steps=60, learning_rate=0.2, ema_decay=0.5, evaluate_every=3, early_stopping=2),
    checkpoint_every=2,
    samples_every=100,
)


def equal(left: Outcome, right: Outcome) -> bool:
    same = all(torch.equal(left.tensors[name], tensor) for name, tensor in right.tensors.items())
    return same and left.losses == right.losses and left.adapter_step == right.adapter_step


def test_evaluations_come_at_their_interval_and_at_the_end_and_change_no_weights(base: LoadedBase) -> None:
    events, outcome = run(base, replace(EVALUATED, training=replace(EVALUATED.training, keep="last")))
    evaluations = of_kind(events, Evaluation)
    assert [event.step for event in evaluations] == [3, 6, 7]
    assert all(math.isfinite(event.held_out_loss) for event in evaluations)
    _, plain = run(base)
    assert equal(outcome, plain)
    assert of_kind(run(base)[0], Evaluation) == []


def test_best_moving_average_becomes_the_adapter(base: LoadedBase) -> None:
    plan = replace(OVERSHOOTING, training=replace(OVERSHOOTING.training, early_stopping=None, keep="best", steps=18))
    events, outcome = run(base, plan)
    evaluations = of_kind(events, Evaluation)
    best = min(evaluations, key=lambda event: event.held_out_loss)
    assert best.step < 18, "the last step would be the best by chance"
    assert (outcome.adapter_step, outcome.stop_reason) == (best.step, "all_steps")
    assert evaluations[-1].best_step == best.step
    shorter = replace(plan, training=replace(plan.training, steps=best.step, keep="last"))
    assert equal(outcome, run(base, shorter)[1])


def test_early_stopping_ends_training_after_its_patience(base: LoadedBase) -> None:
    events, outcome = run(base, OVERSHOOTING)
    last = of_kind(events, Evaluation)[-1]
    assert outcome.stop_reason == "early_stopping"
    assert (last.best_step, last.step) == (outcome.adapter_step, outcome.adapter_step + 2 * 3)
    assert of_kind(events, Progress)[-1].step == last.step < OVERSHOOTING.training.steps
    manifest = decode(outcome.encoded(OVERSHOOTING.manifest(base.description))).manifest
    assert (manifest.training["steps"], manifest.training["adapter_step"]) == (60, outcome.adapter_step)


@pytest.mark.parametrize("plan", [EVALUATED, OVERSHOOTING], ids=["best", "early stopping"])
def test_resume_from_any_checkpoint_gives_the_same_adapter(base: LoadedBase, plan: FinetunePlan) -> None:
    events, whole = run(base, plan)
    checkpoints = of_kind(events, Checkpoint)
    assert len(checkpoints) > 2
    for checkpoint in checkpoints:
        later, resumed = run(base, plan, checkpoint.data)
        assert equal(resumed, whole)
        after = [event for event in of_kind(events, Evaluation) if event.step > checkpoint.step]
        assert of_kind(later, Evaluation) == after


def test_stop_during_an_evaluation_repeats_the_evaluation(base: LoadedBase) -> None:
    """The engine stops after the training step, before its evaluation has ended."""
    _, whole = run(base, EVALUATED)
    work = finetune(base, EVALUATED, images())
    micro_batches = 0
    while micro_batches < 3:
        micro_batches += isinstance(next(work), MicroBatch)
    assert next(work) is None  # the third step is done, its evaluation is next
    checkpoint = work.throw(EngineStopped())
    assert isinstance(checkpoint, Checkpoint)
    later, resumed = run(base, EVALUATED, checkpoint.data)
    assert (of_kind(later, Started)[0].step, of_kind(later, Evaluation)[0].step) == (3, 3)
    assert equal(resumed, whole)


def test_without_held_out_images_the_last_moving_average_is_kept(base: LoadedBase) -> None:
    training = replace(OVERSHOOTING.training, held_out_fraction=0, steps=7)
    events, outcome = run(base, replace(OVERSHOOTING, training=training))
    assert of_kind(events, Evaluation) == []
    assert (outcome.adapter_step, outcome.stop_reason) == (7, "all_steps")


@pytest.mark.parametrize(
    ("held_out", "every", "batch", "expected"),
    [(16, 25, 32, (16, 5)), (200, 25, 32, (80, 1)), (1, 100, 32, (1, 32)), (3, 1, 2, (1, 1)), (9, 10**5, 32, (9, 32))],
)
def test_evaluation_takes_a_tenth_of_the_rows_of_training(
    held_out: int, every: int, batch: int, expected: tuple[int, int]
) -> None:
    zeros = torch.zeros(2, held_out, 1, 1, 1)
    latents = Latents(zeros, zeros, torch.arange(held_out))
    settings = TrainingSettings(steps=1, batch_size=batch, evaluate_every=every)
    sample, repeats = evaluation_sample(latents, settings)
    assert (len(sample), repeats) == expected
    assert len(sample) * repeats <= max(1, every * batch / 10)
    assert sample.labels.diff().unique().numel() <= 2, "evenly spaced"


def test_best_state_is_restored_with_and_without_an_average() -> None:
    best = Best()
    assert best.state() == {}
    assert Best.of({}, torch.device("cpu")) == best
    best.add(5, 0.5, None)
    best.add(10, 0.75, None)
    assert Best.of(best.state(), torch.device("cpu")) == Best(5, 0.5, None, 10)
    average = torch.ones(3)
    best.add(15, 0.25, average)
    average.zero_()  # training goes on with the same vector
    restored = Best.of(best.state(), torch.device("cpu"))
    assert restored.average is not None
    assert restored.average.tolist() == [1, 1, 1]
    assert (restored.step, restored.loss, restored.evaluated_step) == (15, 0.25, 15)
