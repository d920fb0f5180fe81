"""Bases on disk, in each format, whole and damaged."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from core.artifact.base import BaseConfig
from core.ml.errors import BaseMissing, CheckpointInvalid
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.checkpoint import LoadedBase, load_base, save_base
from core.ml.model.diffusers_format import to_diffusers
from core.ml.model.dit import DiT, position_table
from core.ml.model.export import export_diffusers
from tests.core.ml.model.small import autoencoder_folder, batch, random_dit

CPU = torch.device("cpu")
CONFIG = BaseConfig(input_size=8, hidden_size=384, depth=2, num_heads=6, num_classes=5)
"""Base as wide as the smallest DiT: the original's format derives the number of heads from the width alone."""
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def dit() -> DiT:
    return random_dit(CONFIG)


@pytest.fixture(scope="module")
def masters(dit: DiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the same weights in every format: `diffusers/`, `own/` and `original.pt`, with `diffusers/vae` for all."""
    folder = tmp_path_factory.mktemp("bases")
    autoencoder_folder(folder / "diffusers" / "vae")
    export_diffusers(dit, folder / "diffusers" / "transformer")
    labels = {str(id): f"name {id}, another name" for id in range(CONFIG.num_classes)}
    (folder / "diffusers" / "model_index.json").write_text(json.dumps({"id2label": labels}))
    torch.save({**dit.state_dict(), "pos_embed": position_table(CONFIG)}, folder / "original.pt")
    autoencoder = Autoencoder.load(folder / "diffusers" / "vae")
    names = [f"name {id}" for id in range(CONFIG.num_classes)]
    save_base(folder / "own", dit, autoencoder, name="own", licence="MIT", class_names=names, dtype=torch.float32)
    shutil.copytree(folder / "diffusers" / "vae", folder / "own" / "vae", dirs_exist_ok=True)
    return folder


@pytest.fixture
def bases(masters: Path, tmp_path: Path) -> Path:
    """Returns a copy that a test may damage."""
    return shutil.copytree(masters, tmp_path / "bases")


def load(path: Path, **options: Any) -> LoadedBase:
    return load_base(path, device=CPU, dtype=torch.float32, **options)


def test_every_format_loads_the_same_base(bases: Path, dit: DiT) -> None:
    loaded = [
        load(bases / "diffusers"),
        load(bases / "diffusers" / "transformer", autoencoder=bases / "diffusers" / "vae"),
        load(bases / "original.pt", autoencoder=bases / "diffusers" / "vae"),
        load(bases / "own"),
    ]
    assert len({base.description.digest for base in loaded}) == 1
    assert {base.description.config for base in loaded} == {CONFIG}
    x, t, y = batch(CONFIG)
    for base in loaded:
        assert torch.equal(base.dit(x, t, y), dit(x, t, y))


def test_description_has_name_licence_size_and_classes(bases: Path) -> None:
    own, diffusers = load(bases / "own").description, load(bases / "diffusers").description
    assert (own.name, own.licence, own.image_size) == ("own", "MIT", 32)
    assert own.class_names == diffusers.class_names == tuple(f"name {id}" for id in range(5))
    assert (diffusers.name, diffusers.licence) == ("diffusers", "unknown")
    assert own.parameters == sum(parameter.numel() for parameter in DiT(CONFIG).parameters())


def test_class_names_are_distinct_although_labels_repeat(bases: Path) -> None:
    labels = ["crane", "maillot", "maillot, tank suit", "fox, red fox", "crane"]
    _edit(bases / "diffusers" / "model_index.json", id2label=dict(enumerate(labels)))
    _edit(bases / "own" / "base.json", class_names=["a", "b", "a", "c", "d"])
    diffusers, own = (load(bases / name).description for name in ("diffusers", "own"))
    assert diffusers.class_names == ("crane (0)", "maillot", "maillot, tank suit", "fox", "crane (4)")
    assert own.class_names == ("a (0)", "b", "a (2)", "c", "d")
    for base in (diffusers, own):
        assert base.labels_of(base.class_names) == {label: label for label in range(5)}
    assert diffusers.labels_of(["crane", "fox"]) == {1: 3}, "which crane is meant is not known"


def test_licence_of_the_public_weights_follows_from_their_name(bases: Path) -> None:
    public = (bases / "diffusers").rename(bases / "DiT-XL-2-256")
    assert load(public).description.licence == "CC-BY-NC-4.0"


def test_bundled_base_loads_by_name() -> None:
    loaded = load_base("mini", device=CPU, dtype=torch.float32)
    description = loaded.description
    assert (description.name, description.image_size) == ("mini", 64)
    assert len(set(description.class_names)) == description.config.num_classes
    assert loaded.autoencoder.decode(torch.zeros(1, *batch(description.config)[0].shape[1:])).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("field", ["name", "licence"])
def test_base_whose_name_or_licence_no_manifest_can_hold_is_rejected(bases: Path, field: str) -> None:
    _edit(bases / "own" / "base.json", **{field: "two\nlines"})
    with pytest.raises(CheckpointInvalid, match="not one line of text"):
        load(bases / "own")


@pytest.mark.parametrize("name", ["own", "diffusers", "original.pt"])
def test_base_without_learned_variance_is_rejected(bases: Path, dit: DiT, name: str) -> None:
    """Since no sampler and no training step works with it. In each format, with half of the output channels."""
    folder, config = bases / "diffusers" / "transformer", replace(CONFIG, learn_sigma=False)
    half = {
        name: tensor.chunk(2)[0].contiguous() if name.startswith("final_layer.linear.") else tensor
        for name, tensor in dit.state_dict().items()
    }
    torch.save(half, bases / "original.pt")
    save_file(half, bases / "own" / "transformer.safetensors")
    renamed = to_diffusers(half, config)
    save_file({key: tensor.clone() for key, tensor in renamed.items()}, folder / WEIGHTS)  # not shared between blocks
    _edit(bases / "own" / "base.json", config=config.to_json())
    _edit(folder / "config.json", out_channels=CONFIG.in_channels)
    with pytest.raises(CheckpointInvalid, match="predicts no variance"):
        load(bases / name, autoencoder=bases / "diffusers" / "vae")


@pytest.mark.parametrize("wrapped", [False, True])
def test_original_weights_load_bare_or_from_a_training_checkpoint(bases: Path, dit: DiT, wrapped: bool) -> None:
    file = bases / "training.pt"
    torch.save({"ema": dit.state_dict(), "model": {}} if wrapped else dit.state_dict(), file)
    loaded = load(file, autoencoder=bases / "diffusers" / "vae")
    # Without its table of positions, the original is assumed to be for 32x32 latents.
    assert loaded.description.config == replace(CONFIG, input_size=32)


def test_base_loads_in_the_requested_dtype_without_gradients(bases: Path) -> None:
    loaded = load_base(bases / "own", device=CPU, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.dit.parameters()} == {torch.bfloat16}
    assert loaded.dit.positions.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in loaded.dit.parameters())
    assert loaded.description.digest == load(bases / "own").description.digest


def test_base_stored_in_bf16_has_another_digest(bases: Path, dit: DiT) -> None:
    autoencoder = Autoencoder.load(bases / "diffusers" / "vae")
    target = bases / "half"
    save_base(target, dit, autoencoder, name="half", licence="MIT", class_names=[], dtype=torch.bfloat16)
    assert (target / "transformer.safetensors").stat().st_size < 0.6 * (bases / "original.pt").stat().st_size
    half = load(target)
    assert half.description.digest != load(bases / "own").description.digest
    expected = dit.x_embedder.proj.weight.bfloat16().float()
    assert torch.equal(half.dit.x_embedder.proj.weight, expected)


def test_autoencoder_saved_in_fp32_loses_no_digits(bases: Path, dit: DiT) -> None:
    autoencoder = Autoencoder.load(bases / "diffusers" / "vae")
    for dtype, is_same in ((torch.float16, False), (torch.float32, True)):
        target = bases / str(dtype)
        save_base(
            target,
            dit,
            autoencoder,
            name="own",
            licence="MIT",
            class_names=[],
            dtype=torch.float32,
            autoencoder_dtype=dtype,
        )
        assert (load(target).autoencoder.digest == autoencoder.digest) is is_same


def test_older_weight_files_of_diffusers_are_read(bases: Path) -> None:
    expected = load(bases / "diffusers").description.digest
    folder = bases / "diffusers" / "transformer"
    state = load_file(folder / WEIGHTS)
    torch.save({name: tensor.clone() for name, tensor in state.items()}, folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert load(bases / "diffusers").description.digest == expected


def test_weights_in_several_files_are_read_and_other_variants_ignored(bases: Path) -> None:
    expected = load(bases / "diffusers").description.digest
    folder = bases / "diffusers" / "transformer"
    state = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file({name: tensor * 2 for name, tensor in state.items()}, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert load(bases / "diffusers").description.digest == expected
    names = sorted(state)
    for part, subset in enumerate([names[::2], names[1::2]], start=1):
        save_file(
            {name: state[name] for name in subset}, folder / f"diffusion_pytorch_model-{part:05}-of-00002.safetensors"
        )
    (folder / WEIGHTS).unlink()
    assert load(bases / "diffusers").description.digest == expected


def test_convention_of_diffusers_is_used_only_on_request(bases: Path) -> None:
    ours, theirs = load(bases / "diffusers"), load(bases / "diffusers", timestep_convention="diffusers")
    assert (ours.dit.config.timestep_convention, ours.dit.config.mlp_norm_eps) == ("dit", 1e-6)
    assert (theirs.dit.config.timestep_convention, theirs.dit.config.mlp_norm_eps) == ("diffusers", 1e-5)
    assert ours.description.digest != theirs.description.digest


def test_hub_id_is_loaded_from_the_cache(bases: Path, hub_cache: Path) -> None:
    repository = hub_cache / "models--someone--DiT-XL-2-256"
    shutil.copytree(bases / "diffusers", repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    loaded = load_base("someone/DiT-XL-2-256", device=CPU, dtype=torch.float32)
    assert (loaded.description.name, loaded.description.licence) == ("someone/DiT-XL-2-256", "CC-BY-NC-4.0")
    assert loaded.description.digest == load(bases / "diffusers").description.digest


def test_unreachable_hub_is_reported(hub_cache: Path) -> None:
    with pytest.raises(
        BaseMissing, match=r"'someone/elses' cannot be loaded: the hub did not return it .* DIFFFIT_BASE_MODEL"
    ):
        load_base("someone/elses", device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("reference", ["nowhere", "/nowhere/at/all", "nowhere/model.pt", "a/b/c"])
def test_missing_base_is_reported(reference: str) -> None:
    with pytest.raises(BaseMissing, match=f"'{reference}' cannot be loaded"):
        load_base(reference, device=CPU, dtype=torch.float32)


def test_folder_without_a_config_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BaseMissing, match=r"no config\.json"):
        load(tmp_path)


def test_missing_extra_and_misshaped_tensors_are_named(bases: Path) -> None:
    file = bases / "own" / "transformer.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(file).items()}
    del state["blocks.1.mlp.fc2.bias"]
    state["blocks.2.mlp.fc2.bias"] = torch.zeros(1)
    state["blocks.0.attn.qkv.bias"] = torch.zeros(3)
    state["blocks.0.attn.proj.bias"] = torch.zeros(384, dtype=torch.int32)
    save_file(state, file)
    with pytest.raises(CheckpointInvalid) as error:
        load(bases / "own")
    assert "missing: blocks.1.mlp.fc2.bias" in error.value.detail
    assert "not expected: blocks.2.mlp.fc2.bias" in error.value.detail
    assert "blocks.0.attn.qkv.bias is [3], not [1152]" in error.value.detail
    assert "blocks.0.attn.proj.bias is torch.int32" in error.value.detail


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


def _edit(file: Path, **fields: Any) -> None:
    """Changes fields of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def _rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(file, weights_only=True)
    torch.save(change(state), file)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "base.json is cut": ("own", lambda folder: (folder / "own/base.json").write_text("{")),
    "base.json is a list": ("own", lambda folder: (folder / "own/base.json").write_text("[]")),
    "base.json lacks a field": ("own", lambda folder: (folder / "own/base.json").write_text("{}")),
    "own weights are cut": ("own", lambda folder: (folder / "own/transformer.safetensors").write_bytes(b"123456789")),
    "config is cut": ("diffusers", lambda folder: (folder / "diffusers/transformer/config.json").write_text("{")),
    "config is empty": ("diffusers", lambda folder: (folder / "diffusers/transformer/config.json").write_text("{}")),
    "weights are cut": ("diffusers", lambda folder: (folder / "diffusers/transformer" / WEIGHTS).write_bytes(b"{}")),
    "another autoencoder": ("diffusers", lambda folder: autoencoder_folder(folder / "diffusers/vae", 6)),
    "original is cut": ("original.pt", lambda folder: (folder / "original.pt").write_bytes(b"PK\3\4")),
    "original is empty": ("original.pt", lambda folder: torch.save({}, folder / "original.pt")),
    "original is a list": ("original.pt", lambda folder: torch.save([1], folder / "original.pt")),
    "original runs code": ("original.pt", lambda folder: torch.save({"ema": _Evil()}, folder / "original.pt")),
    "original has other positions": (
        "original.pt",
        lambda folder: _rewrite(folder / "original.pt", lambda state: {**state, "pos_embed": state["pos_embed"] + 1}),
    ),
    "original of another width": (
        "original.pt",
        lambda folder: torch.save(random_dit(replace(CONFIG, hidden_size=96)).state_dict(), folder / "original.pt"),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_base_is_rejected_and_runs_no_code(bases: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(bases)
    reference, damage = DAMAGE[name]
    damage(bases)
    with pytest.raises(CheckpointInvalid):
        load(bases / reference, autoencoder=bases / "diffusers" / "vae")
    assert not (bases / "evil").exists()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns an empty cache and forbids access to the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"
