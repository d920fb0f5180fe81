"""Counts trainable parameters exactly, next to the paper's rounded counts: `python -m benchmarks.parameters`.

DiT-XL/2 with the 101 classes of Food-101, as in Tables 1 and 4 of DiffFit (arXiv 2304.06648), and ControlNet at Stable
Diffusion's size, as in its Table 5. No weights are needed to count.
"""

import argparse
from collections.abc import Sequence
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from benchmarks.controlnet.counts import ControlNetCounts, controlnet_counts
from benchmarks.paper.systems import TABLE_1, TABLES, System
from benchmarks.report import FOLDER, Part, Table, show, write_json
from core.artifact.base import BaseConfig
from core.artifact.sites import PRESETS, Sites, base_shapes, count, trainable_shapes

XL = BaseConfig()
CLASSES = 101
TITLE = "How many parameters train on DiT-XL/2 with 101 classes"
HEAD = ("system", "trains", "method", "rate", "of full", "paper", "fits when")
MADE = "`python -m benchmarks.parameters`. Counted, not measured: no hardware, date or seed changes it."
LITERAL = System(name="DiffFit, literal", method="difffit", sites=PRESETS["literal"], fid=None)
"""DiffFit exactly by the paper's Algorithms 1 to 3, on the released DiT, whose layer norms have no weight and bias."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    controlnet = controlnet_counts()
    questions = open_questions(controlnet)
    parts: list[Part] = [part for title, table in _tables(controlnet).items() for part in (title, table)]
    parts += ["What the paper's numbers leave open:", "\n".join(f"- {question}" for question in questions)]
    page = options.json.with_suffix(".md")
    write_json(options.json, as_json(controlnet, questions))
    page.write_text("\n\n".join([f"# {TITLE}", *map(str, parts), MADE]) + "\n")
    show(*parts, f"Written: {options.json}, {page}")


def all_tables() -> dict[str, tuple[System, ...]]:
    return TABLES | {"1": (*TABLE_1, LITERAL)}


def parameters(system: System, classes: int = CLASSES) -> int:
    """Returns the number of parameters that a system trains on DiT-XL/2."""
    return count(trainable_shapes(XL, system.method, system.sites, classes))


def agreement(exact: Decimal, printed: str) -> str:
    """Compares a figure that the paper prints with the exact one. Returns "rounded" or "truncated" if the printed
    figure is the exact one rounded or truncated, "both" if both give it, otherwise "neither"."""
    figure = Decimal(printed)
    rounded = exact.quantize(figure, ROUND_HALF_UP) == figure
    truncated = exact.quantize(figure, ROUND_DOWN) == figure
    if rounded and truncated:
        return "both"
    return "rounded" if rounded else "truncated" if truncated else "neither"


def open_questions(controlnet: ControlNetCounts) -> list[str]:
    """Returns sentences about what the paper's numbers leave open or get wrong, each with the counts that show it."""
    return [*_questions_of_table_1(), *_questions_of_table_4(), *_questions_of_section_6(controlnet)]


def as_json(controlnet: ControlNetCounts, questions: Sequence[str]) -> dict[str, Any]:
    return {
        "model": "DiT-XL/2",
        "classes": CLASSES,
        "base": {"parameters": count(base_shapes(XL)), "positions": XL.tokens * XL.hidden_size},
        "tables": {name: [_row(system) for system in systems] for name, systems in all_tables().items()},
        "controlnet": {
            "total": controlnet.total,
            "trainable": controlnet.trainable,
            "parts": _parts(controlnet),
            "trainable_with_a_factor_in_each_layer": controlnet.trainable_each_layer,
            "paper_millions": {"total": "361", "trainable": "11.2", "zero_convolutions": "10.8"},
        },
        "open": list(questions),
    }


def _row(system: System) -> dict[str, Any]:
    parameter_count = parameters(system)
    row: dict[str, Any] = {
        "name": system.name,
        "method": system.method,
        "sites": system.sites.to_json(),
        "learning_rate": system.learning_rate,
        "parameters": parameter_count,
        "paper_millions": system.parameters,
    }
    return row | ({"agreement": agreement(_millions(parameter_count), system.parameters)} if system.parameters else {})


def _questions_of_table_1() -> list[str]:
    counts = {system.name: parameters(system) for system in (*TABLE_1, LITERAL)}
    ways = {s.name: agreement(_millions(counts[s.name]), s.parameters) for s in TABLE_1 if s.parameters}
    only_rounded = [name for name, way in ways.items() if way == "rounded"]
    only_cut = [name for name, way in ways.items() if way == "truncated"]
    frozen_table = count(trainable_shapes(XL, "difffit", PRESETS["paper"], None))
    imagenet_table = count(trainable_shapes(XL, "difffit", PRESETS["paper"], 1000))
    return [
        (f"Table 1 follows no one rule: {', '.join(only_rounded)} fit when rounded alone, {', '.join(only_cut)} when "
         "cut off alone."),
        ("DiffFit's 0.83 M needs affine layer norms, which the released DiT does not have: Algorithms 1 to 3 on "
         f"it train {counts[LITERAL.name]:,}. With weight and bias for each of its {2 * XL.depth + 1} norms, as "
         f"Figure 4 says, it is {counts['DiffFit']:,}; the same placement fits Tables 4a and 4b."),
        (f"Section 1 says 0.9 M at 512x512, where the class table stays frozen: that is {frozen_table:,}, and "
         f"{imagenet_table:,} with ImageNet's table."),
        (f"Section 1 calls DiT-XL/2 a model of 640 M. It has {count(base_shapes(XL)):,}, and with 101 classes "
         f"{counts['Full Fine-tuning']:,}, Table 1's 673.8 M."),
        (f"LoRA's count is {counts['LoRA-R8']:,} with a pair on the query and one on the value, and with one on "
         "their stack. Its alpha is not given: alpha = rank here."),
        ("AdaptFormer's count is the same beside and behind the MLP. Neither its scale is given (0.1 here, as in "
         "AdaptFormer's paper) nor its place at adaLN's gate, which AdaptFormer's own model does not have (here "
         "in front of it). The bottleneck of 64 follows from the count."),
        (f"VPT's {counts['VPT-Deep']:,} has all of the final layer, its adaLN included: without adaLN it would be "
         f"{counts['VPT-Deep'] - count(_final_adaln()):,}."),
    ]  # fmt: skip


def _questions_of_table_4() -> list[str]:
    by_name = {system.name: system for name in ("4a", "4b", "4c") for system in TABLES[name]}
    fifteen = System(
        name="", method="difffit", fid=None, sites=Sites(qkv=False, projection=False, first_block=14, last_block=28)
    )
    all_blocks, row_2 = parameters(by_name["1→28"]), parameters(by_name["+Blocks"])
    fourteen = parameters(by_name["28→14"])
    return [
        (f'"28→14" of Table 4a, 0.770 M, is the count of 14 blocks ({fourteen:,}); 15 blocks, as its name says, '
         f"would be {parameters(fifteen):,}."),
        ("Tables 4a and 4b are 738,496 + 2,304 for each block, cut off: branch factors in those blocks, with all "
         "biases, affine norms, the class table, and 32 factors of the final layer."),
        (f"Row 2 of Table 4c has the FID of 28 blocks (8.19), so their count of {all_blocks:,}. But without the "
         f"final layer's factors, which row 6 adds, it is {row_2:,}, which is not 0.803 M when cut off."),
        ("Whether rows 3 to 6 of Table 4c add to row 1 or to row 2 is not said. Here to row 2: the text calls "
         "rows 3 and 4 no improvement, which holds against row 2 alone."),
        ('Whether "QKV-Linear" brings the projection\'s factors too is not said. Here it does, as in Algorithm 3, '
         "since Table 1's count has both."),
    ]  # fmt: skip


def _questions_of_section_6(controlnet: ControlNetCounts) -> list[str]:
    return [
        (f"Table 5's 11.2 M cannot be: the 13 zero convolutions alone are {controlnet.zero_convolutions:,}, not "
         f"10.8 M, and the hint's own is {controlnet.hint_zero_convolution:,} more."),
        (f"Where its factors are is not said: {controlnet.trainable:,} train with those of DiffFit's sites, "
         f"{controlnet.trainable_each_layer:,} with one for each output of every layer of the copy."),
    ]  # fmt: skip


def _final_adaln() -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in base_shapes(XL).items() if name.startswith("final_layer.adaLN")}


def _parts(controlnet: ControlNetCounts) -> dict[str, int]:
    return {
        "13 zero convolutions": controlnet.zero_convolutions,
        "the hint's zero convolution": controlnet.hint_zero_convolution,
        "biases of all other layers and norms": controlnet.biases,
        "factors of ResNet blocks, attention and feed-forward": controlnet.branch_factors,
        "factors of query, key, value and projection": controlnet.attention_factors,
    }


def _tables(controlnet: ControlNetCounts) -> dict[str, Table]:
    tables = {f"Table {name}": Table(HEAD, list(map(_cells, systems))) for name, systems in all_tables().items()}
    parts = [(part, f"{size:,}", "10.8 M" if part == "13 zero convolutions" else "")
             for part, size in _parts(controlnet).items()]  # fmt: skip
    whole = ("ControlNet", f"{controlnet.total:,}", "361 M")
    together = ("DiffFit together", f"{controlnet.trainable:,}", "11.2 M")
    title = "Table 5: ControlNet at Stable Diffusion's size"
    return tables | {title: Table(("part", "parameters", "paper"), [whole, *parts, together])}


def _cells(system: System) -> tuple[str, ...]:
    """Returns the table cells of a system, in the order of `HEAD`."""
    own, full = parameters(system), parameters(TABLE_1[0])
    way = agreement(_millions(own), system.parameters) if system.parameters else ""
    paper = f"{system.parameters} M" if system.parameters else ""
    paper += f" ({system.percent}%)" if system.percent else ""
    words = {"both": "rounded or cut off", "truncated": "cut off"}.get(way, way)
    return system.name, f"{own:,}", system.method, f"{system.learning_rate:g}", f"{own / full:.3%}", paper, words


def _millions(number: int) -> Decimal:
    return Decimal(number) / 1_000_000


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parameters", description=__doc__)
    parser.add_argument(
        "--json", type=Path, default=FOLDER / "parameters.json", help="written here, and beside it as .md"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
