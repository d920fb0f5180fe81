"""The page on capacity says what the code and the measurements say."""

from benchmarks.capacity import CARD, PAGE, filled, forward_operations, tables
from core.artifact.base import BaseConfig


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert filled(page) == page
    assert all(table in page for table in tables().values())


def test_a_forward_has_the_operations_that_dit_s_authors_count() -> None:
    """118.6 G multiplications and additions, Table 1 of arXiv 2212.09748."""
    assert abs(forward_operations(BaseConfig()) / 2 / 118.6e9 - 1) < 0.01


def test_the_measured_rates_are_the_card_s() -> None:
    assert "| 8.3 s |" in CARD.read_text()
