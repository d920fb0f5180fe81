"""A little of every fault; `make faults` has the rest, and the pauses, which wait for leases most of their time."""

from typing import get_args

import pytest

from tests import services
from tests.faults.scenarios import SCENARIOS, Service, run


@pytest.mark.parametrize("service", get_args(Service))
def test_what_must_hold(service: Service, postgres_server: services.Postgres, s3_endpoint: str) -> None:
    names = [name for name, scenario in SCENARIOS.items() if scenario.service == service and name != "pauses"]
    outcomes = dict(run(names, postgres_server, quick=True))
    assert set(outcomes) == set(names)
    assert [outcome for outcome in outcomes.values() if not outcome.whole] == []
