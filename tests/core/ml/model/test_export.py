"""A domain exported as plain weights, which compute what the base computes with the adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline, DiTTransformer2DModel

from benchmarks.baselines.diffusers_model import ddim
from core.artifact.base import BaseConfig
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import base_shapes
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.model.adapter import TensorAdapter
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.checkpoint import check_tensors, load_base, save_base
from core.ml.model.export import domain_dit, export_diffusers, export_pipeline, fold_into_weights
from tests.core.ml.model.small import (
    ADAPTERS,
    CONFIG,
    autoencoder_folder,
    batch,
    difference,
    fresh_tensors,
    random_dit,
    random_tensors,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ADAPTERS)
def test_folded_weights_equal_the_live_adapter(name: str) -> None:
    dit = random_dit(dtype=torch.float64)
    tensors = random_tensors(dit, name)
    x, t, y = batch(size=6)
    plain = domain_dit(dit, tensors)
    assert plain.config.num_classes == 3
    assert difference(plain(x, t, y), dit(x.double(), t, y, TensorAdapter(tensors))) < 1e-12


@pytest.mark.parametrize("name", ADAPTERS)
def test_fresh_adapter_folds_into_unchanged_weights(name: str) -> None:
    dit = random_dit()
    for tensor_name, tensor in fold_into_weights(dit, fresh_tensors(dit, name)).items():
        torch.testing.assert_close(tensor, dit.state_dict()[tensor_name], rtol=1e-6, atol=1e-6, msg=tensor_name)


def test_folding_changes_neither_the_base_nor_the_adapter() -> None:
    dit = random_dit()
    tensors = random_tensors(dit, "every site")
    before = {name: tensor.clone() for name, tensor in [*dit.state_dict().items(), *tensors.items()]}
    fold_into_weights(dit, tensors)
    after = {**dit.state_dict(), **tensors}
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_folded_weights_have_the_names_and_shapes_of_a_plain_model() -> None:
    dit = random_dit()
    state = fold_into_weights(dit, random_tensors(dit, "every site", num_classes=7))
    check_tensors("folded", state, base_shapes(BaseConfig(**{**CONFIG.to_json(), "num_classes": 7})))


def test_exported_domain_loads_as_a_base(tmp_path: Path) -> None:
    dit = random_dit()
    tensors = random_tensors(dit, "paper")
    autoencoder_folder(tmp_path / "vae")
    autoencoder = load_base(_saved(tmp_path, dit), device=CPU, dtype=torch.float32).autoencoder
    save_base(
        tmp_path / "domain",
        domain_dit(dit, tensors),
        autoencoder,
        name="domain",
        licence="unknown",
        class_names=["a", "b", "c"],
        dtype=torch.float32,
    )
    loaded = load_base(tmp_path / "domain", device=CPU, dtype=torch.float32)
    assert loaded.description.class_names == ("a", "b", "c")
    x, t, y = batch()
    assert difference(loaded.dit(x, t, y), dit(x, t, y, TensorAdapter(tensors))) < 1e-5


def test_diffusers_loads_a_domain_and_computes_the_same(tmp_path: Path) -> None:
    """Uses diffusers' timestep convention, the only one that its forward supports."""
    dit = random_dit(BaseConfig(**{**CONFIG.to_json(), "timestep_convention": "diffusers", "mlp_norm_eps": 1e-5}))
    tensors = random_tensors(dit, "every site")
    export_diffusers(domain_dit(dit, tensors), tmp_path)
    theirs = DiTTransformer2DModel.from_pretrained(tmp_path).eval()
    x, t, y = batch()
    with torch.no_grad():
        output = theirs(x, timestep=t, class_labels=y).sample
    assert difference(output, dit(x, t, y, TensorAdapter(tensors))) < 1e-5


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_diffusers_own_pipeline_draws_an_exported_domain_as_we_do(tmp_path: Path, guidance_scale: float) -> None:
    """Guides all channels, as the pipeline does. Its null label is 1000, for which the test puts that of the domain."""
    dit = random_dit(BaseConfig(**{**CONFIG.to_json(), "timestep_convention": "diffusers", "mlp_norm_eps": 1e-5}))
    tensors = random_tensors(dit, "every site")
    domain = domain_dit(dit, tensors)
    export_diffusers(domain, tmp_path / "domain")
    network = DiTTransformer2DModel.from_pretrained(tmp_path / "domain").eval()
    null = domain.config.num_classes
    network.register_forward_pre_hook(lambda _, args, named: (args, _with_null(named, null)), with_kwargs=True)
    coder = Autoencoder.load(autoencoder_folder(tmp_path / "vae"))
    pipeline: Any = DiTPipeline(network, coder.network, ddim())
    pipeline.set_progress_bar_config(disable=True)
    seeds, classes, steps = [10, 11], [1, 2], 4
    theirs = pipeline(
        class_labels=classes,
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        output_type="pt",
    ).images
    latents = sample(
        lambda x, t, y: dit(x, t, y, TensorAdapter(tensors)),
        seeded_noise(seeds, (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)),
        torch.tensor(classes),
        null,
        SamplingSettings(steps=steps, guidance_scale=guidance_scale),
        channels=CONFIG.in_channels,
    )
    ours = (coder.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert difference(theirs, ours) < 1e-3
    assert len(ours.unique()) > 10


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_pipeline_loads_an_exported_folder_and_draws_as_we_do(tmp_path: Path, guidance_scale: float) -> None:
    """Guides all channels, as the pipeline does."""
    dit = random_dit(BaseConfig(**{**CONFIG.to_json(), "timestep_convention": "diffusers", "mlp_norm_eps": 1e-5}))
    tensors = random_tensors(dit, "every site")
    coder = Autoencoder.load(autoencoder_folder(tmp_path / "vae"))
    export_pipeline(domain_dit(dit, tensors), coder, tmp_path / "domain", ["cat", "größer", "dog"])
    pipeline: Any = DiTPipeline.from_pretrained(tmp_path / "domain")
    pipeline.set_progress_bar_config(disable=True)
    seeds, steps = [10, 11], 4
    theirs = pipeline(
        class_labels=pipeline.get_label_ids(["größer", "dog"]),
        guidance_scale=guidance_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        output_type="pt",
    ).images
    latents = sample(
        lambda x, t, y: dit(x, t, y, TensorAdapter(tensors)),
        seeded_noise(seeds, (CONFIG.in_channels, CONFIG.input_size, CONFIG.input_size)),
        torch.tensor([1, 2]),
        3,
        SamplingSettings(steps=steps, guidance_scale=guidance_scale),
        channels=CONFIG.in_channels,
    )
    ours = (coder.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert difference(theirs, ours) < 1e-3
    assert len(ours.unique()) > 10


def test_pipeline_takes_at_most_a_thousand_classes(tmp_path: Path) -> None:
    dit = random_dit()
    tensors = random_tensors(dit, "paper", num_classes=1001)
    coder = Autoencoder.load(autoencoder_folder(tmp_path / "vae"))
    with pytest.raises(ValueError, match="at most 1,000 classes"):
        export_pipeline(domain_dit(dit, tensors), coder, tmp_path / "domain", [])


def test_domain_of_twice_the_size_computes_the_same() -> None:
    dit = random_dit()
    tensors = random_tensors(dit, "paper")
    domain = domain_dit(dit, tensors, scale=2)
    assert (domain.config.input_size, domain.config.position_scale) == (16, 0.5)
    x = torch.randn(2, CONFIG.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    t, y = torch.tensor([10, 900]), torch.tensor([0, 2])
    assert difference(domain(x, t, y), dit(x, t, y, TensorAdapter(tensors))) < 1e-5


def test_position_scale_cannot_be_exported_to_diffusers(tmp_path: Path) -> None:
    dit = random_dit(BaseConfig(**{**CONFIG.to_json(), "position_scale": 0.5}))
    with pytest.raises(ValueError, match="no position scale"):
        export_diffusers(dit, tmp_path)


def _saved(folder: Path, dit: torch.nn.Module) -> Path:
    """Completes a folder in diffusers' format; its transformer does not matter."""
    export_diffusers(random_dit(), folder / "transformer")
    return folder


def _with_null(named: dict[str, Any], null: int) -> dict[str, Any]:
    return named | {"class_labels": named["class_labels"].clamp(max=null)}
