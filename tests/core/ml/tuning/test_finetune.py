"""A fine-tune in slices, from images to an adapter, uninterrupted and resumed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.artifact.additions import AdaptFormer, Lora, Prompts
from core.artifact.errors import EngineStopped
from core.artifact.sites import CLASS_TABLE, PRESETS, Method, MethodSites, Sites, count, trainable_shapes
from core.artifact.training import TrainingSettings
from core.ml.errors import CheckpointInvalid
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.checkpoint import LoadedBase, load_base, save_base
from core.ml.tuning.checkpoint import pack, unpack
from core.ml.tuning.finetune import finetune
from core.ml.tuning.plan import (
    ABOUT_DEFAULTS,
    Checkpoint,
    Encoding,
    Event,
    FinetunePlan,
    Outcome,
    Progress,
    Sample,
    Started,
    StartingPoint,
)
from core.ml.tuning.trainer import MICRO_BATCH
from tests.core.ml.model.small import CONFIG, autoencoder_folder, random_dit

PLAN = FinetunePlan(
    method="difffit",
    sites=PRESETS["paper"],
    class_names=("dark", "bright"),
    dataset_digest="d",
    training=TrainingSettings(steps=7, batch_size=4, held_out_fraction=0.2),
    progress_every=3,
    checkpoint_every=2,
    samples_every=5,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LoadedBase:
    folder = tmp_path_factory.mktemp("base")
    autoencoder = Autoencoder.load(autoencoder_folder(folder / "source"))
    dit = random_dit()
    save_base(folder / "own", dit, autoencoder, name="s", licence="MIT", class_names=[], dtype=torch.float32)
    return load_base(folder / "own", device=torch.device("cpu"), dtype=torch.float32)


def images() -> Iterator[tuple[int, Image.Image]]:
    generator = np.random.default_rng(0)
    for index in range(20):
        array = generator.integers(0, 128, (32, 32, 3), dtype=np.uint8) + 127 * (index % 2)
        yield index % 2, Image.fromarray(array.astype(np.uint8))


def run(base: LoadedBase, plan: FinetunePlan = PLAN, checkpoint: bytes | None = None) -> tuple[list[Any], Outcome]:
    identity = plan.about(base.description.digest)
    work = finetune(base, plan, images(), None if checkpoint is None else unpack(checkpoint, identity, ABOUT_DEFAULTS))
    events = []
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return [event for event in events if isinstance(event, Event)], end.value


def of_kind(events: list[Any], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_events_report_every_part_of_a_finetune(base: LoadedBase) -> None:
    events, outcome = run(base)
    assert [event.done for event in of_kind(events, Encoding)] == [16, 20]
    shapes = trainable_shapes(CONFIG, PLAN.method, PLAN.sites, 2)
    (started,) = of_kind(events, Started)
    assert (started.trainable_parameters, started.step) == (count(shapes), 0)
    assert started.held_out_loss_base == outcome.losses["base"] > 0
    assert [event.step for event in of_kind(events, Progress)] == [3, 6, 7]
    assert [event.step for event in of_kind(events, Checkpoint)] == [2, 4, 6]
    assert [event.step for event in of_kind(events, Sample)] == [5, 7]
    assert of_kind(events, Sample)[0].image.size == (2 * 34 + 2, 36)
    assert {name: tuple(tensor.shape) for name, tensor in outcome.tensors.items()} == shapes
    assert outcome.losses.keys() == {"base", "adapter", "adapter_null"}


def test_finetune_at_twice_the_image_size_runs_and_resumes(base: LoadedBase) -> None:
    plan = replace(PLAN, image_size=2 * base.description.image_size)
    events, outcome = run(base, plan)
    assert of_kind(events, Sample)[0].image.size == (2 * 66 + 2, 68)
    _, resumed = run(base, plan, of_kind(events, Checkpoint)[1].data)
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in outcome.tensors.items())
    _, small = run(base)
    assert not torch.equal(small.tensors[CLASS_TABLE], outcome.tensors[CLASS_TABLE])
    with pytest.raises(CheckpointInvalid):
        run(base, PLAN, of_kind(events, Checkpoint)[1].data)


@pytest.mark.parametrize("method", ["difffit", "lora"])
def test_frozen_class_table_holds_the_rows_of_the_base(base: LoadedBase, method: Method) -> None:
    """Trains at twice the size, as in the paper, and resumes. All other tensors train; the adapter has the table."""
    named = replace(base, description=replace(base.description, class_names=("dim", "bright", "grey", "dark", "blue")))
    sites = PRESETS["paper"] if method == "difffit" else Lora(rank=2)
    plan = replace(PLAN, method=method, sites=sites, image_size=64, train_class_table=False)
    events, outcome = run(named, plan)
    assert of_kind(events, Started)[0].trainable_parameters == count(trainable_shapes(CONFIG, method, sites, None))
    assert outcome.tensors.keys() == trainable_shapes(CONFIG, method, sites, 2).keys()
    rows = base.dit.y_embedder.embedding_table.weight
    assert torch.equal(outcome.tensors[CLASS_TABLE], rows[[3, 1, CONFIG.null_class]])
    _, other = run(named, replace(plan, training=replace(plan.training, seed=1)))
    assert [name for name in other.tensors if torch.equal(other.tensors[name], outcome.tensors[name])] == [CLASS_TABLE]
    checkpoint = of_kind(events, Checkpoint)[1].data
    _, resumed = run(named, plan, checkpoint)
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in outcome.tensors.items())
    with pytest.raises(CheckpointInvalid, match="other settings"):
        run(named, replace(plan, train_class_table=True), checkpoint)
    with pytest.raises(ValueError, match="no known embeddings of the classes dark, bright"):
        run(base, plan)


def test_image_size_other_than_the_two_supported_is_rejected(base: LoadedBase) -> None:
    with pytest.raises(ValueError, match="image sizes of 32 and 64 pixels"):
        run(base, replace(PLAN, image_size=48))


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_resumed_finetune_ends_with_the_same_adapter(base: LoadedBase, chosen: int) -> None:
    events, whole = run(base)
    checkpoint = of_kind(events, Checkpoint)[chosen]
    later, resumed = run(base, checkpoint=checkpoint.data)
    assert of_kind(later, Started)[0].step == checkpoint.step
    assert resumed.losses == whole.losses
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_stopped_finetune_continues_from_its_last_step(base: LoadedBase) -> None:
    _, whole = run(base)
    work = finetune(base, PLAN, images(), None)
    while not (isinstance(event := next(work), Progress) and event.step == 3):
        pass
    last = work.throw(EngineStopped())
    assert isinstance(last, Checkpoint)
    assert last.step == 3, "a step between two regular checkpoints"
    with pytest.raises(EngineStopped):
        next(work)
    later, resumed = run(base, checkpoint=last.data)
    assert of_kind(later, Started)[0].step == 3
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize(
    ("method", "sites"),
    [("lora", Lora(rank=2)), ("adaptformer", AdaptFormer()), ("vpt", Prompts(blocks=2)), ("full", Sites())],
)
def test_other_methods_are_trained_and_resumed_alike(base: LoadedBase, method: Method, sites: MethodSites) -> None:
    plan = replace(PLAN, method=method, sites=sites)
    events, whole = run(base, plan)
    shapes = trainable_shapes(CONFIG, method, sites, 2)
    assert {name: tuple(tensor.shape) for name, tensor in whole.tensors.items()} == shapes
    assert len(of_kind(events, Sample)) == 2
    checkpoint = of_kind(events, Checkpoint)[1]
    _, resumed = run(base, plan, checkpoint.data)
    assert resumed.losses == whole.losses
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
    others = AdaptFormer(bottleneck=2) if method == "adaptformer" else AdaptFormer()
    with pytest.raises(CheckpointInvalid, match="other settings"):
        run(base, replace(plan, method="adaptformer", sites=others), checkpoint.data)


def test_checkpoint_can_be_resumed_with_less_memory(base: LoadedBase) -> None:
    events, whole = run(base)
    parts = replace(PLAN, training=replace(PLAN.training, micro_batch_size=1))
    later, resumed = run(base, parts, of_kind(events, Checkpoint)[1].data)
    assert of_kind(later, Started)[0].step == 4
    assert resumed.losses["adapter"] == pytest.approx(whole.losses["adapter"], rel=1e-3)


def test_resumed_finetune_splits_its_batches_as_before(base: LoadedBase) -> None:
    """Although the device has more memory by then: other sums would be rounded differently."""
    parts = replace(PLAN, training=replace(PLAN.training, micro_batch_size=1))
    events, whole = run(base, parts)
    _, resumed = run(base, PLAN, of_kind(events, Checkpoint)[1].data)
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
    _, at_once = run(base, PLAN)
    assert not all(torch.equal(at_once.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_checkpoint_of_a_release_without_micro_batch_sizes_is_resumed(base: LoadedBase) -> None:
    events, whole = run(base)
    plan = PLAN.about(base.description.digest)
    state = unpack(of_kind(events, Checkpoint)[1].data, plan, ABOUT_DEFAULTS)
    del state[MICRO_BATCH]
    _, resumed = run(base, PLAN, pack(state, plan))
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize(
    "change",
    [
        {"training": replace(PLAN.training, learning_rate=1e-4)},
        {"dataset_digest": "another"},
        {"class_names": ("bright", "dark")},
        {"method": "bitfit"},
        {"sites": PRESETS["literal"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_checkpoint_of_another_plan_is_rejected(base: LoadedBase, change: dict[str, Any]) -> None:
    checkpoint = of_kind(run(base)[0], Checkpoint)[0]
    with pytest.raises(CheckpointInvalid, match="other settings"):
        run(base, replace(PLAN, **change), checkpoint.data)


def test_checkpoint_of_another_base_is_rejected(base: LoadedBase) -> None:
    checkpoint = of_kind(run(base)[0], Checkpoint)[0]
    other = replace(base, description=replace(base.description, digest="another"))
    with pytest.raises(CheckpointInvalid, match="other settings"):
        run(other, PLAN, checkpoint.data)


def test_class_named_as_in_the_base_starts_from_its_embedding(base: LoadedBase) -> None:
    named = replace(base, description=replace(base.description, class_names=("dim", "bright", "grey", "red", "blue")))
    _, outcome = run(named, replace(PLAN, training=replace(PLAN.training, steps=1, learning_rate=1e-9)))
    rows, base_rows = outcome.tensors[CLASS_TABLE], base.dit.y_embedder.embedding_table.weight
    assert torch.allclose(rows[1], base_rows[1], atol=1e-7)
    assert not torch.allclose(rows[0], base_rows[0], atol=1e-2)


def test_finetune_can_be_closed_in_the_middle(base: LoadedBase) -> None:
    work = finetune(base, PLAN, images())
    for _ in range(5):
        next(work)
    work.close()
    with pytest.raises(StopIteration):
        next(work)


def continuing(outcome: Outcome, *class_names: str) -> StartingPoint:
    return StartingPoint("a" * 64, outcome.tensors, class_names, outcome.adapter_step)


def test_continued_finetune_starts_with_the_adapter_and_matches_classes_by_name(base: LoadedBase) -> None:
    _, first = run(base)
    start = continuing(first, *PLAN.class_names)
    still = replace(PLAN.training, steps=1, learning_rate=1e-12)
    _, same = run(base, replace(PLAN, start=start, training=still))
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(same.tensors[name], tensor, rtol=0, atol=1e-9)
    other = replace(PLAN, class_names=("bright", "strange"), start=start, training=still)
    _, renamed = run(base, other)
    _, fresh = run(base, replace(other, start=None))
    rows = torch.stack([first.tensors[CLASS_TABLE][1], fresh.tensors[CLASS_TABLE][1], first.tensors[CLASS_TABLE][2]])
    torch.testing.assert_close(renamed.tensors[CLASS_TABLE], rows, rtol=0, atol=1e-9)


def test_frozen_class_table_of_a_continued_finetune_holds_the_rows_of_the_adapter(base: LoadedBase) -> None:
    _, first = run(base)
    _, frozen = run(base, replace(PLAN, start=continuing(first, *PLAN.class_names), train_class_table=False))
    assert torch.equal(frozen.tensors[CLASS_TABLE], first.tensors[CLASS_TABLE])


def test_continued_finetune_is_recorded_and_resumes_only_its_own_checkpoints(base: LoadedBase) -> None:
    _, first = run(base)
    plan = replace(PLAN, start=continuing(first, *PLAN.class_names))
    events, whole = run(base, plan)
    assert plan.manifest(base.description).training["continues"] == "a" * 64
    assert "continues" not in PLAN.manifest(base.description).training
    checkpoint = of_kind(events, Checkpoint)[1].data
    _, resumed = run(base, plan, checkpoint)
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in whole.tensors.items())
    with pytest.raises(CheckpointInvalid, match="other settings"):
        run(base, PLAN, checkpoint)


def test_continued_training_loses_nothing_against_training_at_once(base: LoadedBase) -> None:
    def loss(steps: int, seed: int, start: StartingPoint | None = None) -> tuple[float, Outcome]:
        training = TrainingSettings(steps=steps, batch_size=8, held_out_fraction=0.2, seed=seed, ema_decay=0.9)
        _, outcome = run(base, replace(PLAN, training=training, start=start, samples_every=1000))
        return outcome.losses["adapter"], outcome

    at_once = [loss(40, seed)[0] for seed in range(3)]
    halves = [loss(20, seed) for seed in range(3)]
    continued = [loss(20, seed, continuing(half, *PLAN.class_names))[0] for seed, (_, half) in enumerate(halves)]
    assert max(continued) <= max(at_once)
    assert max(continued) < min(half for half, _ in halves)


def test_long_training_before_does_not_hold_a_continued_average_back(base: LoadedBase) -> None:
    _, first = run(base)
    start = replace(continuing(first, *PLAN.class_names), steps=100_000)
    _, outcome = run(base, replace(PLAN, start=start))
    _, alone = run(base, replace(PLAN, start=replace(start, steps=0)))
    moved, moved_alone = (
        sum(float((some.tensors[name] - first.tensors[name]).norm()) for name in first.tensors)
        for some in (outcome, alone)
    )
    assert moved > 0.5 * moved_alone
