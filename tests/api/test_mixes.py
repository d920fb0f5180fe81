"""Generations that mix a version of any of the tenant's domains into a version of their own."""

from typing import Any

import pytest

from api.deps import Services
from core.service import deletions, jobs
from core.service.db.models import Generation
from tests.api.client import Client, adapter_file, claims, draw_generations, problem


def uploaded(tenant: Client, domain: str, *class_names: str, seed: int = 0, **options: Any) -> str:
    file = {"file": ("a", adapter_file(class_names or ("apple", "pear"), seed, **options))}
    id: str = tenant.made(f"/v1/domains/{domain}/adapters", files=file)["id"]
    return id


@pytest.fixture
def version(tenant: Client, domain: str) -> str:
    """Returns the id of the domain's active version."""
    return uploaded(tenant, domain)


@pytest.fixture
def sketches(tenant: Client) -> str:
    """Returns the id of another domain of the tenant."""
    id: str = tenant.made("/v1/domains", {"name": "Sketches"})["id"]
    return id


@pytest.fixture
def other_version(tenant: Client, sketches: str) -> str:
    """Returns the id of its version, which has the class `pear` at another place."""
    return uploaded(tenant, sketches, "plum", "fig", "pear", seed=1)


def test_mix_is_stored_and_returned(
    tenant: Client, domain: str, version: str, other_version: str, services: Services
) -> None:
    path = f"/v1/domains/{domain}/generations"
    chosen = {"mix_adapter_id": other_version, "mix_weight": 0.3, "adapter_scale": 0.8}
    generation = tenant.made(path, {"class_name": "pear", **chosen})
    assert {name: generation[name] for name in chosen} == chosen
    assert generation["adapter_id"] == version
    with services.database.session() as session:
        row = session.get_one(Generation, generation["id"])
        assert (row.class_id, row.mix_class_id) == (1, 2)
    (batched,) = tenant.made(f"{path}/batches", {"classes": [{"class_id": 1}], **chosen})["data"]
    assert {name: batched[name] for name in chosen} == chosen
    draw_generations(services)
    assert tenant.read(f"/v1/adapters/{other_version}")["last_used_at"] is not None
    plain = tenant.made(path, {"class_name": "pear"})
    assert (plain["mix_adapter_id"], plain["mix_weight"]) == (None, 0)
    tenant.made(f"/v1/generations/{plain['id']}/cancel")


def test_classes_are_matched_by_their_current_names(
    tenant: Client, domain: str, version: str, other_version: str, services: Services
) -> None:
    renamed = {"class_names": {"pear": "quince", "plum": "apple"}}
    assert tenant.patch(f"/v1/adapters/{other_version}", renamed).status_code == 200
    path, body = f"/v1/domains/{domain}/generations", {"mix_adapter_id": other_version, "mix_weight": 0.5}
    error = problem(tenant.post(path, {"class_name": "pear", **body}), 422, "invalid_request")
    assert error["errors"][0]["field"] == "body.mix_adapter_id"
    assert f"'{other_version}' has no class 'pear'. Classes of both versions: apple" in error["detail"]
    generation = tenant.made(path, {"class_name": "apple", **body})
    with services.database.session() as session:
        assert session.get_one(Generation, generation["id"]).mix_class_id == 0
    tenant.made(f"/v1/generations/{generation['id']}/cancel")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"distill_guidance": 3.0}, "has learned guidance"),
        ({"image_size": 64}, "is for images of twice the base's size"),
    ],
)
def test_version_that_cannot_be_mixed_is_rejected_by_its_id(
    tenant: Client, domain: str, version: str, options: dict[str, Any], reason: str
) -> None:
    unfit = uploaded(tenant, domain, seed=2, **options)
    for first, second in ((version, unfit), (unfit, version)):
        body = {"class_name": "pear", "adapter_id": first, "mix_adapter_id": second, "mix_weight": 0.5}
        error = problem(tenant.post(f"/v1/domains/{domain}/generations", body), 422, "invalid_request")
        assert f"'{unfit}' {reason}" in error["detail"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"mix_weight": 0.5}, "mix_weight needs mix_adapter_id"),
        ({"mix_adapter_id": "adp_1"}, "mix_adapter_id needs mix_weight"),
        ({"mix_adapter_id": "adp_1", "mix_weight": 1.1}, "less than or equal to 1"),
        ({"mix_adapter_id": "adp_1", "mix_weight": 0.5, "adapter_id": "base"}, "the base cannot be mixed"),
    ],
)
def test_invalid_mix_is_rejected(tenant: Client, domain: str, version: str, body: dict[str, Any], reason: str) -> None:
    error = problem(tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0, **body}), 422, "invalid_request")
    assert reason in error["detail"]


def test_versions_without_a_common_class_are_rejected(tenant: Client, domain: str, version: str) -> None:
    body = {"class_id": 0, "mix_adapter_id": uploaded(tenant, domain, "fig"), "mix_weight": 0.5}
    error = problem(tenant.post(f"/v1/domains/{domain}/generations", body), 422, "invalid_request")
    assert "The versions have no class in common" in error["detail"]


def test_version_of_another_tenant_is_not_found(
    tenant: Client, other: Client, domain: str, version: str, other_version: str
) -> None:
    theirs = other.made("/v1/domains", {"name": "Theirs"})["id"]
    uploaded(other, theirs)
    for mixed in (other_version, "adp_nothing", "base"):
        body = {"class_name": "pear", "mix_adapter_id": mixed, "mix_weight": 0.5}
        error = problem(other.post(f"/v1/domains/{theirs}/generations", body), 404, "not_found")
        assert error["detail"] == f"There is no adapter '{mixed}'."


def test_version_is_kept_while_an_unfinished_generation_mixes_it(
    tenant: Client, domain: str, version: str, sketches: str, other_version: str, services: Services
) -> None:
    uploaded(tenant, sketches, seed=3)
    newest = tenant.read(f"/v1/domains/{sketches}/adapters")["data"][0]["id"]
    tenant.made(f"/v1/domains/{sketches}/adapters/{newest}/promote")
    body = {"class_name": "pear", "mix_adapter_id": other_version, "mix_weight": 0.5}
    id = tenant.made(f"/v1/domains/{domain}/generations", body)["id"]
    assert id in problem(tenant.delete(f"/v1/adapters/{other_version}"), 409, "adapter_in_use")["detail"]
    draw_generations(services)
    assert tenant.delete(f"/v1/adapters/{other_version}").status_code == 204
    assert tenant.read(f"/v1/generations/{id}")["mix_adapter_id"] == other_version
    problem(tenant.post(f"/v1/domains/{domain}/generations", body), 404, "not_found")


def test_deleted_domain_fails_the_generations_of_others_that_mix_its_versions(
    tenant: Client, domain: str, version: str, sketches: str, other_version: str, services: Services
) -> None:
    """Queued and running ones. The worker of a running one loses its claim, and so stops."""
    path, body = f"/v1/domains/{domain}/generations", {"class_name": "pear"}
    mix = {**body, "mix_adapter_id": other_version, "mix_weight": 0.5}
    ended = tenant.made(path, mix)["id"]
    draw_generations(services)
    running = tenant.made(path, mix)["id"]
    (claim,) = claims(services, Generation)
    queued, unmixed = tenant.made(path, mix)["id"], tenant.made(path, body)["id"]

    location = tenant.delete(f"/v1/domains/{sketches}").headers["location"]
    for id in (running, queued):
        failed = tenant.read(f"/v1/generations/{id}")
        assert (failed["status"], failed["error"]["code"]) == ("failed", "not_found")
        assert failed["error"]["detail"] == f"There is no adapter '{other_version}'."
    with services.database.session() as session:
        assert jobs.heartbeat(session, Generation, claim, 60) == "lost"
    assert tenant.read(f"/v1/generations/{unmixed}")["status"] == "queued"
    assert tenant.read(f"/v1/generations/{ended}")["images"]
    receipt = tenant.read(location)
    assert "generations" not in receipt["rows"]
    problem(tenant.post(path, mix), 404, "not_found")
    for _ in range(2):
        deletions.advance(services.database, services.store)
    assert tenant.read(location)["done_at"] is not None
    tenant.made(f"/v1/generations/{unmixed}/cancel")


def test_version_of_a_domain_that_is_being_deleted_is_not_found(
    tenant: Client, domain: str, version: str, sketches: str, other_version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large domain is hidden at once, and its rows are deleted later."""
    monkeypatch.setattr(deletions, "_ROWS", 1)
    tenant.made(f"/v1/domains/{sketches}/generations", {"class_name": "pear"})
    assert tenant.delete(f"/v1/domains/{sketches}").status_code == 204
    body = {"class_name": "pear", "mix_adapter_id": other_version, "mix_weight": 0.5}
    problem(tenant.post(f"/v1/domains/{domain}/generations", body), 404, "not_found")
