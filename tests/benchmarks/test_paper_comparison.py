"""Comparisons of methods: the paper's depths on another base, and the resulting tables."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from benchmarks.bundled_base.pictures import Artist, served, serving
from benchmarks.paper.beside import beside_the_paper
from benchmarks.paper.cells import fitted, guide_by_weaker
from benchmarks.paper.comparison import COMPARISONS, Cell
from benchmarks.paper.domains import load_folder
from benchmarks.paper.record import Record
from benchmarks.paper.settings import parsed, parser_of
from benchmarks.paper.systems import DATASETS, TABLE_1, TABLE_4A, TABLE_4B
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import Sites, trainable_shapes
from core.ml.bundled import sample_domain_folder
from core.ml.evaluation.drawings import is_held_out
from core.ml.model.adapter import TensorAdapter
from core.ml.serving.resident import load_base_on
from core.ml.tuning.start import start_tensors


def test_depths_are_scaled_to_another_base() -> None:
    def depths(table: tuple[object, ...]) -> list[tuple[int, int | None]]:
        sites = [fitted(system, 8).sites for system in table]  # type: ignore[arg-type]
        return [(site.first_block, site.last_block) for site in sites if isinstance(site, Sites)]

    assert depths(TABLE_4A) == [(first, 8) for first in (8, 7, 6, 5, 4, 3, 2, 1)]
    assert depths(TABLE_4B) == [(1, last) for last in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert all(fitted(system, 28) == system for table in (TABLE_1, TABLE_4A, TABLE_4B) for system in table)


def test_table_shows_means_spread_and_missing_cells() -> None:
    def cell(system: str, domain: str, seed: int, distance: float, seconds: float) -> Cell:
        return {"system": system, "domain": domain, "seed": seed, "feature distance": distance,
                "seconds": seconds, "trainable": 1234}  # fmt: skip

    cells = [
        {"system": "the base", "domain": "A", "seed": 0, "feature distance": 50.0},
        {"system": "the base", "domain": "B", "seed": 0, "feature distance": 40.0},
        cell("Full Fine-tuning", "A", 0, 20, 100), cell("Full Fine-tuning", "A", 1, 22, 100),
        cell("DiffFit", "A", 0, 10, 50), cell("DiffFit", "A", 1, 14, 60), cell("DiffFit", "B", 0, 20, 60),
    ]  # fmt: skip
    table = COMPARISONS["table1"]._table(cells, ("A", "B"), "feature distance")
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert rows["the base"].startswith("| the base | 0 | 50.00 | 40.00 | 45.00 |")
    assert rows["DiffFit"] == "| DiffFit | 1,234 | 12.00 ± 2.83 | 20.00 | 16.00 | 0.55x | 15.39 |"
    assert rows["Full Fine-tuning"].startswith("| Full Fine-tuning | 1,234 | 21.00 ± 1.41 | not yet | not yet |")


def test_nearest_system_is_reported_per_domain_and_by_mean() -> None:
    distances = {"Full Fine-tuning": (10, 30), "DiffFit": (11, 12), "LoRA-R8": (50, 11), "BitFit": (1,)}
    cells = [
        {"system": system, "domain": domain, "seed": 0, "feature distance": distance}
        for system, values in distances.items()
        for domain, distance in zip("AB", values, strict=False)
    ]
    nearest = COMPARISONS["table1"]._nearest(cells, ("A", "B"), "feature distance")
    by_mean = "DiffFit (11.50), Full Fine-tuning (20.00), LoRA-R8 (30.50)"
    assert nearest == f"Nearest: Full Fine-tuning to A, LoRA-R8 to B; by the mean {by_mean}."


def test_means_of_the_papers_fids_are_those_that_it_prints() -> None:
    for system in TABLE_1:
        assert len(system.fids) == len(DATASETS)
        assert mean(system.fids) == pytest.approx(system.fid, abs=0.007), system.name


def test_measured_table_is_put_beside_the_papers() -> None:
    scores = {system.name: [10.0 + place, 20.0] for place, system in enumerate(TABLE_1)} | {"DiffFit": [5.0, 40.0]}
    names = list(scores)
    times, trains = dict.fromkeys(names, "0.50x"), dict.fromkeys(names, 2000) | {"DiffFit": 5}
    part, fids = beside_the_paper(TABLE_1, {"distance": scores}, times, trains)
    rows = {line.split(" | ")[0].strip("| "): line for line in part.splitlines()}
    assert rows["DiffFit"] == ("| DiffFit | 1.00 | 0.92 | 1 | 1 | 1 of 2 | 5 of 8 | 0.25 % | 0.12 % | 0.50x | 0.49x |")
    assert rows["LoRA-R8"].startswith("| LoRA-R8 | 1.22 | 5.06 | 7 | 7 | 0 of 2 | 0 of 8 |")
    assert "| LoRA-R8 | 33.75 | 32.53 |" in fids
    unfinished = scores | {"BitFit": [3.0]}
    assert list(beside_the_paper(TABLE_1, {"distance": unfinished}, times, trains)) == []


def test_table_without_full_fine_tuning_has_no_relative_time() -> None:
    cells = [{"system": "1×", "domain": "A", "seed": 0, "feature distance": 10.0, "seconds": 5.0, "trainable": 12}]
    table = COMPARISONS["table4d"]._table(cells, ("A",), "feature distance")
    assert table.splitlines()[0] == "| system | trains | A | mean | the paper's FID |"
    assert "| 1× | 12 | 10.00 | 10.00 | 15.68 |" in table
    assert "the base" not in table, "the base was not measured"


def test_cells_of_another_budget_are_neither_used_nor_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "table1.json"
    text = '{"command": "c", "date": "d", "hardware": {}, "base": "a", "budget": {"steps": 2}, "cells": [{"seed": 4}]}'
    path.write_text(text)
    record = Record(path, {"base": "a", "budget": {"steps": 2}, "inception": None}, "cells", "c2")
    assert record.rows == [{"seed": 4}]
    with pytest.raises(SystemExit, match="was made with another budget: c"):
        Record(path, {"base": "a", "budget": {"steps": 3}}, "cells", "c2")
    assert path.read_text() == text
    assert Record(tmp_path / "none.json", {"base": "a"}, "cells", "c").rows == []


def test_recorded_command_leaves_out_local_paths() -> None:
    parser = parser_of("table1", None, seeds=3, pictures=8)
    options = parsed(parser, ["--seeds", "2", "--output", "elsewhere", "--threads", "1", "--cache=there"])
    assert options.command == "python -m benchmarks.paper table1 --seeds 2 --threads 1"
    assert str(options.output) == "elsewhere"


def test_dry_run_of_the_papers_size_prints_hours_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """Needs neither the weights nor the data. A DiffFit step of 32 images takes 43 ms by the recorded figures."""
    COMPARISONS["table1"].main(["--size", "xl", "--dry-run", "--data", "food-101", "birds"])
    text = capsys.readouterr().out
    assert "24,000 steps of 256 images, 64 at once, then 10,000 images of 50 steps" in text
    hours = {line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in text.splitlines() if " | " in line}
    assert float(hours["DiffFit"]) == pytest.approx(24_000 * 256 / 32 * 0.043 / 3600, rel=0.05)
    assert len([name for name in hours if name in {system.name for system in TABLE_1}]) == len(TABLE_1)
    assert "2 cells of each system" in text


def test_papers_setup_runs_to_its_end_at_a_tiny_size(tmp_path: Path) -> None:
    """With the paper's sampler, spacing and guidance; only the base, the steps and the counts are smaller."""
    for name in ("fruit", "heart"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for path in sorted((sample_domain_folder() / name).glob("*.png")):
            shutil.copy(path, tmp_path / "data" / name)
    small = "--base mini --device cpu --steps 2 --batch-size 2 --micro-batch-size 1 --pictures 4 --sampling-steps 2"
    words = ["--size", "xl", *small.split(), "--data", str(tmp_path / "data"), "--output", str(tmp_path)]
    COMPARISONS["table1"].main(words)
    result = json.loads((tmp_path / "table1.json").read_text())
    rows = [name for system in TABLE_1 for name in (system.name, system.recommended) if name]
    assert [cell["system"] for cell in result["cells"]] == ["the base", *rows]
    own, recommended = result["cells"][-2:]
    assert own["held_out_loss"] == recommended["held_out_loss"]
    assert own["feature distance"] != recommended["feature distance"]
    sampling = result["budget"]["sampling"]
    assert (sampling["sampler"], sampling["timestep_spacing"], sampling["guidance_scale"]) == ("ddpm", "dit", 1.5)
    assert "8 of 8 cells are done" in (tmp_path / "table1.md").read_text()
    result["cells"] = [cell for cell in result["cells"] if cell["system"] != TABLE_1[0].recommended]
    (tmp_path / "table1.json").write_text(json.dumps(result))
    COMPARISONS["table1"].main(words)  # measures only the row that is missing
    again = json.loads((tmp_path / "table1.json").read_text())["cells"]
    assert [cell["system"] for cell in again] == ["the base", *(rows[:1] + rows[2:]), rows[1]]


def test_guidance_by_a_weaker_version_equals_the_engines() -> None:
    """Compares images of BitFit, which folds, so that the engine generates them too."""
    base = load_base_on("cpu", "mini")
    generator = torch.Generator().manual_seed(0)
    shapes = trainable_shapes(base.dit.config, "bitfit", Sites(), 3)
    start = start_tensors(base.dit, shapes, generator)
    tensors = {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in start.items()}
    sampling = SamplingSettings.completed({"steps": 6})
    labels = torch.tensor([0, 1, 2])
    with serving(base) as resident:
        expected, evaluations = served(resident, labels, sampling, ("adapter", lambda: tensors))
    assert evaluations < 12, "some steps are not guided"
    unguided = Artist(base, replace(sampling, guidance_scale=1.0), TensorAdapter(tensors), null_class=3)
    guided = guide_by_weaker(replace(unguided, sampling=sampling), tensors, sampling)
    levels = (guided.draw(labels, "guided").int() - expected.int()).abs()
    assert levels.max() <= 1
    assert (guided.draw(labels, "guided").int() - unguided.draw(labels, "unguided").int()).abs().max() > 20
    half = replace(base, dit=copy.deepcopy(base.dit).bfloat16())  # as on a GPU
    weaker = guide_by_weaker(replace(unguided, base=half), tensors, sampling).weaker
    assert isinstance(weaker, TensorAdapter)
    assert {tensor.dtype for tensor in weaker.tensors.values()} == {torch.float32}


def test_folder_of_images_loads_as_a_domain(tmp_path: Path) -> None:
    """A fifth of the images is held out, by file name; the others are read again on each iteration."""
    names = [f"{number}.png" for number in range(20)]
    for class_name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (tmp_path / class_name).mkdir()
        for name in names:
            Image.new("RGB", (20, 30), colour).save(tmp_path / class_name / name)
    (tmp_path / "red" / "notes.txt").write_text("no image")
    domain = load_folder(tmp_path, 16)
    unseen = [name for name in names if is_held_out(name.removesuffix(".png"))]
    assert domain.class_names == ("blue", "red")
    assert domain.held_out.pixels.shape == (2 * len(unseen), 3, 16, 16)
    assert domain.held_out.pixels[-1, :, 0, 0].tolist() == [255, 0, 0]
    assert domain.held_out.labels.tolist() == [0] * len(unseen) + [1] * len(unseen)
    for _ in range(2):
        seen = [(label, image.getpixel((0, 0))) for label, image in domain.seen]
        assert seen == [(0, (0, 0, 255))] * (20 - len(unseen)) + [(1, (255, 0, 0))] * (20 - len(unseen))
    with pytest.raises(FileNotFoundError, match="no folders of images"):
        load_folder(tmp_path / "red", 16)
