"""Exports one domain as plain DiT weights: the adapter is folded into the weights, so that any DiT code can run the
domain at no extra cost."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from core.artifact.sites import CLASS_TABLE
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.checkpoint import assemble
from core.ml.model.diffusers_format import config_to_diffusers, to_diffusers
from core.ml.model.dit import DiT


@torch.no_grad()
def fold_into_weights(dit: DiT, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a plain DiT that computes what `dit` does with the adapter `tensors`, under the original
    DiT's names.

    The class table is the domain's, with N + 1 rows for N classes. The weights are in fp32 (fp64 for a base in fp64),
    on the base's device. Raises ValueError for tensors of a method that adds modules.
    """
    return _Weights(dit, tensors).folded()


def domain_dit(dit: DiT, tensors: Mapping[str, Tensor], scale: int = 1) -> DiT:
    """Returns a separate frozen model with the adapter folded into its weights, for `save_base` and
    `export_diffusers`. It generates images of `scale` times the base's image size. Raises ValueError for tensors of a
    method that adds modules."""
    config = dataclasses.replace(
        dit.config,
        num_classes=tensors[CLASS_TABLE].shape[0] - 1,
        input_size=scale * dit.config.input_size,
        position_scale=dit.config.position_scale / scale,
    )
    return assemble(config, fold_into_weights(dit, tensors), dit.positions.device, dit.positions.dtype)


def export_diffusers(dit: DiT, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes a DiT as a folder for `DiTTransformer2DModel.from_pretrained`.

    diffusers always uses its own timestep features: for a base trained with the "dit" convention, diffusers generates
    images that differ slightly from ours.

    Raises ValueError for a configuration that diffusers' DiT class cannot express.
    """
    config = {"_class_name": "DiTTransformer2DModel", **config_to_diffusers(dit.config)}
    state = to_diffusers({name: tensor.to("cpu", dtype) for name, tensor in dit.state_dict().items()}, dit.config)
    # All blocks share the embedders' tensors, but safetensors refuses tensors that share memory.
    owned = {name: tensor.clone() if ".norm1.emb." in name else tensor for name, tensor in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(owned, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def export_pipeline(dit: DiT, autoencoder: Autoencoder, folder: Path, class_names: Sequence[str]) -> None:
    """Writes a DiT with its autoencoder as a folder for diffusers' `DiTPipeline.from_pretrained`.

    The pipeline's null label is always 1,000, so the class table is filled up with copies of the null row. The pipeline
    guides all latent channels, and has the differences that `export_diffusers` describes.

    Raises ValueError for more than 1,000 classes, and for a configuration that diffusers' DiT class cannot express.
    """
    export_diffusers(_with_pipeline_classes(dit), folder / "transformer")
    autoencoder.save(folder / "vae", torch.float32)
    (folder / "scheduler").mkdir(exist_ok=True)
    index = {"_class_name": "DiTPipeline", "id2label": dict(enumerate(class_names)), **_PARTS}
    for path, content in (("model_index.json", index), ("scheduler/scheduler_config.json", _SCHEDULER)):
        (folder / path).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


_PIPELINE_CLASSES = 1000
_PARTS = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "transformer": ["diffusers", "DiTTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
"""Noise schedule and timesteps of our DDIM sampler."""


def _with_pipeline_classes(dit: DiT) -> DiT:
    """Returns a copy of a model with 1,000 classes, of which the last ones are copies of the null label. Raises
    ValueError for a model with more classes."""
    missing = _PIPELINE_CLASSES - dit.config.num_classes
    if missing < 0:
        raise ValueError(f"diffusers' DiT pipeline takes at most {_PIPELINE_CLASSES:,} classes")
    state = dict(dit.state_dict())
    table = state[CLASS_TABLE]
    state[CLASS_TABLE] = torch.cat([table, table[-1:].expand(missing, -1)])
    config = dataclasses.replace(dit.config, num_classes=_PIPELINE_CLASSES)
    return assemble(config, state, dit.positions.device, dit.positions.dtype)


_FOLDS = re.compile(r"\.factor$|\.norm(1|2|_final)\.(weight|bias)$")


class _Weights:
    """Folds an adapter into plain weights. Starts from the adapter's tensors and, where it has none, the base's; then
    multiplies the adapter's factors and norms into them."""

    def __init__(self, dit: DiT, tensors: Mapping[str, Tensor]) -> None:
        self.dit, self.tensors = dit, tensors
        dtype = torch.float64 if dit.positions.dtype == torch.float64 else torch.float32
        self.one = torch.ones(1, dtype=dtype, device=dit.positions.device)
        self.state = {name: tensors.get(name, tensor).detach().to(self.one) for name, tensor in dit.named_parameters()}

    def folded(self) -> dict[str, Tensor]:
        others = [name for name in self.tensors if name not in self.state and not _FOLDS.search(name)]
        if others:
            raise ValueError(f"'{others[0]}' does not fold into the weights of a plain DiT")
        self._scale("x_embedder.proj", "x_embedder.proj")
        self._scale("t_embedder.mlp.2", "t_embedder.mlp.2")
        self._scale("final_layer.linear", "final_layer.linear")
        self._norm("final_layer.norm_final", "final_layer.adaLN_modulation.1", first=0)
        for i in range(self.dit.config.depth):
            block = f"blocks.{i}"
            self._scale(f"{block}.attn.qkv", f"{block}.attn.qkv")
            self._scale(f"{block}.attn.proj", f"{block}.attn.proj", f"{block}.attn")
            self._scale(f"{block}.mlp.fc2", f"{block}.mlp")
            self._norm(f"{block}.norm1", f"{block}.adaLN_modulation.1", first=0)
            self._norm(f"{block}.norm2", f"{block}.adaLN_modulation.1", first=3)
        return self.state

    def _scale(self, layer: str, *sites: str) -> None:
        """Folds the product g of the factors at `sites` into `layer`: g * (W x + b) = (diag(g) W) x + g b."""
        factors = [self.tensors[f"{site}.factor"].to(self.one) for site in sites if f"{site}.factor" in self.tensors]
        if not factors:
            return
        factor = math.prod(factors, start=self.one)
        weight = self.state[f"{layer}.weight"]
        self.state[f"{layer}.weight"] = weight * factor.view(-1, *[1] * (weight.ndim - 1))
        self.state[f"{layer}.bias"] = self.state[f"{layer}.bias"] * factor

    def _norm(self, norm: str, modulation: str, first: int) -> None:
        """Folds the affine norm `norm` (weight w, bias b) into adaLN's linear layer `modulation`, which then gives the
        shift and scale of (LN*w + b)*(1 + scale) + shift. Part `first` of the layer's output is the shift, the next
        part the scale."""
        if f"{norm}.weight" not in self.tensors:
            return
        w, b = self.tensors[f"{norm}.weight"].to(self.one), self.tensors[f"{norm}.bias"].to(self.one)
        d = self.dit.config.hidden_size
        weight, bias = self.state[f"{modulation}.weight"].clone(), self.state[f"{modulation}.bias"].clone()
        shift, scale = slice(first * d, (first + 1) * d), slice((first + 1) * d, (first + 2) * d)
        weight[shift] += b[:, None] * weight[scale]
        bias[shift] += b * bias[scale] + b
        weight[scale] *= w[:, None]
        bias[scale] = w * bias[scale] + w - 1
        self.state[f"{modulation}.weight"], self.state[f"{modulation}.bias"] = weight, bias
