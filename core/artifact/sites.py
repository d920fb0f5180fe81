"""Names and shapes of an adapter's tensors for each fine-tuning method, computed without building a model.

Names follow the original DiT code. A scale factor is named after the module whose output it multiplies:
`blocks.0.attn.qkv.factor` scales the output of `blocks.0.attn.qkv`, `blocks.0.attn.factor` that of the whole attention
branch. `core.artifact.additions` defines the tensors that the other methods of the DiffFit paper (arXiv 2304.06648,
Table 1) add.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from core.artifact.additions import AdaptFormer, Lora, Prompts, Shapes
from core.artifact.base import BaseConfig

T = TypeVar("T")
Method = Literal["difffit", "bitfit", "full", "lora", "adaptformer", "vpt"]
METHODS: tuple[Method, ...] = ("difffit", "bitfit")
"""Methods whose adapters fold into vectors, one row of vectors per image, so that the engine can serve many adapters in
one batch."""

CLASS_TABLE = "y_embedder.embedding_table.weight"
GUIDED = "guided."
"""Prefix of the second set of tensors of an adapter with learned guidance, which predict guided noise. The first set
predicts noise without guidance; scales between interpolate (see `TrainingSettings.distill_guidance`)."""


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Placement of DiffFit's scale factors (arXiv 2304.06648, section 3.2). All biases and the class table are trained
    in addition, wherever the factors are.

    `first_block` and `last_block` count from 1, as in the paper; `last_block` None means the last block of the first
    half ("1-14 of 28"). d is the hidden size.
    """

    branches: bool = True
    """Scale factors of the outputs of the attention branch and of the MLP branch (d values each)."""
    qkv: bool = True
    """Scale factor of the stacked query, key and value (3d values)."""
    projection: bool = True
    """Scale factor of the attention's output projection (d values)."""
    patch: bool = False
    """Scale factor of the patch embedding (d values)."""
    time: bool = False
    """Scale factor of the timestep embedding (d values)."""
    final: bool = True
    """Scale factor of the final linear layer (32 values for DiT-XL/2)."""
    affine_norm: bool = True
    """Trainable weight and bias of each layer norm, in all blocks and in the final layer."""
    first_block: int = 1
    last_block: int | None = None

    def factor_blocks(self, depth: int) -> range:
        """Returns the indices, from 0, of the blocks that have scale factors. Raises ValueError if `first_block` and
        `last_block` are not within the depth."""
        last = math.ceil(depth / 2) if self.last_block is None else self.last_block
        if not 1 <= self.first_block <= last <= depth:
            raise ValueError(f"blocks {self.first_block} to {last} are not within the depth of {depth}")
        return range(self.first_block - 1, last)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**values)


PRESETS: dict[str, Sites] = {
    "paper": Sites(),
    "literal": Sites(affine_norm=False),
}
"""Named placements. `paper` gives the 0.83 M trainable parameters of the paper's Table 1; `literal` follows the paper's
Algorithms 1 to 3 on the released DiT, whose norms have no affine parameters."""

MethodSites = Sites | Lora | AdaptFormer | Prompts
"""Settings that determine which tensors a method adds to the base, and their sizes."""
SITES: dict[Method, type[MethodSites]] = {
    "difffit": Sites,
    "bitfit": Sites,  # BitFit and full fine-tuning add no tensors, and ignore their sites
    "full": Sites,
    "lora": Lora,
    "adaptformer": AdaptFormer,
    "vpt": Prompts,
}
"""Settings class for each method. Its defaults are the paper's settings."""


def sites_of(method: Method, values: Any) -> MethodSites:
    """Builds a method's sites from their JSON object. Raises ValueError, with a sentence for the user, if the names or
    types do not fit."""
    kind = SITES[method]
    names = [field.name for field in fields(kind)]
    if not isinstance(values, dict) or set(values) != set(names):
        raise ValueError(f"the method '{method}' takes the sites {', '.join(names)}")
    for field in fields(kind):
        if not _fits(values[field.name], field.type):
            raise ValueError(f"Invalid value for '{field.name}'")
    return kind(**values)


def trainable_shapes(
    config: BaseConfig, method: Method, sites: MethodSites, num_classes: int | None, *, guidance: bool = False
) -> Shapes:
    """Returns the name and shape of every tensor that a method trains, the class table last. With `guidance`, these
    tensors occur a second time, for the guided noise.

    `num_classes` is the number of the domain's classes; the class table has one row more, for the null class. None
    keeps the base's classes and does not train a class table, as in the paper's fine-tunes that change only the
    resolution (section 4.3). Raises ValueError if the sites belong to another method or do not fit the base, or if the
    method cannot learn guidance.
    """
    if guidance and method not in METHODS:
        raise ValueError(f"the method '{method}' cannot learn guidance")
    if type(sites) is not SITES[method]:
        raise ValueError(f"{type(sites).__name__} does not describe what is trained by the method '{method}'")
    table = {} if num_classes is None else {CLASS_TABLE: (num_classes + 1, config.hidden_size)}
    shapes = _trained_of_base(config, method) | _added(config, method, sites) | table
    return shapes | {GUIDED + name: shape for name, shape in shapes.items()} if guidance else shapes


def split_guided(tensors: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """Splits the tensors of an adapter, or their shapes, into those without guidance and those of learned guidance,
    both by the same names. The second part is empty without learned guidance."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(GUIDED)}
    guided = {name.removeprefix(GUIDED): tensor for name, tensor in tensors.items() if name.startswith(GUIDED)}
    return own, guided


def folds(config: BaseConfig, names: Iterable[str]) -> bool:
    """Returns whether tensors of these names can be folded into vectors, one row per image: whether DiffFit, with all
    of its sites in use, has tensors of all these names."""
    everywhere = Sites(patch=True, time=True, last_block=config.depth)
    return trainable_shapes(config, "difffit", everywhere, 1).keys() >= set(names)


def base_shapes(config: BaseConfig) -> Shapes:
    """Returns the name and shape of every tensor of a base. The positional encoding is not among them, since it is
    computed and never stored."""
    d = config.hidden_size
    shapes: Shapes = {
        "x_embedder.proj.weight": (d, config.in_channels, config.patch_size, config.patch_size),
        "x_embedder.proj.bias": (d,),
        **_linear("t_embedder.mlp.0", TIMESTEP_FEATURES, d),
        **_linear("t_embedder.mlp.2", d, d),
        CLASS_TABLE: (config.num_classes + 1, d),
    }
    for i in range(config.depth):
        shapes |= _linear(f"blocks.{i}.adaLN_modulation.1", d, 6 * d)
        shapes |= _linear(f"blocks.{i}.attn.qkv", d, 3 * d)
        shapes |= _linear(f"blocks.{i}.attn.proj", d, d)
        shapes |= _linear(f"blocks.{i}.mlp.fc1", d, config.mlp_size)
        shapes |= _linear(f"blocks.{i}.mlp.fc2", config.mlp_size, d)
    shapes |= _linear("final_layer.adaLN_modulation.1", d, 2 * d)
    shapes |= _linear("final_layer.linear", d, config.output_values)
    return shapes


TIMESTEP_FEATURES = 256
"""Number of sinusoidal features that the model computes from a timestep."""


def count(shapes: Shapes) -> int:
    """Returns the total number of values in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def _fits(value: Any, kind: Any) -> bool:
    """Returns whether a value read from JSON has the type of a dataclass field."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and abs(value) < math.inf
    return type(value) in (get_args(kind) or (kind,))


def _trained_of_base(config: BaseConfig, method: Method) -> Shapes:
    """Returns the names and shapes of the base's own tensors that a method trains, without the class table."""
    shapes = {name: shape for name, shape in base_shapes(config).items() if name != CLASS_TABLE}
    if method == "full":
        return shapes
    if method in ("difffit", "bitfit"):
        return {name: shape for name, shape in shapes.items() if name.endswith(".bias")}
    if method == "vpt":
        return {name: shape for name, shape in shapes.items() if name.startswith("final_layer.")}
    return {}


def _added(config: BaseConfig, method: Method, sites: MethodSites) -> Shapes:
    if not isinstance(sites, Sites):
        return sites.shapes(config)
    return dict(_factors(config, sites)) | dict(_affine_norms(config, sites)) if method == "difffit" else {}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _factors(config: BaseConfig, sites: Sites) -> Iterator[tuple[str, tuple[int, ...]]]:
    d = config.hidden_size
    if sites.patch:
        yield "x_embedder.proj.factor", (d,)
    if sites.time:
        yield "t_embedder.mlp.2.factor", (d,)
    for i in sites.factor_blocks(config.depth):
        if sites.qkv:
            yield f"blocks.{i}.attn.qkv.factor", (3 * d,)
        if sites.projection:
            yield f"blocks.{i}.attn.proj.factor", (d,)
        if sites.branches:
            yield f"blocks.{i}.attn.factor", (d,)
            yield f"blocks.{i}.mlp.factor", (d,)
    if sites.final:
        yield "final_layer.linear.factor", (config.output_values,)


def _affine_norms(config: BaseConfig, sites: Sites) -> Iterator[tuple[str, tuple[int, ...]]]:
    if not sites.affine_norm:
        return
    norms = [f"blocks.{i}.{norm}" for i in range(config.depth) for norm in ("norm1", "norm2")]
    for name in [*norms, "final_layer.norm_final"]:
        yield f"{name}.weight", (config.hidden_size,)
        yield f"{name}.bias", (config.hidden_size,)
