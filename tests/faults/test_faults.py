"""A little of every fault; `make faults` has the rest."""

import pytest

from tests import services
from tests.faults.scenarios import SCENARIOS, run


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_holds(name: str, postgres_server: services.Postgres, s3_endpoint: str) -> None:
    outcome = run(name, postgres_server, quick=True)
    assert outcome.passed, outcome
