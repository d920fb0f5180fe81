"""Usage of a period, for the tenant and for administrators."""

import datetime

import pytest

from api.deps import Services
from core.service.db.models import UsageDay
from tests.api.client import Client, problem

DAYS = ("2024-04-01", "2024-03-31", "2024-02-29", "2024-02-28")


@pytest.fixture
def owner(tenant: Client, services: Services) -> str:
    """Returns the id of a tenant with usage on some days."""
    id: str = tenant.read("/v1/key")["tenant_id"]
    with services.database.session() as session:
        for day in map(datetime.date.fromisoformat, DAYS):
            session.add(UsageDay(tenant_id=id, day=day, images=1, model_evaluations=20, training_seconds=0.5))
    return id


def days(answer: dict[str, list[dict[str, object]]], field: str) -> list[object]:
    return [row["day"] for row in answer[field]]


def test_period_includes_both_of_its_days(tenant: Client, admin: Client, owner: str) -> None:
    period = {"from_day": DAYS[2], "to_day": DAYS[1]}
    usage = tenant.read("/v1/usage", params=period)
    assert (usage["images"], days(usage, "days")) == (4, [DAYS[1], DAYS[2]])
    page = {**period, "tenant_id": owner, "limit": 1}
    first = admin.read("/v1/admin/usage", params=page)
    second = admin.read("/v1/admin/usage", params={**page, "cursor": first["next_cursor"]})
    assert (days(first, "data"), days(second, "data"), second["next_cursor"]) == ([DAYS[1]], [DAYS[2]], None)
    assert days(tenant.read("/v1/usage", params={"from_day": DAYS[1], "to_day": DAYS[1]}), "days") == [DAYS[1]]


def test_period_is_the_last_30_days_by_default(tenant: Client, admin: Client, owner: str) -> None:
    """The day 30 days before the last one is included."""
    assert tenant.read("/v1/usage")["days"] == []
    assert admin.read("/v1/admin/usage", params={"tenant_id": owner})["data"] == []
    assert days(tenant.read("/v1/usage", params={"to_day": "2024-03-30"}), "days") == [DAYS[2]]
    assert days(tenant.read("/v1/usage", params={"to_day": "2024-03-29"}), "days") == [DAYS[2], DAYS[3]]
    assert tenant.read("/v1/usage", params={"to_day": "0001-01-01"})["days"] == []


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/admin/usage"])
def test_period_has_at_most_a_year(tenant: Client, admin: Client, path: str) -> None:
    client = admin if "admin" in path else tenant
    client.read(path, params={"from_day": "2024-01-01", "to_day": "2024-12-31"})
    for period in (
        {"from_day": "2024-01-01", "to_day": "2025-01-01"},
        {"from_day": "2024-01-02", "to_day": "2024-01-01"},
        {"from_day": "2024-01-01"},
        {"from_day": "9999-12-31"},
    ):
        problem(client.get(path, params=period), 422, "invalid_period")
    for day in ("2024-02-30", "20240229", "1709164800", "2024-02-29T00:00:00Z", ""):
        problem(client.get(path, params={"to_day": day}), 422, "invalid_request")
