"""Exact parameter counts: every figure that the paper prints, and the questions that its figures leave open."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from benchmarks import parameters
from benchmarks.controlnet.counts import ControlNetCounts, controlnet_counts
from benchmarks.paper.systems import TABLE_1, TABLE_4A, TABLE_4B, TABLE_4C, TABLE_4D, System


@pytest.fixture(scope="module")
def controlnet() -> ControlNetCounts:
    return controlnet_counts()


def counted(systems: tuple[System, ...]) -> dict[str, int]:
    return {system.name: parameters.parameters(system) for system in systems}


def test_parameter_counts_of_table_1() -> None:
    assert counted(parameters.all_tables()["1"]) == {
        "Full Fine-tuning": 673_799_072,
        "Adapt-Parallel": 4_280_320,
        "Adapt-Sequential": 4_280_320,
        "BitFit": 607_136,
        "VPT-Deep": 2_816_672,
        "LoRA-R8": 1_149_696,
        "LoRA-R16": 2_181_888,
        "DiffFit": 835_264,
        "DiffFit, literal": 703_936,
    }


def test_parameter_counts_of_tables_4a_and_4b() -> None:
    """Counts 738,496 and 2,304 for each block with factors."""
    blocks = {
        "28→25": 4, "28→22": 7, "28→18": 11, "28→14": 14, "28→11": 18, "28→8": 21, "28→4": 25, "28→1": 28,
        "1→3": 3, "1→7": 7, "1→11": 11, "1→14": 14, "1→18": 18, "1→21": 21, "1→25": 25, "1→28": 28,
    }  # fmt: skip
    assert counted(TABLE_4A + TABLE_4B) == {name: 738_496 + 2304 * number for name, number in blocks.items()}


@pytest.mark.parametrize("system", [*TABLE_1, *TABLE_4A, *TABLE_4B], ids=lambda system: system.name)
def test_printed_figures_are_the_counts_rounded_or_truncated(system: System) -> None:
    assert system.parameters is not None
    exact = parameters.parameters(system)
    assert parameters.agreement(Decimal(exact) / 10**6, system.parameters) != "neither"
    if system.percent:
        percent = Decimal(100) * exact / parameters.parameters(TABLE_1[0])
        assert parameters.agreement(percent, system.percent) != "neither"


@pytest.mark.parametrize(
    ("exact", "printed", "expected"),
    [
        ("0.607136", "0.61", "rounded"),
        ("0.835264", "0.83", "truncated"),
        ("2.181888", "2.18", "both"),
        ("11.479680", "10.8", "neither"),
        ("0.5", "1", "rounded"),
    ],
)
def test_agreement_is_rounded_truncated_both_or_neither(exact: str, printed: str, expected: str) -> None:
    assert parameters.agreement(Decimal(exact), printed) == expected


def test_table_4c_ends_with_difffit_and_4d_varies_only_the_learning_rate() -> None:
    assert parameters.parameters(TABLE_4C[-1]) == parameters.parameters(TABLE_1[-1])
    assert counted(TABLE_4C)["NA (BitFit)"] == counted(TABLE_1)["BitFit"]
    assert {system.sites for system in TABLE_4D} == {TABLE_4A[-1].sites} == {TABLE_4B[-1].sites}
    assert [system.learning_rate for system in TABLE_4D] == pytest.approx(
        [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3]
    )
    assert [system.learning_rate for system in TABLE_1] == pytest.approx([1e-4, *[1e-3] * 7])


def test_parameter_counts_of_controlnet(controlnet: ControlNetCounts) -> None:
    assert controlnet.total == 361_279_120
    assert controlnet.zero_convolutions == 4 * (320**2 + 320) + 3 * (640**2 + 640) + 6 * (1280**2 + 1280) == 11_479_680
    assert controlnet.hint_zero_convolution == 256 * 320 * 9 + 320
    assert controlnet.biases == 163_744 - 10_880 - 320
    # Two ResNet blocks per level and two in the middle; attention in three levels and once in the middle.
    resnets = 2 * (320 + 640 + 1280 + 1280) + 2 * 1280
    transformers = 2 * (320 + 640 + 1280) + 1280
    assert controlnet.branch_factors == resnets + 3 * transformers
    assert controlnet.attention_factors == 2 * 4 * transformers
    assert controlnet.trainable == 12_442_784
    assert controlnet.trainable_each_layer == 12_515_104
    assert controlnet.zero_convolutions > 11_200_000, "the paper's total is smaller than this part"


def test_open_questions_are_listed_with_their_counts(controlnet: ControlNetCounts) -> None:
    text = " ".join(parameters.open_questions(controlnet))
    for figure in ("703,936", "835,264", "717,760", "770,752", "773,056", "11,479,680", "12,442,784"):
        assert figure in text
    assert "Full Fine-tuning, BitFit, LoRA-R8 fit when rounded alone, VPT-Deep, DiffFit when cut off alone" in text


def test_command_prints_and_writes_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "parameters.json"
    parameters.main(["--json", str(path)])
    printed = capsys.readouterr().out
    written = json.loads(path.read_text())
    assert "835,264" in printed
    assert "361,279,120" in printed
    assert [row["parameters"] for row in written["tables"]["1"]] == list(counted(parameters.all_tables()["1"]).values())
    assert written["tables"]["4d"][0]["learning_rate"] == pytest.approx(1e-5)
    assert written["controlnet"]["trainable"] == sum(written["controlnet"]["parts"].values()) == 12_442_784
    assert written["base"] == {"parameters": 674_834_720, "positions": 294_912}


def test_stored_result_equals_that_of_the_command(tmp_path: Path) -> None:
    parameters.main(["--json", str(tmp_path / "parameters.json")])
    stored = Path(__file__).parents[2] / "docs" / "results"
    for name in ("parameters.json", "parameters.md"):
        assert (tmp_path / name).read_text() == (stored / name).read_text()
