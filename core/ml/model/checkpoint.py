"""Reads and writes bases on disk: our own folder format, diffusers' folder or hub id, and the original DiT's `.pt`
file.

Tensors of every format are renamed to the original DiT's names, and checked by name and shape before the model is
built, so that equal weights have equal digests. Files are memory-mapped, so that they are not read twice.
"""

import json
import pickle
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.artifact.base import BaseConfig, BaseDescription, TimestepConvention, base_digest
from core.artifact.manifest import is_text
from core.artifact.sites import base_shapes, count
from core.ml.bundled import mini_base_folder
from core.ml.errors import BaseMissing, CheckpointInvalid
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.diffusers_format import config_from_diffusers, from_diffusers
from core.ml.model.dit import DiT, position_table
from core.ml.model.tensors import stored_tensor

PUBLIC_LICENCE = "CC-BY-NC-4.0"
"""Licence of the DiT weights that Meta published."""
_PUBLIC_AUTOENCODER = "stabilityai/sd-vae-ft-ema"
_HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Number of attention heads by hidden size in the DiT family. The original checkpoint does not store the number."""
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DIFFUSERS_MLP_NORM_EPS = 1e-5
"""Epsilon of the norm before the MLP in diffusers' forward; the original DiT uses 1e-6."""


@dataclass(frozen=True)
class LoadedBase:
    dit: DiT
    autoencoder: Autoencoder
    description: BaseDescription


@dataclass(frozen=True)
class _Source:
    """Parts of a base as read from disk, before they are checked."""

    name: str
    config: BaseConfig
    state: dict[str, Tensor]
    autoencoder: str | Path
    licence: str
    class_names: tuple[str, ...] = ()


def load_base(
    reference: str | Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    autoencoder: str | Path | None = None,
    timestep_convention: TimestepConvention | None = None,
) -> LoadedBase:
    """Loads a base: `mini`, a folder (ours or diffusers'), an original `.pt`, or a hub id.

    `autoencoder` is the folder or hub id of the autoencoder for a base that comes without one; `timestep_convention`
    overrides the base's own, which only a comparison with diffusers' forward needs.

    Raises BaseMissing if the base does not exist, CheckpointInvalid if it cannot be used.
    """
    source = _find(str(reference), autoencoder)
    if timestep_convention is not None:
        eps = _DIFFUSERS_MLP_NORM_EPS if timestep_convention == "diffusers" else source.config.norm_eps
        config = replace(source.config, timestep_convention=timestep_convention, mlp_norm_eps=eps)
        source = replace(source, config=config)
    if not (is_text(source.name) and is_text(source.licence)):  # every adapter's manifest will contain both
        raise CheckpointInvalid(f"The name or the licence of the base '{reference}' is not one line of text.")
    if not source.config.learn_sigma:
        raise CheckpointInvalid(
            f"The base '{source.name}' predicts no variance, which training and sampling need. Use a base with "
            f"{source.config.out_channels} output channels, twice its latent channels."
        )
    check_tensors(source.name, source.state, base_shapes(source.config))
    coder = Autoencoder.load(source.autoencoder, device=device)
    if coder.latent_channels != source.config.in_channels:
        channels = f"{coder.latent_channels} channels, the transformer takes {source.config.in_channels}"
        raise CheckpointInvalid(f"The autoencoder of the base '{source.name}' makes latents of {channels}.")
    digest = base_digest(
        source.config, (stored_tensor(name, tensor) for name, tensor in source.state.items()), coder.digest
    )
    description = BaseDescription(
        name=source.name,
        digest=digest,
        config=source.config,
        image_size=source.config.input_size * coder.factor,
        licence=source.licence,
        parameters=count(base_shapes(source.config)),
        class_names=_distinct(source.class_names),
    )
    return LoadedBase(assemble(source.config, source.state, device, dtype), coder, description)


def check_tensors(name: str, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks the tensors of the base `name`. Raises CheckpointInvalid with the names of missing, unexpected and
    misshaped tensors, and of tensors with an unsupported dtype."""
    problems = [f"missing: {name}" for name in shapes if name not in state]
    problems += [f"not expected: {name}" for name in state if name not in shapes]
    problems += [
        f"{name} is {list(state[name].shape)}, not {list(shape)}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    problems += [
        f"{name} is {state[name].dtype}" for name in shapes if name in state and state[name].dtype not in _TYPES
    ]
    if problems:
        more = f"; and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise CheckpointInvalid(f"The base '{name}' does not fit: {'; '.join(problems[:12])}{more}.")


def save_base(
    folder: Path,
    dit: DiT,
    autoencoder: Autoencoder,
    *,
    name: str,
    licence: str,
    class_names: Sequence[str],
    dtype: torch.dtype,
    autoencoder_dtype: torch.dtype = torch.float16,
) -> None:
    """Writes a base as a folder in our own format: `base.json`, `transformer.safetensors`, `vae/`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in dit.state_dict().items()}
    save_file(state, folder / "transformer.safetensors")
    autoencoder.save(folder / "vae", autoencoder_dtype)
    description = {"name": name, "licence": licence, "class_names": list(class_names), "config": dit.config.to_json()}
    (folder / "base.json").write_text(json.dumps(description, indent=2) + "\n")


def assemble(config: BaseConfig, state: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> DiT:
    """Returns a frozen DiT with the tensors in `state`. Takes the tensors out of `state` one by one, so that memory
    never holds two copies of all weights."""
    with torch.device("meta"):
        dit = DiT(config)
    owned = {name: state.pop(name).to(device, dtype) for name in list(state)}
    dit.load_state_dict(owned, strict=True, assign=True)
    dit.positions = position_table(config).to(device, dtype)
    return dit.requires_grad_(False).eval()


_UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)
"""Errors that damaged files and files of other formats raise while their tensors and configuration are read."""


def _find(reference: str, autoencoder: str | Path | None) -> _Source:
    path = mini_base_folder() if reference == "mini" else Path(reference)
    try:
        if path.suffix in {".pt", ".pth"}:
            return _original(path, autoencoder)
        if (path / "base.json").is_file():
            return _own(path)
        if path.is_dir():
            return _diffusers(path, path.name, autoencoder)
        if re.fullmatch(r"[\w.-]+/[\w.-]+", reference) and not path.parent.is_dir():
            return _diffusers(_download(reference), reference, autoencoder)
    except _UNREADABLE as error:
        raise CheckpointInvalid(f"The base '{reference}' cannot be read ({type(error).__name__}: {error}).") from error
    raise BaseMissing(reference, "it is neither a file, a folder nor a hub id.")


def _own(folder: Path) -> _Source:
    description = json.loads((folder / "base.json").read_text())
    return _Source(
        name=description["name"],
        config=BaseConfig.from_json(description["config"]),
        state=_read(folder / "transformer.safetensors"),
        autoencoder=folder / "vae",
        licence=description["licence"],
        class_names=tuple(description["class_names"]),
    )


def _diffusers(folder: Path, name: str, autoencoder: str | Path | None) -> _Source:
    inner = folder / "transformer" if (folder / "transformer").is_dir() else folder
    if not (inner / "config.json").is_file():
        raise BaseMissing(name, f"there is no config.json in {inner}.")
    config = config_from_diffusers(json.loads((inner / "config.json").read_text()))
    coder = autoencoder or (folder / "vae" if (folder / "vae").is_dir() else _PUBLIC_AUTOENCODER)
    return _Source(
        name=name,
        config=config,
        state=from_diffusers(_read_weights(inner), config),
        autoencoder=coder,
        licence=_licence(name, config),
        class_names=_class_names(folder, config.num_classes),
    )


def _original(path: Path, autoencoder: str | Path | None) -> _Source:
    if not path.is_file():
        raise BaseMissing(str(path), "the file does not exist.")
    state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    state = state.get("ema", state)
    config = _infer_config(state)
    positions = state.pop("pos_embed", None)
    if positions is not None and not torch.allclose(positions.float(), position_table(config), atol=1e-5):
        raise CheckpointInvalid(f"The positions in '{path.name}' are not the sine-cosine table.")
    return _Source(path.name, config, state, autoencoder or _PUBLIC_AUTOENCODER, _licence(path.name, config))


def _licence(name: str, config: BaseConfig) -> str:
    """Returns the licence of Meta's DiT weights if the base has their name or shape, and "unknown" otherwise. Other
    weights of this shape get the licence too, since a licence warning too many is better than one too few."""
    return PUBLIC_LICENCE if "DiT-XL-2" in name or replace(config, input_size=32) == BaseConfig() else "unknown"


def _infer_config(state: Mapping[str, Tensor]) -> BaseConfig:
    hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
    if hidden not in _HEADS:
        raise CheckpointInvalid(
            f"A hidden size of {hidden} is not one of the DiT family's: {', '.join(map(str, _HEADS))}."
        )
    tokens = state["pos_embed"].shape[1] if "pos_embed" in state else 256
    outputs = state["final_layer.linear.weight"].shape[0]
    return BaseConfig(
        input_size=int(tokens**0.5) * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=hidden,
        depth=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_heads=_HEADS[hidden],
        num_classes=state["y_embedder.embedding_table.weight"].shape[0] - 1,
        learn_sigma=outputs == 2 * channels * patch**2,
    )


_PARTS = ("transformer", "vae")
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*-of-*.safetensors")
"""Patterns of diffusers' file names: one file, or several shards. diffusers' variants in other dtypes do not match."""


def _download(reference: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["model_index.json", "config.json", *_WEIGHTS]
    wanted += [f"{part}/{file}" for part in _PARTS for file in ("config.json", *_WEIGHTS)]
    try:
        folder = Path(snapshot_download(reference, allow_patterns=wanted))
        older = [part for part in _PARTS if (folder / part).is_dir() and not _weight_files(folder / part)]
        if older:
            snapshot_download(reference, allow_patterns=[f"{part}/diffusion_pytorch_model.bin" for part in older])
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseMissing(reference, f"the hub did not return it ({type(error).__name__}).") from error
    return folder


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Returns diffusers' weights in a folder: from safetensors, in one file or several, or from the older `.bin`.
    Raises BaseMissing."""
    if files := _weight_files(folder):
        return {name: tensor for file in files for name, tensor in _read(file).items()}
    binary = folder / "diffusion_pytorch_model.bin"
    if binary.is_file():
        state: dict[str, Tensor] = torch.load(binary, map_location="cpu", mmap=True, weights_only=True)
        return state
    raise BaseMissing(str(folder), "there are no weights in it.")


def _weight_files(folder: Path) -> list[Path]:
    single, several = (sorted(folder.glob(pattern)) for pattern in _WEIGHTS)
    return single or several


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise BaseMissing(str(file), "the file does not exist.")
    return load_file(file)


def _class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    """Returns the class names in diffusers' pipeline index: the first of each class's names, or all of them if another
    class has the same first name. Returns none if the index does not name every class."""
    index = folder / "model_index.json"
    labels: dict[str, Any] = json.loads(index.read_text()).get("id2label", {}) if index.is_file() else {}
    if len(labels) != num_classes:
        return ()
    full = [str(labels[str(id)]) for id in range(num_classes)]
    first = [label.split(",")[0] for label in full]
    counts = Counter(first)
    return tuple(name if counts[name] == 1 else label for name, label in zip(first, full, strict=True))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the class names, those that several classes have with the class's label, since a name alone has to
    select a class: ImageNet has two classes `crane`."""
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({label})" for label, name in enumerate(names))
