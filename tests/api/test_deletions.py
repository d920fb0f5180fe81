"""Receipts of deletions by tenants and administrators."""

import pytest

from api.deps import Services
from core.service import deletions, jobs
from core.service.datasets import service as datasets
from core.service.db.models import Adapter, Dataset, Finetune, Generation, GenerationPreview
from core.service.finetunes import recording
from core.service.finetunes import service as finetunes
from tests.api.client import (
    Client,
    adapter_file,
    claims,
    draw_generations,
    images_zip,
    problem,
    validate_datasets,
    zip_of,
)
from tests.api.conftest import finetuned


def test_tenant_reads_the_receipts_of_its_domains(
    admin: Client, tenant: Client, other: Client, domain: str, adapter: str, services: Services
) -> None:
    sha256 = tenant.read(f"/v1/adapters/{adapter}")["sha256"]
    location = tenant.delete(f"/v1/domains/{domain}").headers["location"]
    receipt = tenant.read(location)
    assert (receipt["kind"], receipt["target"], receipt["adapters"]) == ("domain", domain, [sha256])
    assert receipt["rows"]["adapters"] == receipt["rows"]["datasets"] == receipt["rows"]["finetunes"] == 1
    assert receipt["actor_key_id"] == f"key_{tenant.headers['Authorization'].split('_')[1]}"
    assert (receipt["objects"], receipt["done_at"]) == (0, None)
    for _ in range(2):
        deletions.advance(services.database, services.store)
    done = tenant.read(location)
    assert done["objects"] >= 2, "the data set and the adapter"
    assert done["bytes"] > 0
    assert done["done_at"] is not None
    listed = tenant.read("/v1/deletions")["data"]
    assert [row | {"adapters": [sha256]} for row in listed] == [done]
    assert admin.read(f"/v1/admin{location.removeprefix('/v1')}") == done
    problem(other.get(location), 404, "not_found")
    assert other.read("/v1/deletions")["data"] == []


@pytest.mark.parametrize("deleted", ["domain", "tenant"])
def test_content_is_invisible_before_workers_have_deleted_its_rows(
    admin: Client,
    tenant: Client,
    api_client: Client,
    domain: str,
    dataset: str,
    adapter: str,
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    deleted: str,
) -> None:
    kept = tenant.made("/v1/domains", {"name": "Kept"})["id"]
    kept_dataset = tenant.upload(f"/v1/domains/{kept}/datasets", images_zip()).json()["id"]
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "count": 2, "previews": 1})["id"]
    draw_generations(services)
    tenant_id = tenant.read("/v1/key")["tenant_id"]
    finetune = tenant.read(f"/v1/adapters/{adapter}")["finetune_id"]
    with services.database.session() as session:
        stored = services.store.put(f"tenants/{tenant_id}/domains/{domain}/preview", b"preview")
        common = {"tenant_id": tenant_id, "object_key": stored.key, "sha256": stored.sha256}
        session.add(GenerationPreview(generation_id=generation, index=0, step=2, **common))
        recording.add_sample(session, session.get_one(Finetune, finetune), 5, stored)
    shown = tenant.read(f"/v1/generations/{generation}")
    objects = {"adapters": adapter, "datasets": dataset, "finetunes": finetune, "generations": generation}
    paths = [f"/v1/{noun}/{id}" for noun, id in objects.items()]
    paths += [f"{paths[0]}/download", f"{paths[1]}/download", f"/v1/finetunes/{finetune}/metrics"]
    signed = [row["url"] for row in shown["images"] + shown["previews"]]
    signed += [row["thumbnail_url"] for row in tenant.read(f"/v1/datasets/{dataset}/images")["data"]]
    assert len(signed) == 7
    assert [path for path in paths if tenant.get(path).status_code != 200] == []
    assert [url for url in signed if api_client.get(url).status_code != 200] == []

    monkeypatch.setattr(deletions, "_ROWS", 0)  # leaves all rows to workers
    client, path = tenant, f"/v1/domains/{domain}"
    if deleted == "tenant":
        client, path = admin, f"/v1/admin/tenants/{tenant_id}"
    location = client.delete(path).headers["location"]

    assert [url for url in signed if api_client.get(url).status_code != 404] == []
    if deleted == "domain":
        assert [path for path in paths if tenant.get(path).status_code != 404] == []
        keyed = [url.partition("?")[0] for url in signed]
        assert [path for path in keyed if tenant.get(path).status_code != 404] == []
        lists = [f"/v1/{noun}" for noun in ("adapters", "finetunes", "generations", "images")]
        assert [path for path in lists if tenant.read(path)["data"]] == []
        assert [row["id"] for row in tenant.read("/v1/datasets")["data"]] == [kept_dataset]
        for path in (paths[0], paths[1], f"/v1/generations/{generation}/images/0"):
            body = {"label": "mine"} if "images" in path else {"name": "mine"}
            problem(tenant.patch(path, body), 404, "not_found")
        ids = [row["id"] for row in shown["images"]]
        assert tenant.post("/v1/images/delete", {"ids": ids}).json() == {"deleted": []}
    with services.database.session() as session:
        assert session.get(Generation, generation) is not None, "workers still see it, to delete it"

    monkeypatch.undo()
    for _ in range(5):
        deletions.advance(services.database, services.store)
    receipt = admin.read(location.replace("/v1/deletions", "/v1/admin/deletions"))
    assert receipt["done_at"] is not None
    assert receipt["rows"]["generation_images"] == 2
    with services.database.session() as session:
        assert session.get(Generation, generation) is None
        assert session.get(Adapter, adapter) is None


def test_administrator_reads_the_receipts_of_tenants(admin: Client, tenant: Client, domain: str) -> None:
    id = admin.read("/v1/admin/tenants")["data"][0]["id"]
    location = admin.delete(f"/v1/admin/tenants/{id}").headers["location"]
    receipt = admin.read(location)
    assert (receipt["kind"], receipt["target"], receipt["tenant_id"]) == ("tenant", id, id)
    assert receipt["rows"] == {"api_keys": 1, "domains": 1, "tenants": 1}
    receipts = admin.read("/v1/admin/deletions", params={"tenant_id": id})["data"]
    assert [row["id"] for row in receipts] == [receipt["id"]]
    problem(tenant.get("/v1/deletions"), 401, "unauthenticated")
    problem(admin.get("/v1/admin/deletions/del_nothing"), 404, "not_found")


def test_deleted_version_leaves_its_images_and_gives_its_bytes_back(
    tenant: Client, other: Client, domain: str, adapter: str, services: Services
) -> None:
    before = tenant.read("/v1/usage")["stored_bytes"]
    version = tenant.made(f"/v1/domains/{domain}/adapters", files={"file": ("a", adapter_file(seed=1))})
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": version["id"]})["id"]
    problem(tenant.delete(f"/v1/adapters/{adapter}"), 409, "adapter_active")
    used = problem(tenant.delete(f"/v1/adapters/{version['id']}"), 409, "adapter_in_use")
    assert generation in used["detail"]
    problem(other.delete(f"/v1/adapters/{version['id']}"), 404, "not_found")
    draw_generations(services)
    drawn = tenant.read("/v1/usage")["stored_bytes"] - before - version["size_bytes"]
    with services.database.session() as session:
        key = session.get_one(Adapter, version["id"]).object_key
    response = tenant.delete(f"/v1/adapters/{version['id']}")
    assert response.status_code == 204
    receipt = tenant.read(response.headers["location"])
    assert (receipt["kind"], receipt["target"]) == ("adapter", version["id"])
    assert (receipt["adapters"], receipt["rows"]) == ([version["sha256"]], {"adapters": 1})
    problem(tenant.get(f"/v1/adapters/{version['id']}"), 404, "not_found")
    assert [row["id"] for row in tenant.read(f"/v1/domains/{domain}/adapters")["data"]] == [adapter]
    assert tenant.read(f"/v1/generations/{generation}")["images"]
    assert tenant.read("/v1/usage")["stored_bytes"] == before + drawn
    for _ in range(2):
        deletions.advance(services.database, services.store)
    done = tenant.read(response.headers["location"])
    assert (done["objects"], done["bytes"]) == (1, version["size_bytes"])
    assert done["done_at"] is not None
    assert services.store.page(key, "", 10) == []
    assert tenant.get(f"/v1/adapters/{adapter}/download").status_code == 200


def test_fine_tune_is_deleted_after_it_ended_and_its_version_is_gone(
    tenant: Client, other: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    finetune = tenant.read(f"/v1/adapters/{adapter}")["finetune_id"]
    used = problem(tenant.delete(f"/v1/finetunes/{finetune}"), 409, "finetune_in_use")
    assert adapter in used["detail"]
    tenant.made(f"/v1/domains/{domain}/adapters/{finetuned(tenant, domain, dataset, services)}/promote")
    assert tenant.delete(f"/v1/adapters/{adapter}").status_code == 204
    assert tenant.read(f"/v1/finetunes/{finetune}")["adapter_id"] is None
    problem(other.delete(f"/v1/finetunes/{finetune}"), 404, "not_found")
    receipt = tenant.read(tenant.delete(f"/v1/finetunes/{finetune}").headers["location"])
    assert (receipt["kind"], receipt["target"], receipt["rows"]["finetunes"]) == ("finetune", finetune, 1)
    assert receipt["rows"]["finetune_events"] > 3
    problem(tenant.get(f"/v1/finetunes/{finetune}/metrics"), 404, "not_found")


def test_cancelled_fine_tunes_objects_are_removed_and_no_longer_counted(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    before = tenant.read("/v1/usage")["stored_bytes"]
    id = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset})["id"]
    (claim,) = claims(services, Finetune)
    with services.database.session() as session:
        row = session.get_one(Finetune, id)
        prefix = f"{finetunes.folder(row)}/"
        for step in (50, 100):
            key = f"{prefix}attempts/1/checkpoint-{step}"
            recording.record_checkpoint(session, row, step, services.store.put(key, b"state"))
        recording.add_sample(session, row, 100, services.store.put(f"{prefix}samples/100.png", b"sample"))
    problem(tenant.delete(f"/v1/finetunes/{id}"), 409, "not_ended")
    asked = tenant.made(f"/v1/finetunes/{id}/cancel")
    assert (asked["status"], asked["cancel_requested_at"] is None) == ("running", False)
    with services.database.session() as session:
        jobs.finish(session, session.get_one(Finetune, claim.id), "cancelled")
    location = tenant.delete(f"/v1/finetunes/{id}").headers["location"]
    assert tenant.read("/v1/usage")["stored_bytes"] == before
    for _ in range(2):
        deletions.advance(services.database, services.store)
    assert tenant.read(location)["objects"] == 3
    assert services.store.page(prefix, "", 10) == []


def test_deleted_dataset_gives_its_bytes_back_and_leaves_its_versions(
    tenant: Client, other: Client, domain: str, adapter: str, dataset: str, services: Services
) -> None:
    before = tenant.read("/v1/usage")["stored_bytes"]
    finetune = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset})["id"]
    used = problem(tenant.delete(f"/v1/datasets/{dataset}"), 409, "dataset_in_use")
    assert finetune in used["detail"]
    problem(other.delete(f"/v1/datasets/{dataset}"), 404, "not_found")
    tenant.made(f"/v1/finetunes/{finetune}/cancel")
    with services.database.session() as session:
        row = session.get_one(Dataset, dataset)
        prefix = datasets.folder(row.tenant_id, domain, dataset)
    stored = services.store.list(prefix)
    assert {key.removeprefix(prefix) for key in stored} == {
        "archive.zip", "archive.thumbnails", "classes/0.png", "classes/1.png"
    }  # fmt: skip
    size = tenant.read(f"/v1/datasets/{dataset}")["size_bytes"]
    response = tenant.delete(f"/v1/datasets/{dataset}")
    assert response.status_code == 204
    problem(tenant.get(f"/v1/datasets/{dataset}"), 404, "not_found")
    assert tenant.read("/v1/datasets")["data"] == []
    assert tenant.read("/v1/usage")["stored_bytes"] == before - size
    for _ in range(2):
        deletions.advance(services.database, services.store)
    receipt = tenant.read(response.headers["location"])
    assert (receipt["kind"], receipt["target"], receipt["rows"]) == ("dataset", dataset, {"datasets": 1})
    assert (receipt["objects"], receipt["done_at"] is None) == (4, False)
    assert services.store.list(prefix) == []
    assert tenant.read(f"/v1/finetunes/{finetune}")["dataset_id"] == dataset
    assert tenant.get(f"/v1/adapters/{adapter}/download").status_code == 200
    problem(tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset}), 404, "not_found")


def test_rejected_dataset_can_be_deleted(tenant: Client, domain: str, services: Services) -> None:
    files = {"a/1.png": b"x", "a/2.png": b"y"}
    id = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(files)).json()["id"]
    validate_datasets(services)
    assert tenant.delete(f"/v1/datasets/{id}").status_code == 204
    assert tenant.read("/v1/usage")["stored_bytes"] == 0
