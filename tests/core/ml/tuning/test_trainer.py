"""The trainer trains the right tensors for the exact number of steps, and can be stopped at any point."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from core.artifact.sites import CLASS_TABLE, trainable_shapes
from core.artifact.training import TrainingSettings
from core.ml.diffusion.sampling import Model
from core.ml.errors import TrainingDiverged
from core.ml.model.dit import DiT
from core.ml.tuning.checkpoint import pack, unpack
from core.ml.tuning.latents import Latents
from core.ml.tuning.parallel import ALONE, Processes
from core.ml.tuning.routes import FoldedRoute, ReferenceRoute
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer
from tests.core.ml.model.small import ADAPTERS, CONFIG, class_lookups, fresh_tensors, random_dit

NULL = 3
SETTINGS: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "balanced": {"sampling": "balanced"},
    "clipped": {"gradient_clip": 0.01},
    "warm-up and decay": {"warmup_steps": 3, "decay_steps": 4},
    "minimum SNR": {"minimum_snr_gamma": 5.0},
    "batches larger than the data": {"batch_size": 40},
}


@pytest.fixture
def dit() -> DiT:
    return random_dit()


def latents_of(labels: list[int], seed: int = 0, deviation: float = 0.1) -> Latents:
    mean = torch.randn(2, len(labels), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Latents(mean, torch.full_like(mean, deviation), torch.tensor(labels))


def trainer_of(
    dit: DiT,
    name: str = "paper",
    latents: Latents | None = None,
    *,
    processes: Processes = ALONE,
    **settings: Any,
) -> Trainer:
    settings = {"steps": 8, "batch_size": 5, "held_out_fraction": 0.2, **settings}
    chosen = latents or latents_of([0] * 8 + [1] * 6 + [2] * 5)
    start = fresh_tensors(dit, name, NULL)
    return Trainer(dit, start, chosen, TrainingSettings(**settings), processes=processes)


class Recorder:
    """Recorder of the timesteps and labels of every model forward, through either route."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.labels: list[Tensor] = []
        self.timesteps: list[Tensor] = []
        for route in (FoldedRoute, ReferenceRoute):
            monkeypatch.setattr(route, "joint_model", self._recording(route.joint_model))

    def _recording(self, joint_model: Callable[..., Model]) -> Callable[..., Model]:
        def recorded(*arguments: Any) -> Model:
            model = joint_model(*arguments)

            def ask(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
                self.timesteps.append(t.clone())
                self.labels.append(y.clone())
                return model(x, t, y)

            return ask

        return recorded


def assert_equal_states(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_micro_batches_train_the_same(dit: DiT, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    """Includes parts of unequal size: 5 = 2 + 2 + 1. Each part passes through the model by itself."""
    whole = trainer_of(dit, **settings)
    reports = [whole.step() for _ in range(3)]
    recorder = Recorder(monkeypatch)
    parts = trainer_of(dit, micro_batch_size=2, **settings)
    for report in reports:
        part_report = parts.step()
        assert (part_report.mse, part_report.bound) == pytest.approx((report.mse, report.bound), rel=1e-5)
        assert part_report.gradient_norm == pytest.approx(report.gradient_norm, rel=1e-4)
    assert max(map(len, recorder.labels)) == 2
    torch.testing.assert_close(parts.state()["first_moment"], whole.state()["first_moment"], rtol=1e-3, atol=1e-6)


def test_classes_of_the_base_are_used_without_a_class_table(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's fine-tune to another resolution (section 4.3)."""
    shapes = trainable_shapes(CONFIG, *ADAPTERS["paper"], None)
    assert CLASS_TABLE not in shapes
    start = start_tensors(dit, shapes, torch.Generator())
    recorder = Recorder(monkeypatch)
    settings = TrainingSettings(steps=2, batch_size=20, label_dropout=0.5, held_out_fraction=0)
    trainer = Trainer(dit, start, latents_of([0, 1]), settings)
    trainer.step()
    assert set(torch.cat(recorder.labels).tolist()) == {0, 1, CONFIG.null_class}
    assert CLASS_TABLE not in trainer.averaged


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_resumed_run_is_bit_identical_to_an_uninterrupted_run(dit: DiT, settings: dict[str, Any]) -> None:
    whole, first = trainer_of(dit, **settings), trainer_of(dit, **settings)
    reports = [whole.step() for _ in range(8)]
    first_reports = [first.step() for _ in range(3)]
    data = pack(first.state(), {})
    second = trainer_of(dit, **settings)
    second.step()  # overwritten by the restored state
    second.restore(unpack(data, {}))
    assert [*first_reports, *(second.step() for _ in range(5))] == reports
    assert_equal_states(second.state(), whole.state())
    assert_equal_states(second.averaged, whole.averaged)
    assert whole.done
    assert second.done


def test_run_can_be_resumed_before_its_first_step(dit: DiT) -> None:
    first, second = trainer_of(dit), trainer_of(dit)
    second.restore(first.state())
    assert first.step() == second.step()


def test_state_is_a_copy(dit: DiT) -> None:
    trainer = trainer_of(dit)
    trainer.step()
    state = trainer.state()
    copies = {name: tensor.clone() for name, tensor in state.items()}
    trainer.step()
    assert_equal_states(state, copies)


def test_steps_depend_on_the_seed(dit: DiT) -> None:
    assert trainer_of(dit).step() == trainer_of(dit).step()
    assert trainer_of(dit, seed=1).step() != trainer_of(dit).step()


def test_diverging_step_raises_and_changes_nothing(dit: DiT) -> None:
    trainer, undisturbed = trainer_of(dit, batch_size=4), trainer_of(dit, batch_size=4)
    for _ in range(3):
        trainer.step()
        undisturbed.step()
    before = trainer.state()
    weight = dit.get_parameter("blocks.0.mlp.fc1.weight")
    original = weight.clone()
    weight[0, 0] = math.inf
    with pytest.raises(TrainingDiverged, match="at step 4"):
        trainer.step()
    assert_equal_states(trainer.state(), before)
    weight.copy_(original)
    assert trainer.step() == undisturbed.step()


@pytest.mark.parametrize("name", ADAPTERS)
def test_training_moves_every_trainable_and_no_frozen_weight(dit: DiT, name: str) -> None:
    before = {name: tensor.clone() for name, tensor in dit.state_dict().items()}
    trainer = trainer_of(dit, name)
    start = {name: tensor.clone() for name, tensor in trainer.averaged.items()}
    for _ in range(3):
        trainer.step()
    assert_equal_states(dict(dit.state_dict()), before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in dit.parameters())
    assert [name for name, tensor in trainer.averaged.items() if torch.equal(tensor, start[name])] == []


def test_trainer_starts_from_the_given_tensors(dit: DiT) -> None:
    start = fresh_tensors(dit, "paper", NULL)
    trainer = Trainer(dit, start, latents_of([0, 1, 2]), TrainingSettings(steps=1))
    assert_equal_states(trainer.averaged, start)
    assert trainer.learner.shapes == trainable_shapes(CONFIG, *ADAPTERS["paper"], NULL)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_labels_are_dropped_once_per_sample(dit: DiT, monkeypatch: pytest.MonkeyPatch, dropout: float) -> None:
    """Checks that labels are dropped before the model: every block sees the same label, and each forward looks up the
    class table once."""
    lookups = class_lookups(monkeypatch)
    recorder = Recorder(monkeypatch)
    trainer = trainer_of(dit, steps=30, batch_size=20, label_dropout=dropout)
    for _ in range(30):
        trainer.step()
    assert len(recorder.labels) == len(lookups) == 30
    assert all(torch.equal(looked_up, labels) for looked_up, labels in zip(lookups, recorder.labels, strict=True))
    fraction = (torch.cat(lookups) == NULL).float().mean().item()
    assert fraction == pytest.approx(dropout, abs=0.07)


@pytest.mark.parametrize(("dropout", "trained"), [(1.0, [False, False, False, True]), (0.0, [True, True, True, False])])
def test_dropped_label_trains_only_the_null_row(dit: DiT, dropout: float, trained: list[bool]) -> None:
    trainer = trainer_of(dit, batch_size=20, label_dropout=dropout)
    before = trainer.averaged[CLASS_TABLE].clone()
    trainer.step()
    assert (trainer.averaged[CLASS_TABLE] != before).any(1).tolist() == trained


def test_decay_of_the_average_warms_up(dit: DiT) -> None:
    trainer = trainer_of(dit, steps=40, ema_decay=0.75)
    average = trainer.state()["average"]
    for n in range(1, 41):
        trainer.step()
        decay = min(0.75, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * trainer.state()["parameters"]
        torch.testing.assert_close(trainer.state()["average"], average)
    assert (1 + 40) / (10 + 40) > 0.75, "both arguments of the minimum must have been used"
    names, flat = trainer.averaged, trainer.state()["average"]
    assert torch.equal(torch.cat([tensor.flatten() for tensor in names.values()]), flat)


def test_learning_rate_rises_stays_and_falls(dit: DiT) -> None:
    trainer = trainer_of(dit, steps=10, warmup_steps=4, decay_steps=4, learning_rate=0.1)
    rates = []
    for _ in range(10):
        trainer.step()
        rates.append(trainer.optimizer.param_groups[0]["lr"] / 0.1)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_update_is_adamw_without_weight_decay(dit: DiT) -> None:
    """Expects the first step to move every parameter by the learning rate against its gradient's sign."""
    trainer = trainer_of(dit, learning_rate=0.01)
    before = trainer.state()
    trainer.step()
    after = trainer.state()
    gradient = after["first_moment"] / 0.1
    torch.testing.assert_close(after["second_moment"], 0.001 * gradient.square())
    expected = before["parameters"] - 0.01 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(after["parameters"], expected)


def test_gradients_are_clipped_by_their_joint_norm(dit: DiT) -> None:
    free, clipped = trainer_of(dit), trainer_of(dit, gradient_clip=0.01)
    assert free.step() == clipped.step(), "the report has the norm before clipping"
    assert clipped.state()["first_moment"].norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert free.state()["first_moment"].norm().item() > 0.1 * 0.01


def test_shuffled_sampling_takes_every_image_once_per_epoch(dit: DiT) -> None:
    trainer = trainer_of(dit, latents=latents_of([0] * 10), held_out_fraction=0, batch_size=4)
    seen = [index for _ in range(10) for index in trainer.batches._next_indices().tolist()]
    for start in range(0, 40, 10):
        assert sorted(seen[start : start + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]


def test_balanced_sampling_takes_classes_equally_often(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    labels = [0] * 60 + [1] * 6 + [2] * 3
    trainer = trainer_of(
        dit,
        latents=latents_of(labels),
        sampling="balanced",
        batch_size=100,
        steps=6,
        label_dropout=0,
        held_out_fraction=0,
    )
    for _ in range(6):
        trainer.step()
    counts = Counter(torch.cat(recorder.labels).tolist())
    assert all(counts[label] == pytest.approx(200, abs=45) for label in (0, 1, 2))


def test_half_of_the_images_are_mirrored_and_latents_are_resampled(dit: DiT) -> None:
    latents = latents_of([0], deviation=0.0)
    batches = trainer_of(dit, latents=latents).batches
    x0, labels = batches._samples(torch.zeros(200, dtype=torch.long))
    mirrored = torch.tensor([torch.equal(row, latents.mean[1, 0]) for row in x0])
    assert all(torch.equal(row, latents.mean[int(flip), 0]) for row, flip in zip(x0, mirrored, strict=True))
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert labels.tolist() == [0] * 200
    wide = latents_of([0], deviation=1.0)
    batches.latents = Latents(wide.mean * 0, wide.deviation, wide.labels)
    x0, _ = batches._samples(torch.zeros(50, dtype=torch.long))
    assert x0.std().item() == pytest.approx(1, abs=0.05)
    assert not torch.equal(x0[0], x0[1])


def test_timesteps_are_uniform(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    trainer = trainer_of(dit, batch_size=100, steps=10)
    for _ in range(10):
        trainer.step()
    tenths = (torch.cat(recorder.timesteps) // 100).bincount(minlength=10)
    assert tenths.sum() == 1000
    assert all(60 <= tenth <= 140 for tenth in tenths.tolist())


@pytest.mark.parametrize(("timesteps", "below_600"), [("stratified", 120), ("focused", 170)])
def test_timestep_ranges_have_fixed_counts(
    dit: DiT, monkeypatch: pytest.MonkeyPatch, timesteps: Literal["stratified", "focused"], below_600: int
) -> None:
    recorder = Recorder(monkeypatch)
    trainer = trainer_of(dit, batch_size=200, steps=1, timesteps=timesteps)
    trainer.step()
    (t,) = recorder.timesteps
    below, above = t[t < 600], t[t >= 600]
    assert (len(below), len(above)) == (below_600, 200 - below_600)
    for tenths in ((below // 60).bincount(), ((above - 600) // 40).bincount()):
        assert tenths.max() - tenths.min() <= 2  # spread evenly


def test_minimum_snr_gives_easy_timesteps_less_weight(dit: DiT) -> None:
    weights = trainer_of(dit, minimum_snr_gamma=5.0).batches._weights(torch.tensor([0, 100, 999]))
    assert weights[0] == pytest.approx(5 / 9999, rel=1e-3)
    assert weights[2] == 1
    assert weights[0] < weights[1] < weights[2]


def test_held_out_losses_of_equal_adapters_are_equal(dit: DiT) -> None:
    """Uses fixed timesteps and noise: equal adapters have equal losses, and evaluation changes nothing."""
    latents = latents_of([0] * 10 + [4] * 10)
    tensors = fresh_tensors(dit, "paper")
    trainer = Trainer(dit, tensors, latents, TrainingSettings(steps=2, batch_size=4, held_out_fraction=0.2))
    undisturbed = Trainer(dit, tensors, latents, TrainingSettings(steps=2, batch_size=4, held_out_fraction=0.2))
    assert len(trainer.held_out) == 4
    own, null = trainer.held_out_loss({}), trainer.held_out_loss({}, CONFIG.null_class)
    assert own == trainer.held_out_loss(trainer.averaged)
    assert own == pytest.approx(trainer.held_out_loss({}, batch_size=3), rel=1e-5)
    assert own != null
    assert trainer.step() == undisturbed.step()
    assert trainer.held_out_loss({}) == own
    assert trainer.held_out_loss(trainer.averaged) != own


def test_without_held_out_images_there_is_no_held_out_loss(dit: DiT) -> None:
    assert math.isnan(trainer_of(dit, held_out_fraction=0).held_out_loss({}))


def test_held_out_timesteps_cover_the_whole_range(dit: DiT, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    trainer = trainer_of(dit)
    trainer.held_out_loss(trainer.averaged, repeats=4)
    t = torch.cat(recorder.timesteps)
    assert (t // 250).bincount().tolist() == [len(trainer.held_out)] * 4


@pytest.mark.parametrize("name", ["bitfit", "paper"])
def test_training_lowers_the_held_out_loss(name: str) -> None:
    """Trains on two classes of flat images, one bright and one dark."""
    dit = random_dit()
    mean = torch.ones(2, 40, 4, 8, 8)
    mean[:, 20:] = -1
    latents = Latents(mean, torch.full_like(mean, 0.05), torch.tensor([0] * 20 + [1] * 20))
    shapes = trainable_shapes(CONFIG, *ADAPTERS[name], 2)
    start = start_tensors(dit, shapes, torch.Generator().manual_seed(0))
    trainer = Trainer(dit, start, latents, TrainingSettings(steps=120, batch_size=16, learning_rate=3e-3))
    before = trainer.held_out_loss({}, CONFIG.null_class)
    while not trainer.done:
        trainer.step()
    assert trainer.held_out_loss(trainer.averaged) < 0.7 * before
