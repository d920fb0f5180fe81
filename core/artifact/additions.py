"""Names and shapes of the tensors that LoRA, AdaptFormer and VPT add to a base, and the settings that define them.

The defaults are the settings with which the DiffFit paper compares these methods (arXiv 2304.06648, sections 2.3 and
4.1, Table 1). `shapes` of each class returns the shape of every added tensor by name. It raises ValueError for settings
that do not fit the base's configuration.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from core.artifact.base import BaseConfig

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class _Addition:
    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Lora(_Addition):
    """Settings of LoRA (arXiv 2106.09685), which replaces W x by W x + scale * up(down(x)) in the attention of every
    block."""

    rank: int = 8
    scale: float = 1.0
    """Factor of the added product: alpha / rank in the LoRA paper."""
    matrices: Literal["query_value", "qkv"] = "query_value"
    """Matrices that get a pair (down, up): the query and the value one pair each, or the stacked query, key and value
    one pair together. Both choices have the same number of parameters."""

    @property
    def parts(self) -> tuple[str, ...]:
        return ("query", "value") if self.matrices == "query_value" else ("qkv",)

    def shapes(self, config: BaseConfig) -> Shapes:
        d = config.hidden_size
        _require(1 <= self.rank <= d, f"a rank of {self.rank} is not possible for matrices of {d} rows")
        shapes: Shapes = {}
        for i in range(config.depth):
            for part in self.parts:
                name = f"blocks.{i}.attn.{part}"
                shapes[f"{name}.down.weight"] = (self.rank, d)
                shapes[f"{name}.up.weight"] = (3 * d if part == "qkv" else d, self.rank)
        return shapes


@dataclass(frozen=True, kw_only=True)
class AdaptFormer(_Addition):
    """Settings of AdaptFormer (arXiv 2205.13535), which adds scale * up(ReLU(down(u))) to the MLP's output in every
    block."""

    placement: Literal["parallel", "sequential"] = "parallel"
    """Input u of the added bottleneck: the residual stream before the MLP's norm (parallel), or the MLP's output
    (sequential)."""
    bottleneck: int = 64
    scale: float = 0.1

    def shapes(self, config: BaseConfig) -> Shapes:
        d = config.hidden_size
        _require(self.bottleneck >= 1, f"a bottleneck of {self.bottleneck} is too small")
        shapes: Shapes = {}
        for i in range(config.depth):
            name = f"blocks.{i}.mlp.adapter"
            shapes |= {f"{name}.down.weight": (self.bottleneck, d), f"{name}.down.bias": (self.bottleneck,)}
            shapes |= {f"{name}.up.weight": (d, self.bottleneck), f"{name}.up.bias": (d,)}
        return shapes


@dataclass(frozen=True, kw_only=True)
class Prompts(_Addition):
    """Settings of VPT-deep (arXiv 2203.12119), which puts trained prompt tokens in front of the image's tokens, new
    prompts in each of the first blocks. The final layer is trained too."""

    blocks: int = 5
    """Number of blocks with new prompts. The prompt tokens of the last of these blocks stay until the final layer."""
    tokens: int = 1
    """Number of prompt tokens per block."""

    def shapes(self, config: BaseConfig) -> Shapes:
        _require(
            1 <= self.blocks <= config.depth, f"{self.blocks} blocks with prompts, but the depth is {config.depth}"
        )
        _require(self.tokens >= 1, f"{self.tokens} prompts per block is too few")
        return {f"blocks.{i}.prompts": (self.tokens, config.hidden_size) for i in range(self.blocks)}


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
