"""The experiment on Theorem 2: its parts compared with closed forms, and the whole command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import __main__ as paper
from benchmarks.paper.recovery import ACTIVATIONS, Recovery, Setting, recover, smallest_variance, sub_gaussian_norm
from benchmarks.paper.theorem2 import Cell, measure, orthogonal_settings, parallel_settings, verdict


def runs(setting: Setting, eta: float = 0.01, count: int = 20) -> list[Recovery]:
    return [recover(setting, [eta], np.random.default_rng(run))[0] for run in range(count)]


def test_sub_gaussian_norm_is_the_maximum_over_p() -> None:
    """E|X|^p of a standard normal variable is 2^(p/2) Gamma((p + 1) / 2) / sqrt(pi)."""
    powers = np.linspace(1, 50, 500)
    moments = [2 ** (p / 2) * math.gamma((p + 1) / 2) / math.sqrt(math.pi) for p in powers]
    norms = [moment ** (1 / p) / math.sqrt(p) for p, moment in zip(powers, moments, strict=True)]
    assert sub_gaussian_norm(3.0) == pytest.approx(3 * max(norms))


def test_smallest_variance_equals_the_closed_form() -> None:
    means, deviations = np.array([0.0, 0.0, 5.0]), np.array([1.0, 2.0, 1.0])
    relu = 0.5 - 1 / (2 * math.pi)
    assert smallest_variance(ACTIVATIONS["linear"], means, deviations) == pytest.approx(1)
    assert smallest_variance(ACTIVATIONS["relu"], means, deviations) == pytest.approx(relu, rel=1e-4)
    assert smallest_variance(ACTIVATIONS["relu"], means[1:2], deviations[1:2]) == pytest.approx(4 * relu, rel=1e-4)


@pytest.mark.parametrize("dimension", [4, 16, 64])
def test_number_of_samples_is_at_least_d_squared_log_d(dimension: int) -> None:
    minimum = dimension**2 * math.log(dimension)
    assert minimum <= Setting(activation="relu", dimension=dimension).samples < minimum + 1
    assert Setting(activation="relu", dimension=dimension, multiple=4).samples >= 4 * minimum


def test_factors_are_recovered_without_noise() -> None:
    for spread in (None, 0.1):
        (recovery,) = recover(Setting(activation="tanh", dimension=8, spread=spread), [0.0], np.random.default_rng(0))
        assert recovery.error < 1e-10


def test_bound_and_lemma_7_hold_for_orthogonal_rows() -> None:
    recoveries = runs(Setting(activation="relu", dimension=16))
    assert all(run.holds and run.eigenvalue_ratio > 0.5 for run in recoveries)
    # D^2 log D samples leave about sqrt(D / m) of the noise.
    typical = math.sqrt(16 / 710) * 0.01 / sub_gaussian_norm(1.0)
    assert typical < np.median([run.error for run in recoveries]) < 10 * typical


def test_bound_and_lemma_7_fail_for_nearly_parallel_rows() -> None:
    recoveries = runs(Setting(activation="linear", dimension=16, spread=0.01), eta=0.016)
    assert not any(run.holds for run in recoveries)
    assert all(run.eigenvalue_ratio < 1e-3 for run in recoveries)
    assert all(run.error < run.corrected_bound for run in recoveries)
    assert recoveries[0].bound == pytest.approx(4 * math.sqrt(2) * 0.016, rel=1e-4)


def test_column_of_zeros_in_all_samples_gives_a_finite_error() -> None:
    generator = np.random.default_rng(0)
    recoveries = [recover(Setting(activation="relu", dimension=2), [0.01], generator)[0] for _ in range(200)]
    assert any(run.eigenvalue_ratio < 1e-20 for run in recoveries)
    assert all(math.isfinite(run.error) for run in recoveries)


def test_settings_have_orthogonal_and_parallel_rows() -> None:
    orthogonal, parallel = orthogonal_settings([4, 8]), parallel_settings([4, 8])
    assert {(setting.dimension, setting.multiple) for setting in orthogonal} == {(4, 1), (4, 2), (4, 4), (8, 1)}
    assert all(setting.spread is None for setting in orthogonal)
    assert {setting.dimension for setting in parallel} == {4}
    assert all(setting.spread for setting in parallel)


def test_cell_counts_its_runs_and_is_reproducible() -> None:
    setting = Setting(activation="sigmoid", dimension=8, spread=0.03)
    cells = list(measure(setting, 5, runs=12, seed=1))
    assert cells == list(measure(setting, 5, runs=12, seed=1))
    assert cells != list(measure(setting, 5, runs=12, seed=2))
    assert [cell.eta for cell in cells] == [0.001, 0.01, 0.1]
    for cell in cells:
        assert cell.runs == 12
        assert 0 <= cell.holds < 12
        assert cell.holds_corrected == 12
        assert (cell.largest_ratio < 1) == (cell.holds == 12)


def test_verdict_counts_failures() -> None:
    def cell(spread: float | None, holds: int, ratio: float) -> Cell:
        setting = Setting(activation="tanh", dimension=8, spread=spread)
        return Cell(
            setting=setting, eta=0.01, runs=10, holds=holds, holds_corrected=10, lemma_7=holds,
            error=ratio, bound=1.0, ratio=ratio, largest_ratio=ratio,
        )  # fmt: skip

    first, second, *others = verdict([cell(None, 9, 1.25)], [cell(1.0, 10, 0.5), cell(0.3, 8, 2), cell(0.1, 0, 30)])
    assert "held in 9 of 10 runs; the largest error was 1.25 of it" in first
    assert "failed in 12 of 30 runs" in second
    assert "held in 30." in second
    assert len(others) == 1
    assert others[0].startswith("tanh: first failures at a spread of 0.3; at worst, D = 8 and a spread of 0.1")
    assert others[0].endswith("the median error is 30 times the bound.")
    assert "no failure" in verdict([cell(None, 10, 0.5)], [cell(1.0, 10, 0.5)])[-1]


def test_command_writes_its_three_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    paper.main(["theorem2", "--runs", "3", "--dimensions", "4", "8", "--output", str(tmp_path)])
    assert "Orthogonal rows: the bound held in 108 of 108 runs" in capsys.readouterr().out.replace("\n", " ")
    written = json.loads((tmp_path / "theorem2.json").read_text())
    assert {"command", "date", "hardware", "seeds", "runs", "verdict"} < written.keys()
    assert len(written["orthogonal"]) == 3 * 4 * 3
    assert len(written["parallel"]) == 4 * 6 * 3
    text = (tmp_path / "theorem2.md").read_text()
    assert "![error against bound](theorem2.png)" in text
    assert written["date"] in text
    assert (tmp_path / "theorem2.png").read_bytes().startswith(b"\x89PNG")


def test_stored_result_is_a_full_run_with_the_counterexample() -> None:
    stored = json.loads((Path(__file__).parents[2] / "docs" / "results" / "theorem2.json").read_text())
    assert stored["runs"] >= 100
    assert all(cell["holds"] == cell["runs"] for cell in stored["orthogonal"])
    counterexample = [cell for cell in stored["parallel"] if cell["activation"] == "linear" and cell["spread"] == 0.003]
    assert all(cell["holds"] < cell["runs"] / 2 for cell in counterexample)
