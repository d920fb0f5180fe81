"""The recipes of the bundled base, on a few small drawings."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.ml.model.autoencoder import Autoencoder
from core.ml.tuning.parallel import ALONE
from recipes import autoencoder, base
from recipes.fast import Muon

RATE = 0.01
COLOURS = {"heart": (220, 20, 60), "tree": (30, 160, 60)}


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    """Folder with two classes of eleven flat drawings each; one drawing in each class is held out."""
    folder = tmp_path / "drawings"
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True)
        names = [f"{number:04}" for number in range(10)]
        held_out = next(name for number in range(1000) if autoencoder.is_held_out(Path(name := f"set--{number:04}")))
        for place, name in enumerate([held_out, *(f"set--{name}" for name in names)]):
            image = Image.new("RGB", (64, 64), "white")
            image.paste(colour, (4 + place, 8, 40 + place, 50))
            image.save(folder / label / f"{name}.png")
    return folder


def train_base(monkeypatch: pytest.MonkeyPatch, drawings: Path, output: Path, *options: str) -> None:
    words = ["--drawings", drawings, "--output", output, "--batch-size", 4, "--copies", 1, "--threads", 1, *options]
    monkeypatch.setattr(sys, "argv", ["base", *map(str, words)])
    monkeypatch.setattr(torch, "compile", lambda function: function)  # compiling would take a minute
    base.main()


def test_training_of_the_base_continues_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch, drawings: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_base(monkeypatch, drawings, whole, "--steps", "5", "--decay-steps", "1")
    for steps in ("3", "5"):
        train_base(monkeypatch, drawings, parts, "--steps", steps, "--decay-steps", "1")
    for name, tensor in load_file(whole / "mini" / "transformer.safetensors").items():
        assert torch.equal(tensor, load_file(parts / "mini" / "transformer.safetensors")[name]), name


def test_the_autoencoder_is_written_with_its_figures(
    monkeypatch: pytest.MonkeyPatch, drawings: Path, tmp_path: Path
) -> None:
    output = tmp_path / "vae"
    words = ["--drawings", drawings, "--openmoji", drawings, "--output", output, "--steps", 3, "--batch-size", 2]
    monkeypatch.setattr(sys, "argv", ["autoencoder", *map(str, words), "--threads", "1"])
    autoencoder.main()
    figures = json.loads((output / "figures.json").read_text())
    assert figures["steps"] == 3
    assert figures["psnr_held_out"] > 0
    assert Autoencoder.load(output).latent_channels == autoencoder.LATENT_CHANNELS
    assert (output / "reconstructions.png").is_file()


def test_muon_gives_matrices_of_blocks_orthogonal_updates_and_other_tensors_adams() -> None:
    shapes = {"blocks.0.mlp.fc1.weight": (24, 8), "blocks.0.mlp.fc1.bias": (24,)}
    parameters = torch.nn.Parameter(torch.zeros(24 * 8 + 24))
    optimizer = Muon(parameters, shapes, RATE, ALONE)
    parameters.grad = torch.randn(parameters.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    matrix, bias = parameters.data.split([24 * 8, 24])
    values = torch.linalg.svdvals(matrix.view(24, 8)) / (RATE * 0.2 * 24**0.5)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert torch.allclose(bias, -RATE * parameters.grad[-24:].sign(), rtol=1e-3)
