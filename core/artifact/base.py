"""The frozen base: its configuration, its description and its digest."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

TimestepConvention = Literal["dit", "diffusers"]


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Shape of a diffusion transformer (DiT, arXiv 2212.09748). The defaults are DiT-XL/2 at 256x256.

    `timestep_convention` selects the frequencies of the sinusoidal timestep features: "dit" divides by half the
    width, "diffusers" by half the width minus one. `position_scale` multiplies the grid coordinates: 0.5 maps a
    64x64 latent onto the positions of a 32x32 one (DiffFit section 4.3). `mlp_norm_eps` belongs to the norm before
    the MLP alone: diffusers' forward differs there from the original's.
    """

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learn_sigma: bool = True
    norm_eps: float = 1e-6
    mlp_norm_eps: float = 1e-6
    timestep_convention: TimestepConvention = "dit"
    position_scale: float = 1.0
    guidance_channels: int = 3

    def __post_init__(self) -> None:
        if self.input_size % self.patch_size or self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError("input_size must divide by patch_size, hidden_size by num_heads and by 4")

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def patch_values(self) -> int:
        """Numbers in one input patch."""
        return self.in_channels * self.patch_size**2

    @property
    def output_values(self) -> int:
        """Numbers that the final layer makes for one token (32 for DiT-XL/2)."""
        return self.out_channels * self.patch_size**2

    @property
    def mlp_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def tokens(self) -> int:
        return (self.input_size // self.patch_size) ** 2

    @property
    def null_class(self) -> int:
        """Label of the unconditional branch: the row after the last class."""
        return self.num_classes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Raises ValueError on a field that this version does not know."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown fields in the base's configuration: {', '.join(unknown)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class BaseDescription:
    """Description of the base that the workers hold."""

    name: str
    digest: str
    config: BaseConfig
    image_size: int
    licence: str
    parameters: int
    class_names: tuple[str, ...] = ()

    def scale_of(self, image_size: int | None) -> int:
        """Returns the ratio of an image size to the base's own: 1 (also for None) or 2 (arXiv 2304.06648, section 4.3).
        Raises ValueError for any other size."""
        for scale in (1, 2):
            if image_size in (None, scale * self.image_size):
                return scale
        raise ValueError(f"the base supports image sizes of {self.image_size} and {2 * self.image_size} pixels")

    def labels_of(self, class_names: Sequence[str]) -> dict[int, int]:
        """Returns the base's labels of the classes that it knows by name, keyed by their index in `class_names`."""
        own = {name: label for label, name in enumerate(self.class_names)}
        return {place: own[name] for place, name in enumerate(class_names) if name in own}

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        config = BaseConfig.from_json(values["config"])
        return cls(**{**values, "config": config, "class_names": tuple(values["class_names"])})


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as stored: `dtype` in safetensors' spelling ("F32", "BF16"), `data` its little-endian bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def base_digest(config: BaseConfig, transformer: Iterable[StoredTensor], autoencoder: str) -> str:
    """Returns the SHA-256 over the canonical configuration, the tensors by name at stored type, and the autoencoder's
    digest.

    The format that the weights came in does not count: the original checkpoint and diffusers' folder of the same
    weights have one digest, since both are named the original's way before they get here.
    """
    digest = hashlib.sha256(canonical_json(config.to_json()))
    _add_tensors(digest, transformer)
    digest.update(autoencoder.encode())
    return digest.hexdigest()


def autoencoder_digest(config: dict[str, Any], tensors: Iterable[StoredTensor]) -> str:
    """Returns the SHA-256 over an autoencoder's configuration (fields that begin with "_" are bookkeeping) and
    tensors."""
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    digest = hashlib.sha256(canonical_json(settings))
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Returns canonical JSON, one spelling for one value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _add_tensors(digest: "hashlib._Hash", tensors: Iterable[StoredTensor]) -> None:
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(canonical_json([tensor.name, tensor.dtype, list(tensor.shape)]))
        digest.update(tensor.data)
