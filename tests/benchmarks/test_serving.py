"""Every measure runs on a tiny model, whose figures mean nothing."""

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
    for found in measures:
        assert found.value is not None
        assert found.value >= 0
        assert found.verdict in {"pass", "below", "measured"}


def test_rows_equal_their_solo_run() -> None:
    (found,) = catalogue.QUESTIONS["solo"].ask(subject(), Repetitions(mixes=20))
    assert found.verdict == "pass"


def test_what_there_is_no_gpu_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = list(catalogue.measure_all(list(catalogue.QUESTIONS), ["full"], lambda _: subject(), ONCE))
    assert len(found) == len(catalogue.QUESTIONS)
    assert {one.verdict for one in found} == {"not measured"}
    assert {one.note for one in found} == {"no GPU"}


def test_what_a_package_is_missing_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "find_spec", lambda _: None)
    (found,) = catalogue.measure_all(["peft"], ["mini"], lambda _: subject(), ONCE)
    assert (found.value, found.verdict) == (None, "not measured")
    assert "peft is not installed" in found.note


def test_sides_take_turns_and_the_first_time_does_not_count() -> None:
    calls: list[str] = []

    def side(name: str) -> float:
        calls.append(name)
        return len(calls)

    samples = in_turns({name: lambda name=name: side(name) for name in "ab"}, 3)
    assert "".join(calls) == "abababab"
    assert samples == {"a": [3, 5, 7], "b": [4, 6, 8]}
    assert median_ratio({"a": [1, 2, 30], "b": [8, 4, 1]}, "a", "b") == 0.5


def test_quantile() -> None:
    assert quantile(range(1, 101), 0.95) == 95
    assert quantile([3], 0.95) == 3


def test_popularity_falls_with_the_rank() -> None:
    drawn = Zipf(1_000).draw(20_000)
    assert set(drawn) <= set(range(1_000))
    assert 1.6 < drawn.count(0) / drawn.count(1) < 2.5
    assert Zipf(10).draw(5) == Zipf(10).draw(5)


def test_command_writes_its_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "subject", lambda _, **options: subject())
    monkeypatch.setattr(command, "QUICK", ONCE)
    command.main(["--quick", "--on", "mini", "--only", "throughput", "--json", str(tmp_path / "found.json")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "row-steps a second" in printed
    assert "Quick: too few repetitions" in printed
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["quick"]
    assert {"cpu", "cores", "threads", "torch", "gpu"} <= written["hardware"].keys()
    assert len(written["measures"]) == 6
    assert (tmp_path / "found-small-cpu.png").is_file()
