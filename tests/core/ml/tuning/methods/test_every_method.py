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


def different(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    assert found.keys() == expected.keys()
    return [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_begins_as_the_base_bit_for_bit(dit: DiT, name: str, dtype: torch.dtype) -> None:
    """Excludes VPT, whose prompts take attention from the start."""
    dit = dit.to(dtype)
    x, t, y = batch(classes=CONFIG.num_classes)
    found = dit(x, t, y, adapter_of(METHODS[name][1], start(dit, name)))
    assert found.dtype == dtype
    assert torch.equal(found, dit(x, t, y)) != (METHODS[name][0] == "vpt")


@pytest.mark.parametrize("name", METHODS)
def test_training_leaves_the_base_as_it_is_and_moves_every_trainable(dit: DiT, name: str) -> None:
    before = {name: tensor.clone() for name, tensor in dit.state_dict().items()}
    drawn = dit(*batch())
    trainer = trainer_of(dit, name)
    begun = trainer.tensors()
    for _ in range(3):
        trainer.step()
    assert different(dict(dit.state_dict()), before) == []
    assert torch.equal(dit(*batch()), drawn), "the base itself, after an adapter was asked"
    assert sorted(different(trainer.tensors(), begun)) == sorted(begun)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_its_tensors_and_none_of_the_base(dit: DiT, name: str) -> None:
    tensors = {name: tensor.requires_grad_() for name, tensor in far(dit, name).items()}
    dit(*batch(), adapter_of(METHODS[name][1], tensors)).square().sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is None or not tensor.grad.any()] == []
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in dit.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_labels_are_drawn_once_a_sample(dit: DiT, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that a forward looks up the class table once, with the trainer's labels, some of them dropped. Random
    numbers come from the trainer's own generator."""
    given = Recorder(monkeypatch).labels
    asked = class_lookups(monkeypatch)
    trainer = trainer_of(dit, name)
    global_state = torch.get_rng_state()
    for _ in range(6):
        trainer.step()
    assert torch.equal(torch.get_rng_state(), global_state)
    assert len(asked) == len(given) == 6
    assert all(torch.equal(found, expected) for found, expected in zip(asked, given, strict=True))
    assert 0 < (torch.cat(asked) == NULL).sum() < 15


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_is_bit_equal_to_one_that_was_not_stopped(dit: DiT, name: str) -> None:
    whole, first, second = (trainer_of(dit, name) for _ in range(3))
    reports = [whole.step() for _ in range(6)]
    begun = [first.step() for _ in range(2)]
    second.restore(unpack(pack(first.state(), {}), {}))
    assert [*begun, *(second.step() for _ in range(4))] == reports
    assert different(second.state(), whole.state()) == []
    assert different(second.tensors(), whole.tensors()) == []


@pytest.mark.parametrize("name", METHODS)
def test_a_stored_adapter_is_loaded_alone(dit: DiT, name: str) -> None:
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
    drawn, of_base = (
        sample(
            lambda x, t, y: dit(x, t, y, one),  # noqa: B023
            seeded_noise([0, 1], (4, 8, 8)),
            torch.tensor([0, 2]),
            NULL,
            SamplingSettings(steps=3, guidance_scale=2.0),
            channels=3,
        )
        for one in (adapter, BASE)
    )
    assert drawn.isfinite().all()
    assert not torch.allclose(drawn, of_base)


@pytest.mark.parametrize("name", METHODS)
def test_the_engine_refuses_what_it_cannot_serve_and_says_so(dit: DiT, name: str) -> None:
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
def test_every_tensor_of_it_counts(name: str) -> None:
    """Moving one tensor of an adapter moves the output."""
    dit = random_dit(dtype=torch.float64)
    tensors, sites = far(dit, name), METHODS[name][1]
    expected = dit(*batch(), adapter_of(sites, tensors))
    for tensor_name, tensor in tensors.items():
        found = dit(*batch(), adapter_of(sites, tensors | {tensor_name: 0.5 - 1.5 * tensor}))
        assert not torch.allclose(found, expected, rtol=0, atol=1e-6), tensor_name


@pytest.mark.parametrize("name", METHODS)
def test_an_export_holds_all_of_it_or_is_refused(dit: DiT, name: str) -> None:
    tensors = far(dit, name)
    if name in ADDING:
        with pytest.raises(ValueError, match="does not fold into the weights"):
            fold_into_weights(dit, tensors)
        return
    expected = dit(*batch(), adapter_of(METHODS[name][1], tensors))
    assert difference(domain_dit(dit, tensors)(*batch()), expected) < 1e-5
