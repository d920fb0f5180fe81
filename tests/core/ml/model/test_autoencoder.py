"""The autoencoder: latents in the transformer's scale, weights and settings identified by a digest."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from core.ml.errors import BaseMissing, CheckpointInvalid
from core.ml.model.autoencoder import Autoencoder
from tests.core.ml.model.small import autoencoder_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return autoencoder_folder(tmp_path / "vae")


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("scale", "shift"), [(0.18215, None), (0.5, 0.25)])
def test_latents_have_the_scale_of_the_transformer(folder: Path, scale: float, shift: float | None) -> None:
    edit_config(folder, scaling_factor=scale, shift_factor=shift)
    autoencoder = Autoencoder.load(folder)
    theirs = AutoencoderKL.from_pretrained(folder).eval()
    with torch.no_grad():
        posterior = theirs.encode(pixels()).latent_dist
        decoded = theirs.decode(posterior.mean).sample
    mean, deviation = autoencoder.encode(pixels())
    torch.testing.assert_close(mean, (posterior.mean - (shift or 0)) * scale)
    torch.testing.assert_close(deviation, posterior.std * scale)
    torch.testing.assert_close(autoencoder.decode(mean), decoded, rtol=1e-4, atol=1e-5)
    assert (autoencoder.factor, mean.shape) == (4, (2, 4, 8, 8))


def test_autoencoder_has_no_gradients(folder: Path) -> None:
    autoencoder = Autoencoder.load(folder)
    assert not autoencoder.network.training
    assert not autoencoder.decode(torch.zeros(1, 4, 8, 8)).requires_grad
    assert not any(parameter.requires_grad for parameter in autoencoder.network.parameters())


def test_saving_in_half_precision_leaves_the_loaded_autoencoder_unchanged(folder: Path, tmp_path: Path) -> None:
    autoencoder = Autoencoder.load(folder)
    before = autoencoder.encode(pixels())[0]
    autoencoder.save(tmp_path / "half", torch.float16)
    assert torch.equal(autoencoder.encode(pixels())[0], before)
    half = Autoencoder.load(tmp_path / "half")
    assert half.digest != autoencoder.digest
    torch.testing.assert_close(half.encode(pixels())[0], before, rtol=0.01, atol=0.01)


def test_digest_covers_weights_and_settings_but_not_bookkeeping(folder: Path, tmp_path: Path) -> None:
    digest = Autoencoder.load(folder).digest
    edit_config(folder, _diffusers_version="99.0", sample_size=512, force_upcast=False, a_later_setting=None)
    assert Autoencoder.load(folder).digest == digest
    edit_config(folder, scaling_factor=0.2)
    assert Autoencoder.load(folder).digest != digest
    assert Autoencoder.load(autoencoder_folder(tmp_path / "other", seed=5)).digest != digest


def test_older_names_of_attention_tensors_give_the_same_digest(folder: Path) -> None:
    """The public autoencoders were written by an older diffusers."""
    digest = Autoencoder.load(folder).digest
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    file = folder / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, tensor in load_file(file).items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor.clone()
    assert any("query" in name for name in renamed)
    save_file(renamed, file)
    assert Autoencoder.load(folder).digest == digest


def test_missing_and_extra_tensors_are_rejected(folder: Path) -> None:
    file = folder / "diffusion_pytorch_model.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(file).items()}
    save_file({"more": torch.ones(1), **state}, file)
    with pytest.raises(CheckpointInvalid, match=r"unexpected_keys: \['more'\]"):
        Autoencoder.load(folder)
    del state["decoder.conv_out.weight"]
    save_file(state, file)
    with pytest.raises(CheckpointInvalid, match=r"missing_keys: \['decoder.conv_out.weight'\]"):
        Autoencoder.load(folder)


@pytest.mark.parametrize("damage", ["no folder", "no weights", "no config", "cut weights", "another model"])
def test_incomplete_or_damaged_folders_are_rejected(folder: Path, damage: str) -> None:
    weights = folder / "diffusion_pytorch_model.safetensors"
    match damage:
        case "no folder":
            folder = folder / "elsewhere"
        case "no weights":
            weights.unlink()
        case "no config":
            (folder / "config.json").unlink()
        case "cut weights":
            weights.write_bytes(weights.read_bytes()[:1000])
        case "another model":
            edit_config(folder, block_out_channels=[8, 16, 16])
    with pytest.raises((BaseMissing, CheckpointInvalid)):
        Autoencoder.load(folder)
