"""Figures as tables: printed at the end of a run, and docs/results/gpu.md."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.goals import GOALS
from benchmarks.report import FOLDER, markdown_table, said, write_markdown

JSON = FOLDER / "gpu.json"
Result = Mapping[str, Any]


def write(path: Path) -> None:
    """Writes the page next to the JSON. Raises SystemExit for figures of mini size."""
    values = json.loads(path.read_text())
    if values["mini"]:
        raise SystemExit(f"{path} has figures of mini size. Measure at full size first.")
    write_markdown(path.with_suffix(".md"), "DiT-XL/2 on one GPU", values, parts(values))


def parts(values: Mapping[str, Any]) -> list[str]:
    """Returns paragraphs and tables; those of missing phases are left out."""
    phases: Mapping[str, Result] = values["phases"]
    tables: dict[str, Callable[[Result], str]] = {
        "ceilings": _ceilings,
        "forwards": _forwards,
        "compiled": _compiled,
        "training": _training,
        "full": _full,
        "engine": _engine,
        "start": _start,
        "together": _together,
        "fused": _fused,
        "fp8": _fp8,
        "independence": _independence,
        "equality": _equality,
        "idle": lambda result: f"Idle device: {_percent(result['idle'])} of a run of {result['steps']} steps.",
        "profile": _profile,
    }
    sections = [_goals(phases)]
    for name, table in tables.items():
        if name in phases and (text := _text(table, phases[name])):
            sections.append(text)
    return [*sections, *_errors(phases)]


def _text(table: Callable[[Result], str], result: Result) -> str:
    """Returns the table, or an empty text where the phase ended before it had the table's figures."""
    try:
        return table(result)
    except (KeyError, IndexError):
        return ""


def _errors(phases: Mapping[str, Result]) -> Iterator[str]:
    for name, result in phases.items():
        for error in _errors_in(result):
            yield f"Phase '{name}': {error.splitlines()[0]}"


def _errors_in(value: Any) -> Iterator[str]:
    """Yields the errors of a phase and of its parts."""
    if isinstance(value, Mapping):
        if "error" in value:
            yield value["error"]
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from _errors_in(part)


def _whole(parts: Iterable[Result]) -> list[Result]:
    """Returns the parts that ended without an error."""
    return [part for part in parts if "error" not in part]


def _goals(phases: Mapping[str, Result]) -> str:
    words = {"pass": "kept", "below": "missed"}
    measures = [goal.measure(phases) for goal in GOALS]
    rows = [(row.name, row.limit_text, _number(row.value), words.get(row.verdict, row.verdict)) for row in measures]
    return markdown_table(["goal", "limit", "measured", ""], rows)


def _ceilings(result: Result) -> str:
    rows = [
        (layer["name"], f"{layer['m']} x {layer['k']} x {layer['n']}", _number(layer["ms"]), _number(layer["tflops"]))
        for layer in result["layers"]
    ]
    text = said(
        f"Ceilings: {_number(result['product_tflops'])} TFLOP/s in a large bf16 product,",
        f"{_number(result['copy_gigabytes_a_second'])} GB/s in a copy.",
        f"The products of a forward alone take {_number(result['products_ms_a_forward'])} ms.",
    )
    return f"{text}\n\n{markdown_table(['product', 'size', 'ms', 'TFLOP/s'], rows)}"


def _forwards(result: Result) -> str:
    times = (
        "plain_eager_ms",
        "plain_graphed_ms",
        "base_eager_ms",
        "base_graphed_ms",
        "mixed_eager_ms",
        "mixed_graphed_ms",
    )
    rows = [
        [
            str(row["rows"]),
            *(_number(row[name]) for name in times),
            _number(row["mixed_tflops"]),
            _percent(row["mixed_share"]),
            _number(row["mixed_over_plain"]),
        ]
        for row in sorted(_whole(result["rows"]), key=lambda row: int(row["rows"]))
    ]
    sides = [text for side in ("reference", "base", "mixed") for text in (f"{side}, ms", "graphed")]
    head = ["rows", *sides, "TFLOP/s", "of the ceiling", "mixed / base alone"]
    text = "The base alone by the readable reference, and by the fused operations; mixed: an adapter for each row."
    return f"{text}\n\n{markdown_table(head, rows)}"


def _compiled(result: Result) -> str:
    rows = [
        (
            side,
            _number(result[f"{side}_compile_seconds"]),
            _number(result[f"{side}_compiled_ms"]),
            _number(result[f"{side}_compiled_graphed_ms"]),
            _number(result[f"{side}_best_ms"]),
        )
        for side in ("plain", "mixed")
    ]
    head = [f"{result['rows']} rows, compiled", "compiling, s", "ms", "graphed, ms", "best of all, ms"]
    return markdown_table(head, rows)


def _training(result: Result) -> str:
    return _steps(f"{result['batch']} images a step", result["methods"])


def _full(result: Result) -> str:
    name = f"full, by {result['by']}, autocast (recorded on an H200: {result['recorded_ms']:.0f} ms)"
    return _steps(f"{result['batch']} images a step", [{"method": name, **result}])


def _steps(head: str, rows: Sequence[Result]) -> str:
    lines = [
        (
            row["method"],
            _number(row["ms"]),
            _number(row["tflops"]),
            _percent(row["share"]),
            _number(row["bytes_an_image"] / 1e6),
            _number(row["bytes_an_image_without_weights"] / 1e6),
        )
        for row in _whole(rows)
    ]
    return markdown_table([head, "ms", "TFLOP/s", "of the ceiling", "MB an image", "activations alone"], lines)


def _engine(result: Result) -> str:
    rows = [
        (
            f"{run['rows']} rows, {run['steps']} steps",
            _number(run["images_a_second"]),
            _number(run["evaluations_a_second"]),
            _percent(run["over_bare"]),
            _number(run["first_image_seconds"]),
            _number(run["one_image_seconds"]),
        )
        for run in _whole(result["runs"])
    ]
    head = [
        f"engine, {result['images']} guided images", "images/s", "evaluations/s", "of the bare forward",
        "first image, s", "one image alone, s",
    ]  # fmt: skip
    pixels = (
        "Pixels by diffusers' autoencoder." if result["decodes"] else "Without an autoencoder: diffusers was missing."
    )
    return f"{markdown_table(head, rows)}\n\n{pixels}"


def _start(result: Result) -> str:
    return said(
        f"A new engine's first image of {result['steps']} steps: {_number(result['with graphs'])} s with graphs,",
        f"{_number(result['without'])} s without. Capturing {result['captured']} of",
        f"{result['batch_sizes']} batch sizes: {_number(result['capturing_seconds'])} s.",
    )


def _together(result: Result) -> str:
    rows = [
        (side, _number(result[side]["ms"]), _number(result[side]["tflops"]), _percent(result[side]["share"]))
        for side in ("one after another", "together")
    ]
    name = f"a step of {result['fine-tunes']} fine-tunes of batch {result['batch']}"
    difference = _number(result["largest_difference_of_parameters"])
    text = f"Together {result['gain']:.2f}x the steps a second; parameters differ by {difference} of their rms at most."
    return f"{markdown_table([name, 'ms', 'TFLOP/s', 'of the ceiling'], rows)}\n\n{text}"


def _fused(result: Result) -> str:
    rows = [
        (
            operation["name"],
            _number(operation["ms"]),
            _number(operation["plain_ms"]),
            _number(operation["gigabytes_a_second"]),
            _percent(operation["copy_share"]),
            _number(operation["relative_error"]),
        )
        for operation in _whole(result["operations"])
    ]
    return markdown_table(["fused operation", "ms", "plain, ms", "GB/s", "of a copy", "error"], rows)


def _fp8(result: Result) -> str:
    columns = ("bf16_ms", "fp8_ms", "quantization_ms", "bf16_relative_error", "fp8_relative_error")
    rows = [[layer["name"], *(_number(layer[name]) for name in columns)] for layer in _whole(result["layers"])]
    return markdown_table(["product", "bf16, ms", "fp8, ms", "quantization, ms", "error, bf16", "error, fp8"], rows)


def _independence(result: Result) -> str:
    rows = [
        (
            name,
            _number(mode["largest_difference"]),
            _number(mode["largest_relative_difference"]),
            f"{mode['equal']} of {result['images']}",
        )
        for name, mode in result.items()
        if isinstance(mode, dict) and "error" not in mode
    ]
    head = [f"latents after {result['steps']} steps, together against alone", "largest difference", "/ rms", "equal"]
    return markdown_table(head, rows)


def _equality(result: Result) -> str:
    columns = ("largest_difference_from_alone", "relative_error_from_alone", "relative_error_from_reference")
    rows = [
        [name, *(_number(figures[column]) for column in columns)]
        for name, figures in result.items()
        if isinstance(figures, dict) and "error" not in figures
    ]
    return markdown_table(["one forward", "largest from alone / rms", "norm, from alone", "from the reference"], rows)


def _profile(result: Result) -> str:
    tables = []
    for name in ("forward", "training step"):
        summary = result[name]
        if "error" in summary:
            continue
        kinds = [(kind, _number(ms)) for kind, ms in summary["kinds"].items()]
        top = [(f"`{kernel['name']}`", str(kernel["count"]), _number(kernel["ms"])) for kernel in summary["top"]]
        tables += [
            markdown_table([f"{name}, {summary['kernels']} kernels", "ms"], kinds),
            markdown_table(["kernel", "count", "ms"], top),
        ]
    return "\n\n".join(tables)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
