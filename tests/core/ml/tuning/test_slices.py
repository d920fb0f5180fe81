"""A fine-tune divides its steps into slices, keeps within its memory, and never leaves a step half done."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.artifact.errors import DeviceLost, EngineStopped
from core.artifact.footprint import Footprint
from core.ml import slices
from core.ml.errors import TrainingOutOfMemory
from core.ml.model.checkpoint import LoadedBase
from core.ml.serving.trainings import Training, Trainings
from core.ml.tuning import finetune as finetuning
from core.ml.tuning import passes
from core.ml.tuning.finetune import finetune
from core.ml.tuning.passes import row_losses
from core.ml.tuning.plan import Checkpoint, Sample, SampleSkipped
from core.ml.tuning.trainer import _halves
from tests.core.ml.model.small import CONFIG, random_dit
from tests.core.ml.serving.small import engine_of
from tests.core.ml.tuning.test_finetune import PLAN, base, images, of_kind, run
from tests.core.ml.tuning.test_trainer import Recorder, assert_equal_states, trainer_of

__all__ = ["base"]  # a fixture


def in_parts_of(size: int) -> Any:
    return replace(PLAN, training=replace(PLAN.training, micro_batch_size=size))


def test_step_yields_before_each_micro_batch() -> None:
    trainer = trainer_of(random_dit(), batch_size=5, micro_batch_size=2)
    assert [len(part.rows.t) for part in trainer.parts()] == [2, 2, 1]
    assert trainer.steps_done == 1


@pytest.mark.parametrize("parts", [0, 1, 2, 3])
def test_step_closed_in_the_middle_changes_nothing(parts: int) -> None:
    trainer, undisturbed = (trainer_of(random_dit(), batch_size=5, micro_batch_size=2) for _ in range(2))
    assert trainer.step() == undisturbed.step()
    work = trainer.parts()
    for _ in range(parts):
        next(work)
    work.close()
    assert_equal_states(trainer.state(), undisturbed.state())
    assert trainer.step() == undisturbed.step()


def test_no_slice_is_larger_than_a_micro_batch(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers steps, held-out losses and samples. The latter two need no gradients and have two rows per image."""
    labels = Recorder(monkeypatch).labels
    totals = [0, *(sum(map(len, labels)) for _ in finetune(base, in_parts_of(1), images()))]
    assert max(after - before for before, after in pairwise(totals)) == 2
    assert totals[-1] > 7 * 4


def test_finetune_stopped_within_a_step_continues_from_the_previous_one(base: LoadedBase) -> None:
    plan = in_parts_of(1)
    whole = slices.run(finetune(base, plan, images()))
    for stopped_after in (0, 1, 2):
        work = finetune(base, plan, images())
        while not (isinstance(event := next(work), Checkpoint) and event.step == 4):
            pass
        for _ in range(stopped_after):
            next(work)
        last = work.throw(EngineStopped())
        assert isinstance(last, Checkpoint)
        assert last.step == 4
        work.close()
        _, resumed = run(base, plan, last.data)
        assert_equal_states(resumed.tensors, whole.tensors)


@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_micro_batch(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    """The images, timesteps and noise are the same; only sums round differently."""
    whole, scarce = (trainer_of(random_dit(), batch_size=7) for _ in range(2))
    reports = [whole.step() for _ in range(3)]
    limit_images(monkeypatch, fits)
    for expected in reports:
        report = scarce.step()
        assert report.loss == pytest.approx(expected.loss, rel=1e-5)
        assert report.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-4)
    states = scarce.state(), whole.state()
    assert all(torch.equal(states[0][name], states[1][name]) for name in ("generator", "order", "steps_done"))
    torch.testing.assert_close(states[0]["first_moment"], states[1]["first_moment"], rtol=1e-3, atol=1e-6)
    assert scarce.sizes.in_use[-1] == max(size for size in _halves(7) if size <= fits)


def test_out_of_memory_in_the_backward_pass_counts_no_gradient_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, scarce = (trainer_of(random_dit(), batch_size=4) for _ in range(2))
    gradient, calls = torch.autograd.grad, []

    def once(*arguments: Any, **others: Any) -> Any:
        calls.append(arguments)
        grads = gradient(*arguments, **others)
        if len(calls) in (1, 3):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return grads

    expected = whole.step()
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", once)
        report = scarce.step()
    assert len(calls) == 5, "4 fail; 2 pass; 2 fail; 1 and 1 pass"
    assert report.loss == pytest.approx(expected.loss, rel=1e-5)
    assert report.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-4)


def test_finetune_whose_single_image_does_not_fit_fails_with_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(random_dit(), batch_size=4)
    before = trainer.state()
    limit_images(monkeypatch, 0)
    with pytest.raises(TrainingOutOfMemory, match="Use a smaller batch_size or image_size") as raised:
        trainer.step()
    assert raised.value.code == "out_of_memory"
    assert_equal_states(trainer.state(), before)


def limit_images(monkeypatch: pytest.MonkeyPatch, maximum: int) -> None:
    def limited(model: Any, x0: Tensor, *others: Any) -> Any:
        if len(x0) > maximum:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return row_losses(model, x0, *others)

    monkeypatch.setattr(passes, "row_losses", limited)


def test_finetune_that_runs_out_of_memory_while_encoding_fails_with_out_of_memory(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(_: object, __: Tensor) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(type(base.autoencoder), "encode", encode)
    with pytest.raises(TrainingOutOfMemory, match="DefaultCPUAllocator"):
        slices.run(finetune(base, PLAN, images()))


@pytest.mark.parametrize("fits", [0, 1, 2])
def test_sample_that_does_not_fit_does_not_fail_the_finetune(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    """The sample is generated with fewer images at once, or skipped and reported; the adapter stays the same."""
    events, whole = run(base)
    real = finetuning.sample_steps

    def limited(model: Any, noise: Tensor, *others: Any, **named: Any) -> Any:
        if len(noise) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, noise, *others, **named)

    monkeypatch.setattr(finetuning, "sample_steps", limited)
    limited_events, outcome = run(base, replace(PLAN, samples_every=100))  # a single sample, after the last step
    assert_equal_states(outcome.tensors, whole.tensors)
    assert outcome.losses == whole.losses
    assert len(of_kind(limited_events, Sample)) == (fits > 0)
    assert [event.step for event in of_kind(limited_events, SampleSkipped)] == ([7] if fits == 0 else [])
    if fits:
        pixels = (np.asarray(of_kind(received, Sample)[-1].image, dtype=int) for received in (limited_events, events))
        assert abs(next(pixels) - next(pixels)).max() <= 2, "sums of a smaller batch round differently"


@pytest.mark.parametrize("fits", [1, 3])
def test_held_out_losses_are_computed_in_batches_that_fit(monkeypatch: pytest.MonkeyPatch, fits: int) -> None:
    whole, scarce = (trainer_of(random_dit(), batch_size=4) for _ in range(2))
    expected = whole.held_out_loss(whole.averaged)
    limit_images(monkeypatch, fits)
    assert scarce.held_out_loss(scarce.averaged) == pytest.approx(expected, rel=1e-5)
    limit_images(monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        scarce.held_out_loss(scarce.averaged)


def test_micro_batches_fit_into_the_memory_of_the_plan(base: LoadedBase) -> None:
    """A plan whose memory is too small for one image is rejected before any image is read."""
    footprint = Footprint.of(CONFIG, "difffit", 1, "cpu")
    _, whole = run(base)
    _, parts = run(base, replace(PLAN, memory_bytes=footprint.total_bytes(4, 3)))
    _, in_threes = run(base, in_parts_of(3))
    assert_equal_states(parts.tensors, in_threes.tensors)
    assert parts.losses["adapter"] == pytest.approx(whole.losses["adapter"], rel=1e-3)

    def unread() -> Any:
        raise AssertionError("an image was read")
        yield

    too_little = replace(PLAN, memory_bytes=footprint.total_bytes(4, 1) - 1)
    with pytest.raises(TrainingOutOfMemory, match="a single image needs"):
        next(finetune(base, too_little, unread()))


def test_checkpoint_can_be_resumed_with_another_memory_limit(base: LoadedBase) -> None:
    events, whole = run(base)
    checkpoint = of_kind(events, Checkpoint)[1].data
    limit = Footprint.of(CONFIG, "difffit", 1, "cpu").total_bytes(4, 1)
    _, resumed = run(base, replace(PLAN, memory_bytes=limit), checkpoint)
    assert resumed.losses["adapter"] == pytest.approx(whole.losses["adapter"], rel=1e-3)


@pytest.mark.parametrize("error", [torch.AcceleratorError, RuntimeError])
def test_device_lost_during_training_ends_the_engine_and_fails_no_finetune(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def lost(*_: object) -> None:
        raise error("CUDA error: an illegal memory access was encountered")

    deaths: list[BaseException] = []
    monkeypatch.setattr(passes, "row_losses", lost)
    engine = engine_of(base.autoencoder, on_death=deaths.append)
    engine.start()
    training = engine.train(finetune(base, PLAN, images()), lambda _: None)
    assert isinstance(training.future.exception(120), DeviceLost)
    assert [type(death) for death in deaths] == [error]
    engine.stop()


def test_idle_serving_goes_first_and_training_gets_its_share() -> None:
    trainings = Trainings(0.2)
    trainings.add(Training(work=iter(()), on_event=print))  # type: ignore[arg-type]  # never run
    assert trainings.due(serving=False)
    assert not trainings.due(serving=True)
    trainings.took(serving=0.1)
    assert trainings.due(serving=True)
    trainings.took(training=0.1)
    assert not trainings.due(serving=True)
    trainings.took(serving=0.3)
    assert not trainings.due(serving=True)
    trainings.took(serving=0.1)
    assert trainings.due(serving=True)


@pytest.mark.parametrize(("batch", "scale"), [(32, 1), (1024, 2)])
def test_estimate_bounds_the_memory_of_the_bundled_base(batch: int, scale: int) -> None:
    """Measures in a separate process how much the peak grows in the first micro-batches of a step."""
    command = [sys.executable, "-m", "tests.core.ml.tuning.peak", str(batch), str(scale)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    estimate, grown = map(int, output.split())
    assert grown <= 1.15 * estimate + 20e6
    assert estimate <= 300e6
