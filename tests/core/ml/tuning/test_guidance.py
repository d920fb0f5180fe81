"""Learned guidance: the teacher's targets, and fine-tunes whose last steps learn them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from core.artifact.errors import EngineStopped, InvalidRequest
from core.artifact.file import check_fits, decode, encode
from core.artifact.sites import CLASS_TABLE, GUIDED
from core.artifact.training import TrainingSettings
from core.ml.diffusion.sampling import Model
from core.ml.diffusion.schedule import schedule_on
from core.ml.errors import CheckpointInvalid
from core.ml.model.adapter import TensorAdapter
from core.ml.model.checkpoint import LoadedBase
from core.ml.model.dit import DiT
from core.ml.tuning.batches import Rows
from core.ml.tuning.checkpoint import last_readable, pack, unpack
from core.ml.tuning.finetune import finetune
from core.ml.tuning.guidance import Teacher
from core.ml.tuning.plan import ABOUT_DEFAULTS, Checkpoint, Progress, Started
from tests.core.ml.model.small import batch, random_dit, random_tensors
from tests.core.ml.tuning.test_finetune import PLAN, base, images, of_kind, run

__all__ = ["base"]  # the fixture
LEARNING = replace(
    PLAN, training=TrainingSettings(steps=9, batch_size=4, held_out_fraction=0.2, distill_guidance=3.0, distill_steps=4)
)


def rows() -> Rows:
    x, t, _ = batch()
    ones = torch.ones(3)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(8))
    return Rows(x0=x, labels=torch.tensor([0, 2, 1]), t=t, noise=noise, weights=ones, fractions=ones / 3)


def model_of(dit: DiT, tensors: dict[str, torch.Tensor]) -> Model:
    return lambda x, t, y: dit(x, t, y, TensorAdapter(tensors))


def test_target_is_the_guided_prediction_of_the_reference_forward() -> None:
    """At an adapter scale of 1, which is classifier-free guidance, against the forward pass that mirrors the paper."""
    dit, here = random_dit(), rows()
    taught, learning = (random_tensors(dit, "paper", seed=seed) for seed in (0, 5))
    mse, bound = Teacher(dit, taught, 2.5, 1.0).losses(model_of(dit, learning), here)

    x = schedule_on(here.x0.device).add_noise(here.x0, here.noise, here.t)
    null = torch.full_like(here.labels, len(taught[CLASS_TABLE]) - 1)
    conditional, unconditional = (dit(x, here.t, y, TensorAdapter(taught)) for y in (here.labels, null))
    channels, guided = dit.config.in_channels, dit.config.guidance_channels
    target = conditional[:, :channels].clone()
    target[:, :guided] = unconditional[:, :guided] + 2.5 * (conditional - unconditional)[:, :guided]
    own = dit(x, here.t, here.labels, TensorAdapter(learning))
    torch.testing.assert_close(mse, (own[:, :channels] - target).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)
    difference_of_variance = (own - conditional)[:, channels:]
    torch.testing.assert_close(bound, difference_of_variance.square().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_weaker_adapter_gives_the_unconditional_prediction() -> None:
    """At an adapter scale of 0, the base with the base's null class."""
    dit, here = random_dit(), rows()
    taught = random_tensors(dit, "paper")
    mse, _ = Teacher(dit, taught, 4.0, 0.0).losses(model_of(dit, taught), here)
    x = schedule_on(here.x0.device).add_noise(here.x0, here.noise, here.t)
    conditional = dit(x, here.t, here.labels, TensorAdapter(taught))
    unconditional = dit(x, here.t, torch.full_like(here.labels, dit.config.null_class), TensorAdapter({}))
    guided = dit.config.guidance_channels
    moved = (4.0 - 1) * (conditional - unconditional)[:, :guided]
    share = guided / dit.config.in_channels
    torch.testing.assert_close(mse, share * moved.square().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_teacher_guides_only_within_its_interval() -> None:
    dit, here = random_dit(), rows()._replace(t=torch.tensor([199, 200, 801]))
    taught = random_tensors(dit, "paper")
    mse, _ = Teacher(dit, taught, 4.0, 1.0, (200, 800)).losses(model_of(dit, taught), here)
    assert mse[[0, 2]].max() < 1e-9
    assert mse[1] > 1e-3


def test_last_steps_learn_guidance(base: LoadedBase) -> None:
    events, outcome = run(base, LEARNING)
    assert outcome.adapter_step == 9
    assert [event.step for event in of_kind(events, Progress)][-1] == 9
    plain = replace(PLAN, training=TrainingSettings(steps=5, batch_size=4, held_out_fraction=0.2))
    _, taught = run(base, plain)
    assert outcome.losses == taught.losses, "the steps before must be those of an ordinary fine-tune"
    assert all(torch.equal(outcome.tensors[name], tensor) for name, tensor in taught.tensors.items())
    assert outcome.tensors.keys() - taught.tensors.keys() == {GUIDED + name for name in taught.tensors}
    assert not any(torch.equal(outcome.tensors[GUIDED + name], tensor) for name, tensor in taught.tensors.items())
    data = encode(LEARNING.manifest(base.description), {n: t.numpy() for n, t in outcome.tensors.items()})
    artifact = decode(data)
    check_fits(artifact, base.description)
    assert artifact.manifest.learned_guidance == 3.0


def test_resumed_fine_tune_learns_the_same_guidance(base: LoadedBase) -> None:
    """From a checkpoint of each part: of the ordinary steps, and of the steps that learn guidance."""
    events, whole = run(base, LEARNING)
    checkpoints = of_kind(events, Checkpoint)
    assert [checkpoint.step for checkpoint in checkpoints] == [2, 4, 6, 8]
    for checkpoint in checkpoints[1:3]:
        later, resumed = run(base, LEARNING, checkpoint.data)
        assert of_kind(later, Started)[0].step == checkpoint.step
        assert of_kind(later, Progress)[-1].step == 9
        assert resumed.losses == whole.losses
        assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_step_of_an_older_checkpoint_counts_the_steps_of_both_parts(base: LoadedBase) -> None:
    """A worker restarts from an older checkpoint if the latest cannot be read."""
    plan = LEARNING.about(base.description.digest)
    stored = {str(event.step): event.data for event in of_kind(run(base, LEARNING)[0], Checkpoint)} | {"cut": b""}
    for step in (2, 4, 6, 8):
        resume = last_readable(lambda key, _: stored[key], [("cut", ""), (str(step), "")], plan, ABOUT_DEFAULTS)
        assert (resume.step, len(resume.reasons)) == (step, 1)


def test_checkpoint_with_other_tensors_of_guidance_is_refused(base: LoadedBase) -> None:
    """Checkpoint of an earlier build, which learned one embedding for all scales."""
    plan = LEARNING.about(base.description.digest)
    older = {name: value for name, value in plan.items() if name != "guided_tensors"}
    with pytest.raises(CheckpointInvalid, match="other settings"):
        unpack(pack({"steps_done": torch.tensor(1)}, older), plan, ABOUT_DEFAULTS)


def test_stopped_while_learning_guidance_continues_from_its_last_step(base: LoadedBase) -> None:
    _, whole = run(base, LEARNING)
    work = finetune(base, LEARNING, images())
    last = None
    for event in work:
        if isinstance(event, Progress) and event.step > 5:
            last = work.throw(EngineStopped())
            break
    assert isinstance(last, Checkpoint)
    unpack(last.data, LEARNING.about(base.description.digest), ABOUT_DEFAULTS)
    _, resumed = run(base, LEARNING, last.data)
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_learning_brings_the_student_nearer_to_the_teacher(base: LoadedBase) -> None:
    training = TrainingSettings(
        steps=80, batch_size=8, held_out_fraction=0, distill_guidance=4.0, distill_steps=40, learning_rate=1e-2
    )
    events, _ = run(
        base, replace(PLAN, training=training, progress_every=10, checkpoint_every=1000, samples_every=1000)
    )
    losses = [event.loss for event in of_kind(events, Progress) if event.step > 40]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("change", [{"steps": 1}, {"distill_guidance": 1.0}, {"distill_guidance": float("inf")}])
def test_fine_tune_refuses_guidance_that_it_cannot_learn(base: LoadedBase, change: dict[str, Any]) -> None:
    """Before the first step. An earlier release may have stored such settings."""
    with pytest.raises(InvalidRequest):
        run(base, replace(LEARNING, training=replace(LEARNING.training, **change)))
