"""DiffFit + ControlNet on small networks of diffusers, and the small comparison to its end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.controlnet import smoke
from benchmarks.controlnet.adapter import ControlNetAdapter, Method
from benchmarks.controlnet.bench import BEST, HINT_WIDTHS, NO_HINT
from benchmarks.controlnet.counts import counts
from benchmarks.controlnet.edges import edge_f_scores, edge_maps
from benchmarks.controlnet.factors import Factors, factor_sites
from benchmarks.controlnet.loading import load_controlnet, load_unet, start_controlnet
from benchmarks.paper import controlnet
from core.ml.errors import CheckpointInvalid
from core.ml.evaluation.drawings import is_held_out
from core.ml.evaluation.yardsticks import Judges
from recipes import unet as recipe

METHODS: tuple[Method, ...] = ("full", "difffit", "lora")
CHANNELS, SIDE, PIXELS = 32, 8, 64


def small_unet(seed: int = 0, widths: tuple[int, int] = (16, 32)) -> Any:
    torch.manual_seed(seed)
    return recipe.small_unet(CHANNELS, SIDE, widths).eval().requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, CHANNELS, SIDE, SIDE, generator=generator)
    return x, torch.tensor([10, 900]), torch.randn(2, recipe.TOKENS, recipe.TOKEN_WIDTH, generator=generator)


def residuals(network: Any) -> list[Tensor]:
    hint = torch.rand(2, 1, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))
    down, middle = network(*inputs(), hint, return_dict=False)
    return [*down, middle]


def trained(method: Method, steps: int = 3) -> ControlNetAdapter:
    adapter = ControlNetAdapter(start_controlnet(small_unet(), HINT_WIDTHS, seed=0), method)
    optimizer = torch.optim.AdamW(adapter.trainables.values(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([(residual - 1).square().mean() for residual in residuals(adapter.network)]).sum().backward()
        optimizer.step()
    return adapter


def randomized(factors: Factors) -> None:
    generator = torch.Generator().manual_seed(2)
    for factor in factors.parameters.values():
        factor.data += 0.3 * torch.randn(factor.shape, generator=generator)


@torch.no_grad()
def test_factors_at_1_leave_the_output_of_a_unet_equal_bit_for_bit() -> None:
    unet = small_unet()
    before = unet(*inputs()).sample
    factors = Factors(unet)
    assert torch.equal(unet(*inputs()).sample, before)
    randomized(factors)
    assert not torch.allclose(unet(*inputs()).sample, before, atol=1e-3), "factors must reach the output"


@torch.no_grad()
def test_folded_unet_without_hooks_computes_what_its_factors_did() -> None:
    unet = small_unet()
    factors = Factors(unet)
    randomized(factors)
    expected = unet(*inputs()).sample
    factors.fold()
    plain = small_unet(seed=1)
    plain.load_state_dict(unet.state_dict())
    assert torch.allclose(plain(*inputs()).sample, expected, atol=1e-5)


def test_each_factor_changes_the_output() -> None:
    unet = small_unet()
    factors = Factors(unet)
    unet(*inputs()).sample.square().sum().backward()
    assert [name for name, factor in factors.parameters.items() if factor.grad is None or not factor.grad.any()] == []


@pytest.mark.parametrize("method", METHODS)
def test_controlnet_at_its_start_leaves_the_unet_unchanged(method: Method) -> None:
    assert not any(residual.any() for residual in residuals(trained(method, steps=0).network))


@pytest.mark.parametrize("method", METHODS)
def test_training_changes_all_trainables_and_no_frozen_weight(method: Method) -> None:
    start, end = trained(method, steps=0), trained(method)
    before = start.parameters | start.trainables
    now = end.parameters | end.trainables
    changed = {name for name, tensor in now.items() if not torch.equal(tensor, before[name])}
    assert changed == end.trainables.keys()


def test_trainables_of_difffit_are_those_that_are_counted() -> None:
    from diffusers import ControlNetModel

    with torch.device("meta"):
        network: Any = ControlNetModel(cross_attention_dim=768)
    expected = counts(network).trainable
    trainables = ControlNetAdapter(network, "difffit").trainables
    assert sum(tensor.numel() for tensor in trainables.values()) == expected == 12_442_784


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_saved_adapter_gives_the_same_output_on_a_fresh_controlnet(method: Method, tmp_path: Path) -> None:
    with torch.enable_grad():
        adapter = trained(method)
    adapter.save(tmp_path / "adapter.safetensors")
    fresh = start_controlnet(small_unet(), HINT_WIDTHS, seed=7)
    again = ControlNetAdapter.load(tmp_path / "adapter.safetensors", fresh)
    expected = residuals(adapter.network)
    assert any(residual.any() for residual in expected)
    assert all(torch.equal(a, b) for a, b in zip(residuals(again.network), expected, strict=True))


@torch.no_grad()
def test_folded_controlnet_is_a_plain_folder_of_diffusers(tmp_path: Path) -> None:
    unet = small_unet()
    with torch.enable_grad():
        adapter = trained("difffit")
    expected = residuals(adapter.network)
    assert adapter.factors is not None
    adapter.factors.fold()
    adapter.network.save_pretrained(tmp_path)
    loaded = load_controlnet(tmp_path, unet)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(residuals(loaded), expected, strict=True))


@pytest.mark.parametrize(
    ("unet", "message"),
    [
        (lambda: small_unet(seed=1), "other frozen weights"),
        (lambda: small_unet(widths=(32, 48)), "other shapes"),
    ],
)
def test_adapter_of_another_controlnet_is_refused(unet: Any, message: str, tmp_path: Path) -> None:
    trained("difffit", steps=1).save(tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointInvalid, match=message):
        ControlNetAdapter.load(tmp_path / "adapter.safetensors", start_controlnet(unet(), HINT_WIDTHS, seed=0))


def test_folders_of_a_unet_a_pipeline_and_a_controlnet_are_loaded(tmp_path: Path) -> None:
    unet = small_unet()
    unet.save_pretrained(tmp_path / "pipeline" / "unet")
    start_controlnet(unet, HINT_WIDTHS, seed=0).save_pretrained(tmp_path / "controlnet")
    for folder in (tmp_path / "pipeline", tmp_path / "pipeline" / "unet"):
        assert torch.equal(load_unet(folder)(*inputs()).sample, unet(*inputs()).sample)
    assert load_controlnet(tmp_path / "controlnet", unet).config.conditioning_channels == 1


def test_wrong_folders_are_refused_with_names(tmp_path: Path) -> None:
    unet = small_unet()
    unet.save_pretrained(tmp_path / "unet")
    start_controlnet(unet, HINT_WIDTHS, seed=0).save_pretrained(tmp_path / "controlnet")
    with pytest.raises(CheckpointInvalid, match="controlnet' is of ControlNetModel, not of UNet2DConditionModel"):
        load_unet(tmp_path / "controlnet")
    with pytest.raises(CheckpointInvalid, match="unet' is of UNet2DConditionModel, not of ControlNetModel"):
        load_controlnet(tmp_path / "unet", unet)
    with pytest.raises(CheckpointInvalid, match="missing' cannot be loaded as UNet2DConditionModel"):
        load_unet(tmp_path / "missing")
    with pytest.raises(CheckpointInvalid, match=r"its block_out_channels is \[16, 32\], the UNet's \(32, 48\)"):
        load_controlnet(tmp_path / "controlnet", small_unet(widths=(32, 48)))


def test_missing_and_unknown_tensors_are_refused_with_names(tmp_path: Path) -> None:
    small_unet().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_out.extra"] = tensors.pop("conv_out.bias")
    save_file(tensors, path)
    with pytest.raises(CheckpointInvalid, match=r"lacks conv_out\.bias .* and it has unknown conv_out\.extra"):
        load_unet(tmp_path)


def test_edges_of_a_square_are_its_outline() -> None:
    pixels = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    pixels[:, 1, 8:24, 8:24] = 0  # in one colour channel alone
    outline = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    outline[..., 8:24, 8:24] = True
    outline[..., 9:23, 9:23] = False
    edges = edge_maps(pixels)
    assert edge_f_scores(edges, outline).item() == pytest.approx(1)
    assert edges.sum() < 3 * outline.sum(), "edges must be thin"
    assert not edge_maps(torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)).any()


def test_f_score_tolerates_one_pixel_and_counts_both_kinds_of_errors() -> None:
    line = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    line[..., 4, :] = True
    two = line | line.roll(8, 2)
    wanted = [(line, line, 1.0), (line.roll(1, 2), line, 1.0), (line.roll(3, 2), line, 0.0), (two, line, 2 / 3),
              (line, two, 2 / 3), (torch.zeros_like(line), line, 0.0)]  # fmt: skip
    for edges, hint, score in wanted:
        assert edge_f_scores(edges, hint).item() == pytest.approx(score)


def test_factors_belong_to_branches_and_attention() -> None:
    kinds = {name.rpartition(".")[2] for name in factor_sites(small_unet())}
    assert kinds == {"branch", "query", "key", "value", "projection"}


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    """Folder with two classes of drawings, ten of them held out."""
    held_out = [name for number in range(100) if is_held_out(name := f"drawing-{number}")][:10]
    seen = [name for number in range(100) if not is_held_out(name := f"drawing-{number}")][:12]
    for label, colour in {"heart": (220, 20, 60), "tree": (30, 160, 60)}.items():
        (tmp_path / "drawings" / label).mkdir(parents=True)
        for place, name in enumerate([*held_out[:5], *seen[:6]] if label == "heart" else [*held_out[5:], *seen[6:]]):
            image = Image.new("RGB", (PIXELS, PIXELS), "white")
            image.paste(colour, (4 + 2 * place, 8, 36 + 2 * place, 50 - place))
            image.save(tmp_path / "drawings" / label / f"set--{name}.png")
    return tmp_path / "drawings"


def train_unet(drawings: Path, output: Path, steps: int) -> None:
    words = ["--drawings", drawings, "--output", output, "--steps", steps, "--decay-steps", 1]
    recipe.main([*map(str, words), "--batch-size=4", "--threads=1", "--widths", "16", "32"])


def test_training_of_the_unet_continues_after_an_interruption(drawings: Path, tmp_path: Path) -> None:
    train_unet(drawings, tmp_path / "whole", 4)
    for steps in (2, 4):
        train_unet(drawings, tmp_path / "parts", steps)
    for name in ("unet/diffusion_pytorch_model.safetensors", "prompts.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert (tmp_path / "whole" / "samples.png").is_file()


def test_small_comparison_runs_to_its_end_and_continues(
    drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_unet(drawings, tmp_path / "unet", 1)
    folders = {"unet": tmp_path / "unet", "drawings": drawings, "adapters": tmp_path / "adapters", "output": tmp_path}
    words = [*(f"--{name}={folder}" for name, folder in folders.items()), "--steps=2", "--batch-size=2"]
    words += ["--pictures=8", "--sampling-steps=1", "--threads=1"]
    monkeypatch.setattr(controlnet, "IN_GRID", 3)
    monkeypatch.setattr(Judges, "imagenet", None)  # its distances would take most of the time
    controlnet.main([*words, "--seeds=1"])
    controlnet.main([*words, "--seeds=2"])
    result = json.loads((tmp_path / "controlnet.json").read_text())
    names = ["no hint", "the drawings, encoded and decoded", *2 * [system.name for system in controlnet.SYSTEMS]]
    assert [cell["system"] for cell in result["cells"]] == names
    assert all(0 <= cell["edge F-score"] <= 1 for cell in result["cells"])
    text = (tmp_path / "controlnet.md").read_text()
    assert "**Full training does not follow its hints yet" in text, "after two steps"
    assert "DiffFit trains 12,442,784 (3.44%)" in text
    assert "--steps=2 --batch-size=2" in result["command"]
    with Image.open(tmp_path / "controlnet.png") as grid:
        assert grid.size[1] == 68, "one row of three hints"


def test_edge_scores_are_compared_only_if_full_training_follows_its_hints() -> None:
    full, difffit, _ = (system.name for system in controlnet.SYSTEMS)
    cells = [{"system": NO_HINT, "edge F-score": 0.4}, {"system": BEST, "edge F-score": 0.9}]
    following = [*cells, {"system": full, "edge F-score": 0.8}, {"system": difffit, "edge F-score": 0.76}]
    assert list(controlnet._comparison(following)) == [
        "Of the way from no hint to the drawings themselves: ControlNet 80%, ControlNet + DiffFit 72%.",
        "Edge F-score relative to full training: ControlNet + DiffFit 95%.",
    ]
    assert "do not compare" in list(controlnet._comparison([*cells, {"system": full, "edge F-score": 0.45}]))[-1]


def test_comparison_without_a_unet_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"recipes\.unet"):
        controlnet.main([f"--unet={tmp_path}"])


def test_step_of_the_smoke_test_keeps_frozen_weights_and_its_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = small_unet().bfloat16()
    unet.save_pretrained(tmp_path / "unet")
    from diffusers import ControlNetModel

    ControlNetModel.from_unet(unet).bfloat16().save_pretrained(tmp_path / "controlnet")
    monkeypatch.setattr(smoke, "SIDE", 8)
    words = ["--unet", tmp_path / "unet", "--controlnet", tmp_path / "controlnet", "--json", tmp_path / "figures.json"]
    smoke.main(list(map(str, words)))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < figures["trainable"] < figures["controlnet_parameters"]
