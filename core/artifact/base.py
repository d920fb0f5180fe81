"""The frozen base model on which adapters are trained: its configuration, its description and its digest."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

TimestepConvention = Literal["dit", "diffusers"]


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Shape of a diffusion transformer (DiT, arXiv 2212.09748). The defaults are DiT-XL/2 at 256x256.

    `timestep_convention` selects the frequencies of the sinusoidal timestep features: the exponents are divided by half
    the number of features in "dit", by half the number minus one in "diffusers". `position_scale` multiplies the grid
    coordinates: 0.5 maps a 64x64 latent onto the positions of a 32x32 one (DiffFit section 4.3). `mlp_norm_eps` is the
    epsilon of the norm before the MLP only, since diffusers' forward uses another value there than the original DiT.
    `guidance_channels` is the number of leading latent channels to which classifier-free guidance applies.
    `learn_sigma` is true for every base that can be used; it is a field because the base's digest includes it.
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
        """Number of channels that the model predicts: those of the noise, then those of the learned variance."""
        return 2 * self.in_channels

    @property
    def patch_values(self) -> int:
        """Number of values in one input patch, over all channels."""
        return self.in_channels * self.patch_size**2

    @property
    def output_values(self) -> int:
        """Number of values that the final layer outputs for one token (32 for DiT-XL/2)."""
        return self.out_channels * self.patch_size**2

    @property
    def mlp_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)

    @property
    def tokens(self) -> int:
        return (self.input_size // self.patch_size) ** 2

    @property
    def null_class(self) -> int:
        """Class label of the unconditional branch of classifier-free guidance: the row of the class table after the
        last class."""
        return self.num_classes

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Builds a configuration from its JSON object. Raises ValueError on a field that this version does not know."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown fields in the base's configuration: {', '.join(unknown)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class BaseDescription:
    """Facts about the base that the workers have loaded, for code that does not load its weights."""

    name: str
    digest: str
    config: BaseConfig
    image_size: int
    licence: str
    parameters: int
    class_names: tuple[str, ...] = ()
    """Names of the classes by label, all different."""

    def scale_of(self, image_size: int | None) -> int:
        """Returns `image_size` divided by the base's own image size: 1 (also for None) or 2 (arXiv 2304.06648, section
        4.3). Raises ValueError for any other size."""
        for scale in (1, 2):
            if image_size in (None, scale * self.image_size):
                return scale
        raise ValueError(f"the base supports image sizes of {self.image_size} and {2 * self.image_size} pixels")

    def labels_of(self, class_names: Sequence[str]) -> dict[int, int]:
        """Returns the base's class labels for those names in `class_names` that the base has too, keyed by their index
        in `class_names`."""
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
    """One tensor as a checkpoint stores it: `dtype` in safetensors' spelling ("F32", "BF16"), `data` its little-endian
    bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def base_digest(config: BaseConfig, transformer: Iterable[StoredTensor], autoencoder: str) -> str:
    """Returns the SHA-256 that identifies a base: of its configuration as canonical JSON, of its tensors in the order
    of their names and in their stored dtype, and of the autoencoder's digest.

    The checkpoint's format does not count: the original checkpoint and diffusers' folder of the same weights have the
    same digest, since callers rename all tensors to the original DiT's names first.
    """
    digest = hashlib.sha256(canonical_json(config.to_json()))
    _add_tensors(digest, transformer)
    digest.update(autoencoder.encode())
    return digest.hexdigest()


def autoencoder_digest(config: dict[str, Any], tensors: Iterable[StoredTensor]) -> str:
    """Returns the SHA-256 of an autoencoder's configuration and tensors. Ignores configuration fields that begin with
    "_", which are diffusers' bookkeeping."""
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    digest = hashlib.sha256(canonical_json(settings))
    _add_tensors(digest, tensors)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encodes a value as canonical JSON (sorted keys, no spaces, UTF-8), so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _add_tensors(digest: "hashlib._Hash", tensors: Iterable[StoredTensor]) -> None:
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        digest.update(canonical_json([tensor.name, tensor.dtype, list(tensor.shape)]))
        digest.update(tensor.data)
