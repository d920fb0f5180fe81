"""The device of a worker."""

import pytest
import torch

from core.engine.runner import step_rows


@pytest.mark.parametrize(("device", "configured", "rows"), [("cpu", 32, 8), ("cpu", 4, 4), ("cuda", 32, 32)])
def test_step_on_a_cpu_has_no_more_rows_than_gain_something(device: str, configured: int, rows: int) -> None:
    assert step_rows(torch.device(device), configured) == rows
