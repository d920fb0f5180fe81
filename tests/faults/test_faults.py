"""Short forms of the faults; `make faults` runs the full ones."""

import pytest

from tests import services
from tests.faults.scenarios import SCENARIOS, Service, run

SHORT = {name: scenario.service for name, scenario in SCENARIOS.items() if scenario.short is not None}


@pytest.mark.parametrize("service", sorted(set(SHORT.values())))
def test_guarantees_hold_under_faults(service: Service, postgres_server: services.Postgres) -> None:
    names = [name for name in SHORT if SHORT[name] == service]
    outcomes = dict(run(names, postgres_server, quick=True))
    assert set(outcomes) == set(names)
    assert [outcome for outcome in outcomes.values() if not outcome.whole] == []
