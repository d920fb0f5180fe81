"""Every measure runs on a tiny model, without regard to its figures."""

import json
from pathlib import Path

import pytest

from benchmarks.serving import __main__ as command
from benchmarks.serving import catalogue
from benchmarks.serving.measure import Repetitions, in_turns, median_ratio, quantile
from benchmarks.serving.popularity import Zipf
from tests.benchmarks.small import subject

ONCE = Repetitions(forward=1, engine=1, mixes=3)


@pytest.mark.parametrize("name", catalogue.QUESTIONS)
def test_each_question_measures_values_with_a_verdict(name: str) -> None:
    question = catalogue.QUESTIONS[name]
    if question.needs:
        pytest.importorskip(question.needs)
    measures = question.ask(subject(), ONCE)
    assert measures
    for measure in measures:
        assert measure.value is not None
        assert measure.value >= 0
        assert measure.verdict in {"pass", "below", "measured"}


def test_batch_rows_equal_their_solo_run() -> None:
    (measure,) = catalogue.QUESTIONS["solo"].ask(subject(), Repetitions(mixes=20))
    assert measure.verdict == "pass"


def test_measures_without_a_gpu_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    measures = list(catalogue.measure_all(list(catalogue.QUESTIONS), ["full"], lambda _: subject(), ONCE))
    assert len(measures) == len(catalogue.QUESTIONS)
    assert {measure.verdict for measure in measures} == {"not measured"}
    assert {measure.note for measure in measures} == {"no GPU"}


def test_measure_without_its_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "find_spec", lambda _: None)
    (measure,) = catalogue.measure_all(["peft"], ["mini"], lambda _: subject(), ONCE)
    assert (measure.value, measure.verdict) == (None, "not measured")
    assert "peft is not installed" in measure.note


def test_sides_are_timed_in_turns_after_a_warm_up() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return len(calls)

    samples = in_turns({name: lambda name=name: side(name) for name in "ab"}, 3)
    assert "".join(calls) == "abababab"
    assert samples == {"a": [3, 5, 7], "b": [4, 6, 8]}
    assert median_ratio({"a": [1, 2, 30], "b": [8, 4, 1]}, "a", "b") == 0.5


def test_quantile_is_a_sample() -> None:
    assert quantile(range(1, 101), 0.95) == 95
    assert quantile([3], 0.95) == 3


def test_zipf_popularity_decreases_with_the_rank() -> None:
    ranks = Zipf(1_000).draw(20_000)
    assert set(ranks) <= set(range(1_000))
    assert 1.6 < ranks.count(0) / ranks.count(1) < 2.5
    assert Zipf(10).draw(5) == Zipf(10).draw(5)


def test_command_writes_its_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "subject", lambda _, **options: subject())
    monkeypatch.setattr(command, "QUICK", ONCE)
    command.main(["--quick", "--on", "mini", "--only", "throughput", "--json", str(tmp_path / "report.json")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "row-steps a second" in printed
    assert "Quick: too few repetitions" in printed
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["quick"]
    assert {"cpu", "cores", "threads", "torch", "gpu"} <= written["hardware"].keys()
    assert len(written["measures"]) == 6
    assert (tmp_path / "report-small-cpu.png").is_file()
