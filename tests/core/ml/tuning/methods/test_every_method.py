"""Properties of every method: it begins as the base, leaves the base unchanged, and can be stopped, stored and
loaded."""

from functools import partial

import pytest
import torch
from torch import Tensor

from core.artifact.base import BaseDescription
from core.artifact.errors import ArtifactInvalid
from core.artifact.file import check_against, check_fits, decode, encode
from core.artifact.manifest import Manifest
from core.artifact.sampling import SamplingSettings
from core.artifact.training import TrainingSettings
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.model.adapter import BASE
from core.ml.model.dit import DiT
from core.ml.model.export import domain_dit, fold_into_weights
from core.ml.tuning.checkpoint import pack, unpack
from core.ml.tuning.latents import Latents
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.trainer import Trainer
from tests.core.ml.model.small import CONFIG, batch, class_lookups, difference, random_dit
from tests.core.ml.tuning.methods.small import ADDING, METHODS, far, start
from tests.core.ml.tuning.test_trainer import Recorder

NULL = 3
DESCRIPTION = BaseDescription(name="small", digest="d", config=CONFIG, image_size=32, licence="MIT", parameters=1)


@pytest.fixture
def dit() -> DiT:
    return random_dit()


def trainer_of(dit: DiT, name: str) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 15, 4, 8, 8, generator=generator)
    latents = Latents(mean, torch.full_like(mean, 0.1), torch.arange(15) % NULL)
    settings = TrainingSettings(steps=6, batch_size=5)
    return Trainer(dit, start(dit, name, NULL), latents, settings, partial(adapter_of, METHODS[name][1]))


def different(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    assert actual.keys() == expected.keys()
    return [name for name, tensor in expected.items() if not torch.equal(actual[name], tensor)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fresh_adapter_is_bit_identical_to_the_base(dit: DiT, name: str, dtype: torch.dtype) -> None:
    """Expects a difference for VPT, whose prompts take attention from the start."""
    dit = dit.to(dtype)
    x, t, y = batch(classes=CONFIG.num_classes)
    output = dit(x, t, y, adapter_of(METHODS[name][1], start(dit, name)))
    assert output.dtype == dtype
    assert torch.equal(output, dit(x, t, y)) != (METHODS[name][0] == "vpt")


@pytest.mark.parametrize("name", METHODS)
def test_training_moves_every_trainable_and_leaves_the_base_unchanged(dit: DiT, name: str) -> None:
    before = {name: tensor.clone() for name, tensor in dit.state_dict().items()}
    output = dit(*batch())
    trainer = trainer_of(dit, name)
    start_tensors = {name: tensor.clone() for name, tensor in trainer.averaged.items()}
    for _ in range(3):
        trainer.step()
    assert different(dict(dit.state_dict()), before) == []
    assert torch.equal(dit(*batch()), output), "the base's output must not change"
    assert sorted(different(trainer.averaged, start_tensors)) == sorted(start_tensors)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_adapter_tensor_and_none_of_the_base(dit: DiT, name: str) -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in far(dit, name).items()}
    dit(*batch(), adapter_of(METHODS[name][1], tensors)).square().sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is None or not tensor.grad.any()] == []
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in dit.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_labels_are_dropped_once_per_sample(dit: DiT, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that a forward looks up the class table once, with the trainer's labels, some of them dropped. Random
    numbers come from the trainer's own generator."""
    labels = Recorder(monkeypatch).labels
    lookups = class_lookups(monkeypatch)
    trainer = trainer_of(dit, name)
    global_state = torch.get_rng_state()
    for _ in range(6):
        trainer.step()
    assert torch.equal(torch.get_rng_state(), global_state)
    assert len(lookups) == len(labels) == 6
    assert all(torch.equal(looked_up, expected) for looked_up, expected in zip(lookups, labels, strict=True))
    assert 0 < (torch.cat(lookups) == NULL).sum() < 15


@pytest.mark.parametrize("name", METHODS)
def test_resumed_run_is_bit_identical_to_an_uninterrupted_run(dit: DiT, name: str) -> None:
    whole, first, second = (trainer_of(dit, name) for _ in range(3))
    reports = [whole.step() for _ in range(6)]
    first_reports = [first.step() for _ in range(2)]
    second.restore(unpack(pack(first.state(), {}), {}))
    assert [*first_reports, *(second.step() for _ in range(4))] == reports
    assert different(second.state(), whole.state()) == []
    assert different(second.averaged, whole.averaged) == []


@pytest.mark.parametrize("name", METHODS)
def test_stored_adapter_loads_from_its_file_and_the_base_only(dit: DiT, name: str) -> None:
    """Loads the adapter from the file's bytes and the base alone, and generates images with it."""
    method, sites = METHODS[name]
    tensors = far(dit, name)
    manifest = Manifest(
        method=method,
        preset=None,
        sites=sites,
        class_names=("a", "b", "c"),
        base_name=DESCRIPTION.name,
        base_digest=DESCRIPTION.digest,
        base_licence=DESCRIPTION.licence,
        dataset_digest="d2",
        training=TrainingSettings(steps=1).to_json(),
    )
    artifact = decode(encode(manifest, {name: tensor.numpy() for name, tensor in tensors.items()}))
    assert artifact.manifest == manifest
    check_fits(artifact, DESCRIPTION)
    loaded = {name: torch.from_numpy(array) for name, array in artifact.tensors.items()}
    adapter, expected = adapter_of(artifact.manifest.sites, loaded), adapter_of(sites, tensors)
    assert torch.equal(dit(*batch(), adapter), dit(*batch(), expected))
    images, base_images = (
        sample(
            lambda x, t, y: dit(x, t, y, chosen),  # noqa: B023
            seeded_noise([0, 1], (4, 8, 8)),
            torch.tensor([0, 2]),
            NULL,
            SamplingSettings(steps=3, guidance_scale=2.0),
            channels=3,
        )
        for chosen in (adapter, BASE)
    )
    assert images.isfinite().all()
    assert not torch.allclose(images, base_images)


@pytest.mark.parametrize("name", METHODS)
def test_method_that_cannot_be_served_is_rejected_with_the_served_ones(dit: DiT, name: str) -> None:
    method, sites = METHODS[name]
    manifest = Manifest(
        method=method,
        preset=None,
        sites=sites,
        class_names=("a", "b", "c"),
        base_name=DESCRIPTION.name,
        base_digest=DESCRIPTION.digest,
        base_licence=DESCRIPTION.licence,
        dataset_digest="d2",
        training={},
    )
    artifact = decode(encode(manifest, {name: tensor.numpy() for name, tensor in far(dit, name).items()}))
    if method in ("difffit", "bitfit"):
        check_against(artifact, DESCRIPTION)
        return
    with pytest.raises(ArtifactInvalid, match=f"'{method}' cannot be served: .* for the methods difffit and bitfit"):
        check_against(artifact, DESCRIPTION)


@pytest.mark.parametrize("name", ADDING)
def test_every_tensor_of_an_adapter_changes_the_output(name: str) -> None:
    """Changes one tensor at a time."""
    dit = random_dit(dtype=torch.float64)
    tensors, sites = far(dit, name), METHODS[name][1]
    expected = dit(*batch(), adapter_of(sites, tensors))
    for tensor_name, tensor in tensors.items():
        output = dit(*batch(), adapter_of(sites, tensors | {tensor_name: 0.5 - 1.5 * tensor}))
        assert not torch.allclose(output, expected, rtol=0, atol=1e-6), tensor_name


@pytest.mark.parametrize("name", METHODS)
def test_export_contains_the_whole_adapter_or_is_rejected(dit: DiT, name: str) -> None:
    tensors = far(dit, name)
    if name in ADDING:
        with pytest.raises(ValueError, match="does not fold into the weights"):
            fold_into_weights(dit, tensors)
        return
    expected = dit(*batch(), adapter_of(METHODS[name][1], tensors))
    assert difference(domain_dit(dit, tensors)(*batch()), expected) < 1e-5
