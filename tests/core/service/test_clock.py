"""Comparison of a host's clock with the database's."""

import datetime
from types import SimpleNamespace

import pytest

from core.service.db import clock
from core.service.db.clock import check_clock
from core.service.db.session import Database


@pytest.mark.parametrize("ahead", [86_400, -400])
def test_wrong_clock_logs_a_warning(
    database: Database, ahead: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shifted = SimpleNamespace(now=lambda zone: datetime.datetime.now(zone) + datetime.timedelta(seconds=ahead))
    monkeypatch.setattr(clock, "datetime", SimpleNamespace(datetime=shifted, UTC=datetime.UTC))
    with database.session() as session:
        assert check_clock(session) == pytest.approx(ahead, abs=60)
    assert "off from the database's" in caplog.text
    assert clock.OFFSET._value.get() == pytest.approx(ahead, abs=60)


def test_right_clock_logs_nothing(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with database.session() as session:
        assert abs(check_clock(session)) < clock.MOST_SECONDS
    assert "off from" not in caplog.text
