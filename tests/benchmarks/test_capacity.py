"""The page on capacity agrees with the code and the measurements."""

import pytest

from benchmarks.capacity import CARD, FINETUNE, IMAGE_STEPS, PAGES, GpuRates, filled, tables
from benchmarks.gpu.operations import forward_operations
from core.artifact.base import BaseConfig


def test_pages_are_up_to_date() -> None:
    pages = [page.read_text() for page in PAGES]
    assert [filled(page) for page in pages] == pages
    assert all(any(table in page for page in pages) for table in tables().values())


def test_operations_of_a_forward_equal_the_dit_papers() -> None:
    """Table 1 of arXiv 2212.09748 has 118.6 G multiply-adds."""
    assert abs(forward_operations(BaseConfig()) / 2 / 118.6e9 - 1) < 0.01


def test_model_card_has_the_measured_rate() -> None:
    assert "| 4.5 s |" in CARD.read_text()


def test_gpu_rates_are_those_of_the_best_batch_at_the_default_steps() -> None:
    rates = ((50, 40.0), (IMAGE_STEPS, 13.0), (IMAGE_STEPS, 14.0))
    runs = [{"steps": steps, "images_a_second": rate} for steps, rate in rates]
    training = {"batch": FINETUNE.training.batch_size // 2, "methods": [{"method": "difffit", "ms": 20.0}]}
    gpu = {"phases": {"training": training}, "date": "2026-12-01"}
    measured = GpuRates.measured(gpu, {"runs": runs, "hardware": {"gpu": "NVIDIA H100 80GB HBM3"}})
    assert (measured.gpu, measured.images_a_second, measured.step_seconds) == ("H100", 14.0, pytest.approx(0.04))
    assert "measured 2026-12-01" in measured.source


@pytest.mark.parametrize("phases", [{}, {"training": {"batch": 1, "methods": []}}])
def test_incomplete_gpu_run_is_rejected(phases: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no full run"):
        GpuRates.measured({"phases": phases, "date": ""}, {"runs": [], "hardware": {"gpu": "none"}})
