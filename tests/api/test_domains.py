from datetime import datetime

import pytest

from api.deps import Services
from tests.api.client import PNG_START, Client, draw_generations, problem
from tests.api.conftest import finetuned


def test_domain_is_created_read_changed_and_deleted(tenant: Client) -> None:
    response = tenant.post("/v1/domains", {"name": " Fruit ", "description": "Flat"})
    assert response.status_code == 201
    domain = response.json()
    assert domain["id"].startswith("dom_")
    assert (domain["name"], domain["description"], domain["base_model"]) == ("Fruit", "Flat", "mini")
    assert domain["active_adapter_id"] is None
    path = f"/v1/domains/{domain['id']}"
    assert tenant.read(path) == domain

    changed = tenant.patch(path, {"name": "Obst"}).json()
    assert (changed["name"], changed["description"]) == ("Obst", "Flat")
    assert datetime.fromisoformat(changed["updated_at"]) > datetime.fromisoformat(domain["updated_at"])

    deleted = tenant.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    problem(tenant.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "body", "first", "second"),
    [
        ("/v1/domains", {"name": "Fruit"}, {"description": "Flat"}, {"description": "Round"}),
        ("/v1/webhooks", {"url": "https://example.com"}, {"description": "ours"}, {"enabled": False}),
    ],
)
def test_outdated_if_match_changes_nothing(
    tenant: Client, path: str, body: dict[str, object], first: dict[str, object], second: dict[str, object]
) -> None:
    path = f"{path}/{tenant.made(path, body)['id']}"
    read = tenant.get(path).headers["ETag"]
    changed = tenant.patch(path, first, headers={"If-Match": read})
    assert changed.status_code == 200
    assert changed.headers["ETag"] == tenant.get(path).headers["ETag"] != read
    problem(tenant.patch(path, second, headers={"If-Match": read}), 412, "changed_meanwhile")
    assert tenant.read(path)["description"] == first["description"]
    assert tenant.patch(path, second, headers={"If-Match": f'"x", {changed.headers["ETag"]}'}).status_code == 200
    assert tenant.patch(path, first, headers={"If-Match": "*"}).status_code == 200


def test_pages_contain_every_domain_once_newest_first(tenant: Client) -> None:
    ids = [tenant.made("/v1/domains", {"name": f"d{k}"})["id"] for k in range(5)]
    listed, cursor = [], None
    for size in (2, 2, 1):
        page = tenant.read("/v1/domains", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        assert len(page["data"]) == size
        listed += [row["id"] for row in page["data"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert listed == ids[::-1]


def test_domains_are_found_by_a_part_of_their_name(tenant: Client, other: Client) -> None:
    for name in ("Red fruit", "Green FRUIT", "100 % wool", "1000 wool"):
        tenant.made("/v1/domains", {"name": name})
    other.made("/v1/domains", {"name": "Foreign fruit"})

    def named(**filters: str) -> list[str]:
        return [row["name"] for row in tenant.read("/v1/domains", params=filters)["data"]]

    assert named(name_contains="fruit") == ["Green FRUIT", "Red fruit"]
    assert named(name_contains="00 %") == ["100 % wool"]
    assert named(name_contains="foreign") == []
    assert named(name_contains="fruit", name="Red fruit") == ["Red fruit"]


def test_names_are_unique_for_each_tenant(tenant: Client, other: Client) -> None:
    tenant.made("/v1/domains", {"name": "Fruit"})
    problem(tenant.post("/v1/domains", {"name": "Fruit"}), 409, "name_taken")
    other.made("/v1/domains", {"name": "Fruit"})
    second = tenant.made("/v1/domains", {"name": "Trees"})
    problem(tenant.patch(f"/v1/domains/{second['id']}", {"name": "Fruit"}), 409, "name_taken")


@pytest.mark.parametrize("name", ["Früchte 寿司", "👩‍🌾 garden", "x" * 200, "a\u200db"])
def test_names_may_be_any_text(tenant: Client, name: str) -> None:
    assert tenant.made("/v1/domains", {"name": name})["name"] == name


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"name": 7},
        {"name": None},
        {"name": "x", "colour": 1},
        {"name": "x", "description": "y" * 2001},
    ],
)
def test_invalid_domains_are_rejected(tenant: Client, body: object) -> None:
    error = problem(tenant.post("/v1/domains", body), 422, "invalid_request")
    assert error["errors"][0]["field"].startswith("body")
    assert "Value error" not in error["detail"]


@pytest.mark.parametrize("body", [{"name": None}, {"description": None}, {"name": ""}, {"id": "dom_x"}])
def test_change_to_null_is_rejected(tenant: Client, domain: str, body: object) -> None:
    problem(tenant.patch(f"/v1/domains/{domain}", body), 422, "invalid_request")


def test_latest_image_of_the_active_version_is_the_cover(
    api_client: Client, tenant: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    assert tenant.read(f"/v1/domains/{domain}")["cover_url"] is None
    second = finetuned(tenant, domain, dataset, services, seed=1)
    bodies = ({"class_id": 0}, {"class_id": 1}, {"class_id": 1, "adapter_id": "base"}, {"adapter_id": second})
    drawn = []
    for body in bodies:
        generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, **body, "count": 1})
        drawn.append(generation["id"])
        draw_generations(services)
    cover_url = tenant.read("/v1/domains")["data"][0]["cover_url"]
    assert cover_url == tenant.read(f"/v1/domains/{domain}")["cover_url"]
    assert drawn[1] in cover_url
    assert api_client.get(cover_url).content.startswith(PNG_START)
    tenant.made(f"/v1/domains/{domain}/adapters/{second}/promote")
    assert drawn[3] in tenant.read(f"/v1/domains/{domain}")["cover_url"]
