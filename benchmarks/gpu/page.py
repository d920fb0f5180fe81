"""Formats the results of `benchmarks.gpu` as Markdown tables, which are printed at the end of a run and written to
docs/results/gpu.md."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.goals import GOALS
from benchmarks.report import FOLDER, markdown_table, write_markdown

JSON = FOLDER / "gpu.json"
Result = Mapping[str, Any]
Column = tuple[str, str | Callable[[Result], Any]]
"""Column of a table: its head, and the key or the function that reads a cell from a result."""
_FRACTIONS = ("share", "mixed_share", "copy_share", "over_bare")
_RATES: tuple[Column, ...] = (("ms", "ms"), ("TFLOP/s", "tflops"), ("of the ceiling", "share"))


def write(path: Path) -> None:
    """Writes the Markdown page next to the JSON. Raises SystemExit if the figures were measured at mini size."""
    values = json.loads(path.read_text())
    if values["mini"]:
        raise SystemExit(f"{path} has figures of mini size. Measure at full size first.")
    write_markdown(path.with_suffix(".md"), "DiT-XL/2 on one GPU", values, parts(values))


def parts(values: Mapping[str, Any]) -> list[str]:
    """Returns the paragraphs and tables of the page, without those of missing phases."""
    phases: Mapping[str, Result] = values["phases"]
    tables: dict[str, Callable[[Result], str]] = {
        "ceilings": _ceilings,
        "forwards": _forwards,
        "compiled": _compiled,
        "training": _training,
        "full": _full,
        "engine": _engine,
        "decoder": _decoder,
        "kinds": _kinds,
        "start": _start,
        "together": _together,
        "fused": _fused,
        "fp8": _fp8,
        "independence": _independence,
        "equality": _equality,
        "idle": lambda result: f"Idle device: {result['idle']:.0%} of a run of {result['steps']} steps.",
        "profile": _profile,
    }
    sections = [_goals(phases)]
    for name, table in tables.items():
        if name in phases and (text := _text(table, phases[name])):
            sections.append(text)
    return [*sections, *_errors(phases), *_earlier(values)]


def _text(table: Callable[[Result], str], result: Result) -> str:
    """Returns the table of a phase, or an empty text if the phase ended before it had all figures of the table."""
    try:
        return table(result)
    except (KeyError, IndexError):
        return ""


def _earlier(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields a sentence about the phases that the JSON keeps from a run on another day."""
    dates = {name: result.get("date", values["date"]) for name, result in values["phases"].items()}
    if earlier := [f"{name} ({date})" for name, date in dates.items() if date != values["date"]]:
        yield f"From an earlier run: {', '.join(earlier)}."


def _errors(phases: Mapping[str, Result]) -> Iterator[str]:
    for name, result in phases.items():
        for error in _errors_in(result):
            yield f"Phase '{name}': {error.splitlines()[0]}"


def _errors_in(value: Any) -> Iterator[str]:
    """Yields the error texts in a phase's result and in the results of its parts."""
    if isinstance(value, Mapping):
        if "error" in value:
            yield value["error"]
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from _errors_in(part)


def _goals(phases: Mapping[str, Result]) -> str:
    words = {"pass": "kept", "below": "missed"}
    measures = [goal.measure(phases) for goal in GOALS]
    rows = [(row.name, row.limit_text, _number(row.value), words.get(row.verdict, row.verdict)) for row in measures]
    return markdown_table(["goal", "limit", "measured", ""], rows)


def _ceilings(result: Result) -> str:
    text = (
        f"Ceilings: {_number(result['product_tflops'])} TFLOP/s in a large bf16 product, "
        f"{_number(result['copy_gigabytes_a_second'])} GB/s in a copy. "
        f"The products of a forward alone take {_number(result['products_ms_a_forward'])} ms."
    )
    columns = (
        ("product", "name"),
        ("size", lambda row: f"{row['m']} x {row['k']} x {row['n']}"),
        ("ms", "ms"),
        ("TFLOP/s", "tflops"),
    )
    return f"{text}\n\n{_table(result['layers'], *columns)}"


def _forwards(result: Result) -> str:
    text = "The base alone by the readable reference, and by the fused operations; mixed: an adapter for each row."
    times = [
        column
        for side, key in (("reference", "plain"), ("base", "base"), ("mixed", "mixed"))
        for column in ((f"{side}, ms", f"{key}_eager_ms"), ("graphed", f"{key}_graphed_ms"))
    ]
    rates = (("TFLOP/s", "mixed_tflops"), ("of the ceiling", "mixed_share"), ("mixed / base alone", "mixed_over_plain"))
    rows = sorted(result["rows"], key=lambda row: int(row["rows"]))
    return "\n\n".join([text, _table(rows, ("rows", "rows"), *times, *rates), *_in_turn(result.get("in_turn", {}))])


def _in_turn(result: Result) -> Iterator[str]:
    if "product_share" in result:
        yield (
            f"In turn with a large matrix product, each for the same time, so that both run at the clocks of a device "
            f"under load: {result['rows']} mixed rows {_number(result['ms'])} ms, {_number(result['tflops'])} TFLOP/s, "
            f"{result['product_share']:.0%} of the product's {_number(result['product_tflops'])} TFLOP/s."
        )


def _compiled(result: Result) -> str:
    prefixes = [
        {"side": side, **{key.removeprefix(f"{side}_"): result[key] for key in result}} for side in ("plain", "mixed")
    ]
    return _table(
        prefixes,
        (f"{result['rows']} rows, compiled", "side"),
        ("compiling, s", "compile_seconds"),
        ("ms", "compiled_ms"),
        ("graphed, ms", "compiled_graphed_ms"),
        ("best of all, ms", "best_ms"),
    )


def _training(result: Result) -> str:
    return _steps(f"{result['batch']} images a step", result["methods"])


def _full(result: Result) -> str:
    name = f"full, by {result['by']}, autocast (recorded on an H200: {result['recorded_ms']:.0f} ms)"
    return _steps(f"{result['batch']} images a step", [{"method": name, **result}])


def _steps(head: str, rows: Sequence[Result]) -> str:
    return _table(
        rows,
        (head, "method"),
        *_RATES,
        ("MB an image", lambda row: row["bytes_an_image"] / 1e6),
        ("activations alone", lambda row: row["bytes_an_image_without_weights"] / 1e6),
    )


def _engine(result: Result) -> str:
    table = _table(
        result["runs"],
        (f"engine, {result['images']} guided images", lambda run: f"{run['rows']} rows, {run['steps']} steps"),
        ("images/s", "images_a_second"),
        ("evaluations/s", "evaluations_a_second"),
        ("of the bare forward", "over_bare"),
        ("first image, s", "first_image_seconds"),
        ("one image alone, s", "one_image_seconds"),
    )
    pixels = (
        "Pixels by diffusers' autoencoder." if result["decodes"] else "Without an autoencoder: diffusers was missing."
    )
    return f"{table}\n\n{pixels}"


def _decoder(result: Result) -> str:
    return "\n\n".join(
        _table(
            run["forms"],
            (f"decoding {run['latents']} latents ({_number(run['served_ms'])} ms as served)", "form"),
            ("ms", "ms"),
            ("images/s", "images_a_second"),
            ("largest difference from fp32, of 255", "levels"),
        )
        for run in result["runs"]
    )


def _kinds(result: Result) -> str:
    exact, default, learning, graphs = (result[name] for name in ("exact", "default", "learning", "graphs"))
    rows = [
        {"name": name, "exact": exact["relative"][name], "default": difference}
        for name, difference in default["relative"].items()
    ]
    head = f"latents after {result['steps']} steps, all in one batch against alone, / rms"
    text = (
        f"In exact mode {exact['equal_images']} of {len(rows)} images of the engine are equal. Losses of "
        f"{len(learning['eager'])} steps of learned guidance differ by "
        f"{_number(learning['largest_relative_difference'])} of their size between a CUDA graph and eager computation. "
        f"{graphs['captures']} graphs were captured one after another, in {_number(max(graphs['reserved_mb']))} MB: "
        f"{graphs['equal']} have equal outputs. They were captured again while the device did other work: "
        f"{graphs['equal_beside_work']} have equal outputs."
    )
    return f"{_table(rows, (head, 'name'), ('exact', 'exact'), ('default', 'default'))}\n\n{text}"


def _start(result: Result) -> str:
    return (
        f"A new engine's first image of {result['steps']} steps: {_number(result['with graphs'])} s with graphs, "
        f"{_number(result['without'])} s without. Capturing {result['captured']} of "
        f"{result['batch_sizes']} batch sizes: {_number(result['capturing_seconds'])} s."
    )


def _together(result: Result) -> str:
    rows = [{"side": side, **result[side]} for side in ("one after another", "together")]
    name = f"a step of {result['fine-tunes']} fine-tunes of batch {result['batch']}"
    difference = _number(result["largest_difference_of_parameters"])
    text = f"Together {result['gain']:.2f}x the steps a second; parameters differ by {difference} of their rms at most."
    return f"{_table(rows, (name, 'side'), *_RATES)}\n\n{text}"


def _fused(result: Result) -> str:
    return _table(
        result["operations"],
        ("fused operation", "name"),
        ("ms", "ms"),
        ("plain, ms", "plain_ms"),
        ("GB/s", "gigabytes_a_second"),
        ("of a copy", "copy_share"),
        ("error", "relative_error"),
    )


def _fp8(result: Result) -> str:
    rows = [{"name": f"a forward of {forward['rows']} rows"} | forward] if (forward := result.get("forward")) else []
    return _table(
        [*rows, *result["layers"]],
        ("product", "name"),
        ("bf16, ms", "bf16_ms"),
        ("fp8, ms", "fp8_ms"),
        ("quantization, ms", lambda row: row.get("quantization_ms")),
        ("error, bf16", "bf16_relative_error"),
        ("error, fp8", "fp8_relative_error"),
    )


def _independence(result: Result) -> str:
    return _table(
        _modes(result),
        (f"latents after {result['steps']} steps, together against alone", "name"),
        ("largest difference", "largest_difference"),
        ("/ rms", "largest_relative_difference"),
        ("equal", lambda mode: f"{mode['equal']} of {result['images']}"),
    )


def _equality(result: Result) -> str:
    return _table(
        _modes(result),
        ("one forward", "name"),
        ("largest from alone / rms", "largest_difference_from_alone"),
        ("norm, from alone", "relative_error_from_alone"),
        ("from the reference", "relative_error_from_reference"),
    )


def _modes(result: Result) -> list[Result]:
    return [{"name": name, **mode} for name, mode in result.items() if isinstance(mode, dict)]


def _profile(result: Result) -> str:
    tables = []
    for name in ("forward", "training step"):
        summary = result[name]
        if "error" in summary:
            continue
        kinds = [{"kind": kind, "ms": ms} for kind, ms in summary["kinds"].items()]
        tables += [
            _table(kinds, (f"{name}, {summary['kernels']} kernels", "kind"), ("ms", "ms")),
            _table(summary["top"], ("kernel", lambda row: f"`{row['name']}`"), ("count", "count"), ("ms", "ms")),
        ]
    return "\n\n".join(tables)


def _table(rows: Iterable[Result], *columns: Column) -> str:
    """Returns a Markdown table of the rows that ended without an error."""
    cells = [[_cell(row, read) for _, read in columns] for row in rows if "error" not in row]
    return markdown_table([head for head, _ in columns], cells)


def _cell(row: Result, read: str | Callable[[Result], Any]) -> str:
    value = row[read] if isinstance(read, str) else read(row)
    if isinstance(value, str):
        return value
    return f"{value:.0%}" if read in _FRACTIONS and value is not None else _number(value)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
