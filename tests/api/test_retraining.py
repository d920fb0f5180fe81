"""A change of the base: domains with adapters of the old base are retrained from their stored data sets."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from api.deps import Services
from core.service import fleet
from tests.api.client import BASE, Client, adapter_file, draw_generations, load_base, problem
from tests.api.conftest import finetuned

NEW_BASE = replace(BASE, digest="4ea1" * 16)


@pytest.fixture
def old_adapter(adapter: str, services: Services) -> Iterator[str]:
    """Returns the id of a domain's active adapter; afterwards the workers have another base."""
    with services.database.session() as session:
        fleet.register_base(session, services.settings.base_model, NEW_BASE)
    yield adapter
    load_base(services)


def test_domain_is_retrained_from_its_stored_dataset(
    tenant: Client, domain: str, old_adapter: str, services: Services
) -> None:
    path, body = f"/v1/domains/{domain}/generations", {"class_name": "pear"}
    problem(tenant.post(path, body), 409, "base_mismatch")

    (kept,) = tenant.read(f"/v1/domains/{domain}/datasets")["data"]
    assert kept["status"] == "ready"
    retrained = finetuned(tenant, domain, kept["id"], services, seed=1)

    assert tenant.read(f"/v1/domains/{domain}")["active_adapter_id"] == retrained
    drawn = tenant.made(path, body)
    draw_generations(services)
    generation = tenant.read(f"/v1/generations/{drawn['id']}")
    assert (generation["status"], generation["adapter_id"]) == ("succeeded", retrained)
    problem(tenant.post(path, body | {"adapter_id": old_adapter}), 409, "base_mismatch")


def test_second_version_for_the_new_base_is_not_promoted_automatically(
    tenant: Client, domain: str, dataset: str, old_adapter: str, services: Services
) -> None:
    first = finetuned(tenant, domain, dataset, services, seed=1)
    finetuned(tenant, domain, dataset, services, seed=2)
    assert tenant.read(f"/v1/domains/{domain}")["active_adapter_id"] == first


def test_adapter_uploaded_for_the_new_base_becomes_active(tenant: Client, domain: str, old_adapter: str) -> None:
    sent = tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file(digest=NEW_BASE.digest))
    assert sent.status_code == 201
    assert tenant.read(f"/v1/domains/{domain}")["active_adapter_id"] == sent.json()["id"]
