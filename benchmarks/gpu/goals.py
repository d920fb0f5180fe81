"""Goals for the figures that `benchmarks.gpu` measures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.report import Measure

Phases = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """Limit on one figure. `read` takes the figure from the results of all phases, and raises KeyError or IndexError if
    it is missing."""

    name: str
    limit: float
    read: Callable[[Phases], float | None]
    is_least: bool = True
    """Whether the limit is a minimum."""

    def measure(self, phases: Phases) -> Measure:
        try:
            value = self.read(phases)
        except (KeyError, IndexError):
            value = None
        return Measure(
            name=self.name, value=value, limit=self.limit, best="highest" if self.is_least else "lowest", unit=""
        )


def _rows(phases: Phases, rows: int) -> Mapping[str, Any]:
    """Returns the results of the forwards with `rows` batch rows, including compiled forwards if there are any."""
    rows_found: list[Mapping[str, Any]] = [*phases["forwards"]["rows"], phases.get("compiled", {})]
    return [row for row in rows_found if row.get("rows") == rows and "mixed_over_plain" in row][-1]


def _method(phases: Phases, method: str) -> Mapping[str, Any]:
    methods: dict[str, Mapping[str, Any]] = {row["method"]: row for row in phases["training"]["methods"]}
    return methods[method]


def _over_full(phases: Phases, by: str) -> float:
    """Returns the ratio of DiffFit's step time to full fine-tuning's. Raises KeyError if full fine-tuning by `by`
    ("diffusers" or "plain PyTorch") was not measured in the same run."""
    return float(_method(phases, "difffit")["ms"] / {phases["full"]["by"]: phases["full"]}[by]["ms"])


def _over_recorded(phases: Phases) -> float:
    return float(_method(phases, "difffit")["ms"] / phases["full"]["recorded_ms"])


def _first_image(phases: Phases) -> float:
    return float(phases["start"]["with graphs"] / phases["start"]["without"])


GOALS = (
    Goal("mixed / base alone, 32 rows, both at their best", 0.97, lambda phases: _rows(phases, 32)["mixed_over_plain"]),
    Goal("mixed / base alone, 64 rows, both at their best", 0.97, lambda phases: _rows(phases, 64)["mixed_over_plain"]),
    Goal("64 mixed rows, of the product rate", 0.65, lambda phases: _rows(phases, 64)["mixed_share"]),
    Goal(
        "64 mixed rows, of the product rate in turn with them",
        0.65,
        lambda phases: phases["forwards"]["in_turn"]["product_share"],
    ),
    Goal("engine of 64 rows, 50 steps / its bare forward", 0.92, lambda phases: _run(phases, 64, 50)["over_bare"]),
    Goal("DiffFit's step / diffusers' full", 0.35, lambda phases: _over_full(phases, "diffusers"), is_least=False),
    Goal(
        "DiffFit's step / plain PyTorch's full",
        0.35,
        lambda phases: _over_full(phases, "plain PyTorch"),
        is_least=False,
    ),
    Goal("DiffFit's step / diffusers' full, recorded on an H200", 0.35, _over_recorded, is_least=False),
    Goal("DiffFit's step, of the product rate", 0.45, lambda phases: _method(phases, "difffit")["share"]),
    Goal(
        "DiffFit, MB an image", 220, lambda phases: _method(phases, "difffit")["bytes_an_image"] / 1e6, is_least=False
    ),
    Goal("fine-tunes together / one after another", 3, lambda phases: phases["together"]["gain"]),
    Goal("capturing all batch sizes, s", 5, lambda phases: phases["start"]["capturing_seconds"], is_least=False),
    Goal("first image with graphs / without", 1, _first_image, is_least=False),
    Goal("latents in exact mode, largest difference", 0, lambda phases: _difference(phases, "exact"), is_least=False),
    Goal(
        "latents in bf16, largest difference / rms", 2e-2, lambda phases: _relative(phases, "bfloat16"), is_least=False
    ),
    Goal(
        "latents in fp32, largest difference / rms", 1e-4, lambda phases: _relative(phases, "float32"), is_least=False
    ),
    Goal(
        "all kinds of images in exact mode, largest difference",
        0,
        lambda phases: float(phases["kinds"]["exact"]["largest_difference"]),
        is_least=False,
    ),
    Goal(
        "all kinds of images in bf16, largest difference / rms",
        2e-2,
        lambda phases: max(phases["kinds"]["default"]["relative"].values()),
        is_least=False,
    ),
)


def _run(phases: Phases, rows: int, steps: int) -> Mapping[str, Any]:
    runs: list[Mapping[str, Any]] = phases["engine"]["runs"]
    wanted = [run for run in runs if (run["rows"], run["steps"]) == (rows, steps)]
    return wanted[0]


def _difference(phases: Phases, mode: str) -> float:
    return float(phases["independence"][mode]["largest_difference"])


def _relative(phases: Phases, mode: str) -> float:
    return float(phases["independence"][mode]["largest_relative_difference"])
