"""Tensors of an adapter: names and shapes for each method, computed without building a model.

Names follow the original DiT. A factor is named after the module that it multiplies: `blocks.0.attn.qkv.factor`
scales the output of `blocks.0.attn.qkv`, `blocks.0.attn.factor` the whole attention branch. What the other methods of
the DiffFit paper (arXiv 2304.06648, Table 1) add is in `core.artifact.additions`.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin

from core.artifact.additions import AdaptFormer, Lora, Prompts, Shapes
from core.artifact.base import BaseConfig

Method = Literal["difffit", "bitfit", "full", "lora", "adaptformer", "vpt"]
METHODS: tuple[Method, ...] = ("difffit", "bitfit")
"""The methods whose adapters fold into per-sample vectors, so that the engine can serve them."""

CLASS_TABLE = "y_embedder.embedding_table.weight"


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Placement of DiffFit's scale factors (arXiv 2304.06648, section 3.2), next to all biases and the class table.

    `first_block` and `last_block` count from 1, as the paper does; `last_block` None is the first half of the depth
    ("1-14 of 28").
    """

    branches: bool = True
    """Factors of the attention and the MLP branch (d each)."""
    qkv: bool = True
    """Factor of the stacked query, key and value (3d)."""
    projection: bool = True
    """Factor of the attention's output projection (d)."""
    patch: bool = False
    """Factor of the patch embedding (d)."""
    time: bool = False
    """Factor of the timestep embedding (d)."""
    final: bool = True
    """Factor of the final linear layer (32 for DiT-XL/2)."""
    affine_norm: bool = True
    """Affine layer norms: weight and bias for each norm of all blocks and the final one."""
    first_block: int = 1
    last_block: int | None = None

    def factor_blocks(self, depth: int) -> range:
        """Returns the blocks that carry factors, counted from 0. Raises ValueError when they are not within the
        depth."""
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
"""`paper` is the placement that gives the 0.83 M of the paper's Table 1; `literal` is its Algorithms 1 to 3 on the
released DiT, whose norms have no affine parameters."""

MethodSites = Sites | Lora | AdaptFormer | Prompts
"""Placement and sizes of the tensors that a method adds."""
SITES: dict[Method, type[MethodSites]] = {
    "difffit": Sites,
    "bitfit": Sites,  # BitFit and full fine-tuning have nothing to place
    "full": Sites,
    "lora": Lora,
    "adaptformer": AdaptFormer,
    "vpt": Prompts,
}
"""Class of each method's sites. Its defaults are the paper's."""


def sites_of(method: Method, values: Any) -> MethodSites:
    """Returns the sites of a method from their JSON. Raises ValueError with a sentence when the JSON does not fit."""
    kind = SITES[method]
    names = [field.name for field in fields(kind)]
    if not isinstance(values, dict) or set(values) != set(names):
        raise ValueError(f"the method '{method}' takes the sites {', '.join(names)}")
    for field in fields(kind):
        if not _fits(values[field.name], field.type):
            raise ValueError(f"Invalid value for '{field.name}'")
    return kind(**values)


def trainable_shapes(config: BaseConfig, method: Method, sites: MethodSites, num_classes: int | None) -> Shapes:
    """Returns the name and shape of every trainable tensor, the class table last.

    `num_classes` counts the domain's classes; the table has one row more, for the null class. None leaves the base's
    classes and their frozen table, as the paper does where only the resolution changes (section 4.3). Raises
    ValueError when the sites are another method's or do not fit the base.
    """
    if type(sites) is not SITES[method]:
        raise ValueError(f"{type(sites).__name__} is not a kind of sites for the method '{method}'")
    table = {} if num_classes is None else {CLASS_TABLE: (num_classes + 1, config.hidden_size)}
    return _trained_of_base(config, method) | _added(config, method, sites) | table


def folds(config: BaseConfig, names: Iterable[str]) -> bool:
    """Returns whether tensors of these names fold into per-row vectors: whether DiffFit at all of its sites has
    them."""
    everywhere = Sites(patch=True, time=True, last_block=config.depth)
    return trainable_shapes(config, "difffit", everywhere, 1).keys() >= set(names)


def base_shapes(config: BaseConfig) -> Shapes:
    """Returns the name and shape of every tensor of a base. Positions are computed, never stored."""
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
"""Width of the sinusoidal timestep features."""


def count(shapes: Shapes) -> int:
    """Returns the count of numbers in all tensors together."""
    return sum(math.prod(shape) for shape in shapes.values())


def _fits(value: Any, kind: Any) -> bool:
    """Returns whether a value read from JSON is of a field's type."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and abs(value) < math.inf
    return type(value) in (get_args(kind) or (kind,))


def _trained_of_base(config: BaseConfig, method: Method) -> Shapes:
    """Returns the base's trainable tensors, without the class table."""
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
