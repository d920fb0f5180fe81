"""Versions of data sets, copies in other domains, and the zips that they share."""

import io
from typing import Any

import pytest
from PIL import Image

from api.deps import Services
from core.service import deletions, discards, orphans
from core.service.datasets import service as datasets
from core.service.datasets.reading import read_stored
from core.service.db.models import Dataset, Domain
from core.service.db.session import database_now
from core.service.tenancy import Scope
from tests.api.client import Client, png, problem, validate_datasets, zip_of
from tests.core.service.rows import add_dataset, recorded_statements

FIRST = {"cat/1.png": png(10), "cat/2.png": png(60), "dog/1.png": png(120), "owl/1.png": png(200)}
SECOND = {"cat/1.png": png(240), "cats/2.png": png(60), "cat/3.png": png(10)}
"""Images of the data set `second`: one new, and two copies of images of `first`, one of them in another class."""


def uploaded(tenant: Client, domain: str, files: dict[str, bytes], services: Services) -> str:
    id: str = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(files)).json()["id"]
    validate_datasets(services)
    return id


@pytest.fixture
def first(tenant: Client, domain: str, services: Services) -> str:
    return uploaded(tenant, domain, FIRST, services)


@pytest.fixture
def second(tenant: Client, domain: str, services: Services) -> str:
    return uploaded(tenant, domain, SECOND, services)


def made(tenant: Client, id: str, services: Services, **edit: Any) -> dict[str, Any]:
    """Creates a version, and returns it when it is ready."""
    version = tenant.made(f"/v1/datasets/{id}/versions", edit)
    assert version["status"] == "validating"
    validate_datasets(services)
    return tenant.read(f"/v1/datasets/{version['id']}")


def contents(tenant: Client, id: str) -> list[tuple[str, str]]:
    """Returns the class and path of each image of a data set."""
    return [(image["class_name"], image["file"]) for image in tenant.read(f"/v1/datasets/{id}/images")["data"]]


def colours(services: Services, id: str) -> list[tuple[int, int]]:
    """Returns (class id, red value) of each image that a fine-tune would read."""
    with services.database.session() as session:
        row = session.get_one(Dataset, id)
        zips, members = row.zips, row.members
    images = read_stored(services.store, zips, members, datasets.limits(services.settings))
    return [(class_id, image.getpixel((0, 0))[0]) for class_id, image in images]


def forget_deleted(services: Services) -> None:
    """Does what workers do after deletions: deletes the objects."""
    for _ in range(2):
        deletions.advance(services.database, services.store)
    discards.remove_page(services.database, services.store)


def test_classes_are_named_in_either_unicode_form(tenant: Client, domain: str, services: Services) -> None:
    files = {
        f"{name}/{number}.png": png(number + place)
        for place, name in enumerate(("crème", "café"))
        for number in (9, 99)
    }
    id = uploaded(tenant, domain, files, services)
    version = made(tenant, id, services, drop_classes=["cre\u0300me"], rename_classes={"cafe\u0301": "the\u0301"})
    assert [row["name"] for row in version["classes"]] == ["thé"]


def test_one_request_adds_removes_drops_renames_and_merges(
    tenant: Client, domain: str, first: str, second: str, services: Services
) -> None:
    before, stored = tenant.read(f"/v1/datasets/{first}"), tenant.read("/v1/usage")["stored_bytes"]
    edit = {"add_dataset_ids": [second], "remove_images": [1], "drop_classes": ["owl"]}
    version = made(tenant, first, services, **edit, rename_classes={"cats": "cat", "dog": "Hund"}, name="Edited")
    assert (version["parent_id"], version["domain_id"], version["name"]) == (first, domain, "Edited")
    assert [(row["name"], row["images"]) for row in version["classes"]] == [("Hund", 1), ("cat", 3)]
    assert contents(tenant, version["id"]) == [
        ("cat", "cat/2.png"), ("Hund", "dog/1.png"), ("cat", "cat/1.png"), ("cat", "cat/3.png")
    ]  # fmt: skip
    assert colours(services, version["id"]) == [(0, 120), (1, 60), (1, 240), (1, 10)]
    assert tenant.read("/v1/usage")["stored_bytes"] == stored, "nothing is stored twice"
    now = tenant.read(f"/v1/datasets/{first}")
    assert {**now, "classes": 0} == {**before, "classes": 0}, "except for signed URLs"
    same = made(tenant, first, services, **edit, rename_classes={"cats": "cat", "dog": "Hund"})
    assert same["digest"] == version["digest"] != before["digest"]


def test_version_has_thumbnails_examples_and_can_be_trained(
    tenant: Client, api_client: Client, domain: str, first: str, second: str, services: Services
) -> None:
    version = made(tenant, first, services, add_dataset_ids=[second], drop_classes=["dog", "owl"])
    images = tenant.read(f"/v1/datasets/{version['id']}/images")["data"]
    shown = [Image.open(io.BytesIO(api_client.get(image["thumbnail_url"]).content)) for image in images]
    reds = [picture.getpixel((50, 50))[0] for picture in shown]
    assert all(abs(red - expected) < 9 for red, expected in zip(reds, (10, 60, 240, 60), strict=True))
    strip = Image.open(io.BytesIO(api_client.get(version["classes"][0]["example_url"]).content))
    assert [strip.getpixel((place, 50))[0] for place in (50, 150, 250)] == [10, 60, 240]
    finetune = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": version["id"], "steps": 10})["id"]
    tenant.made(f"/v1/finetunes/{finetune}/cancel")  # so that no other test's worker claims it


def test_near_duplicates_are_found_across_the_joined_datasets(
    tenant: Client, first: str, second: str, services: Services
) -> None:
    version = made(tenant, first, services, add_dataset_ids=[second])
    path = f"/v1/datasets/{version['id']}/images?warning=near_duplicate"
    warned = {(image["file"], image["warnings"][-1]["image"]) for image in tenant.read(path)["data"]}
    assert ("cats/2.png", 2) in warned


def test_zip_is_deleted_with_the_last_version_that_needs_it(
    tenant: Client, first: str, second: str, services: Services
) -> None:
    sizes = {id: tenant.read(f"/v1/datasets/{id}")["size_bytes"] for id in (first, second)}
    version = made(tenant, first, services, add_dataset_ids=[second])["id"]
    again = made(tenant, version, services, remove_images=[5, 6])["id"]
    assert tenant.read(f"/v1/datasets/{version}")["size_bytes"] == sum(sizes.values())
    assert tenant.read(f"/v1/datasets/{again}")["size_bytes"] == sizes[first]
    for id in (first, second):
        assert tenant.delete(f"/v1/datasets/{id}").status_code == 204
        forget_deleted(services)
        orphans.remove_page(services.database, services.store, "", -1)
        assert tenant.read("/v1/usage")["stored_bytes"] == sum(sizes.values())
    assert len(colours(services, version)) == 6
    assert tenant.get(f"/v1/datasets/{version}/images/1/thumbnail").status_code == 200
    assert tenant.delete(f"/v1/datasets/{version}").status_code == 204
    forget_deleted(services)
    assert tenant.read("/v1/usage")["stored_bytes"] == sizes[first]
    assert len(colours(services, again)) == 4
    folder = services.store.list("tenants/")
    assert not [key for key in folder if f"/{second}/" in key or f"/{version}/" in key]
    assert tenant.delete(f"/v1/datasets/{again}").status_code == 204
    forget_deleted(services)
    assert tenant.read("/v1/usage")["stored_bytes"] == 0
    assert not [key for key in services.store.list("tenants/") if f"/{first}/" in key or f"/{again}/" in key]


def test_deletion_loads_only_the_zips_of_the_other_datasets(tenant: Client, first: str, second: str) -> None:
    """The classes and reports of a domain's data sets may take hundreds of megabytes."""
    with recorded_statements() as statements:
        assert tenant.delete(f"/v1/datasets/{first}").status_code == 204
    (others,) = [text for text in statements if "datasets.sources" in text and "datasets.id =" not in text]
    assert "datasets.classes" not in others
    assert "datasets.report" not in others


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        ({"remove_images": [5]}, "remove_images"),
        ({"remove_images": [0]}, "remove_images"),
        ({"remove_images": [1, 2, 3]}, "remove_images"),
        ({"drop_classes": ["bird"]}, "drop_classes"),
        ({"drop_classes": ["cat", "dog", "owl"]}, "remove_images"),
        ({"rename_classes": {"bird": "x"}}, "rename_classes"),
        ({"rename_classes": {"cat": "a/b"}}, "rename_classes"),
        ({"rename_classes": {"cat": ".."}}, "rename_classes"),
        ({"rename_classes": {"cat": " "}}, "rename_classes"),
        ({"rename_classes": {"cat": "x" * 101}}, "rename_classes"),
    ],
)
def test_edit_that_cannot_be_made_names_its_field(tenant: Client, first: str, edit: dict[str, Any], field: str) -> None:
    refused = problem(tenant.post(f"/v1/datasets/{first}/versions", edit), 422, "edit_invalid")
    assert refused["errors"][0]["field"] == f"body.{field}"
    assert len(tenant.read("/v1/datasets")["data"]) == 1


def test_images_are_counted_before_any_is_loaded(tenant: Client, domain: str, services: Services) -> None:
    """The images of 100 data sets would take gigabytes."""
    owner = Scope(tenant.read("/v1/key")["tenant_id"])
    with services.database.session() as session:
        many = [add_dataset(session, owner, domain, images=10_001).id for _ in range(3)]
    path = f"/v1/datasets/{many[0]}/versions"
    with recorded_statements() as statements:
        refused = problem(tenant.post(path, {"add_dataset_ids": many[1:]}), 422, "edit_invalid")
        problem(tenant.post(path, {"add_dataset_ids": many[1:2] * 2}), 422, "edit_invalid")
    assert refused["errors"][0]["field"] == "body.add_dataset_ids"
    assert "20002 images; at most 20000" in refused["detail"]
    assert any("datasets.images" in statement for statement in statements)
    assert not any("datasets.members" in statement for statement in statements)


def test_only_ready_datasets_of_the_same_domain_and_tenant_are_joined(
    tenant: Client, other: Client, domain: str, first: str, services: Services
) -> None:
    elsewhere = uploaded(tenant, tenant.made("/v1/domains", {"name": "Elsewhere"})["id"], SECOND, services)
    strange = uploaded(other, other.made("/v1/domains", {"name": "Strange"})["id"], SECOND, services)
    path = f"/v1/datasets/{first}/versions"
    problem(tenant.post(path, {"add_dataset_ids": [elsewhere]}), 422, "edit_invalid")
    problem(tenant.post(path, {"add_dataset_ids": [strange]}), 404, "not_found")
    pending = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(SECOND)).json()["id"]
    problem(tenant.post(path, {"add_dataset_ids": [pending]}), 409, "dataset_not_ready")
    problem(tenant.post(f"/v1/datasets/{pending}/versions", {}), 409, "dataset_not_ready")
    problem(tenant.post(f"/v1/domains/{domain}/datasets/copies", {"dataset_id": strange}), 404, "not_found")
    problem(tenant.post(f"/v1/domains/{domain}/datasets/copies", {"dataset_id": first}), 422, "edit_invalid")
    owner = Scope(tenant.read("/v1/key")["tenant_id"])
    with services.database.session() as session:
        old = add_dataset(session, owner, domain, members=[{"file": "cat/1.png", "class_id": 0}]).id
    problem(tenant.post(f"/v1/datasets/{old}/versions", {}), 422, "edit_invalid")


def test_copy_belongs_to_its_own_domain(tenant: Client, domain: str, first: str, services: Services) -> None:
    tenant.patch(f"/v1/datasets/{first}", {"name": "Animals"})
    original = tenant.read(f"/v1/datasets/{first}")
    target = tenant.made("/v1/domains", {"name": "Target"})["id"]
    copied = tenant.made(f"/v1/domains/{target}/datasets/copies", {"dataset_id": first})
    assert (copied["domain_id"], copied["parent_id"], copied["name"]) == (target, first, "Animals")
    validate_datasets(services)
    copy = tenant.read(f"/v1/datasets/{copied['id']}")
    assert (copy["status"], copy["digest"], copy["size_bytes"]) == ("ready", original["digest"], original["size_bytes"])
    assert tenant.read("/v1/usage")["stored_bytes"] == 2 * original["size_bytes"]
    tenant.delete(f"/v1/domains/{domain}")
    forget_deleted(services)
    assert tenant.read("/v1/usage")["stored_bytes"] == original["size_bytes"]
    assert colours(services, copy["id"]) == [(0, 10), (0, 60), (1, 120), (2, 200)]
    assert tenant.get(f"/v1/datasets/{copy['id']}/images/4/thumbnail").status_code == 200
    edited = made(tenant, copy["id"], services, drop_classes=["cat"])
    assert colours(services, edited["id"]) == [(0, 120), (1, 200)]


@pytest.mark.parametrize("end", ["copied", "copy deleted"])
def test_original_of_an_unfinished_copy_cannot_be_deleted(
    tenant: Client, domain: str, first: str, services: Services, end: str
) -> None:
    """The copy is one of a version, whose zip is that of another data set."""
    version = made(tenant, first, services, drop_classes=["owl"])["id"]
    target = tenant.made("/v1/domains", {"name": "Target"})["id"]
    copy = tenant.made(f"/v1/domains/{target}/datasets/copies", {"dataset_id": version})["id"]
    assert copy in problem(tenant.delete(f"/v1/datasets/{version}"), 409, "dataset_in_use")["detail"]
    assert copy in problem(tenant.delete(f"/v1/domains/{domain}"), 409, "domain_in_use")["detail"]
    assert tenant.delete(f"/v1/datasets/{first}").status_code == 204, "the version keeps the zip"
    forget_deleted(services)
    if end == "copied":
        validate_datasets(services)
        assert colours(services, copy) == [(0, 10), (0, 60), (1, 120)]
    else:
        assert tenant.delete(f"/v1/datasets/{copy}").status_code == 204
    assert tenant.delete(f"/v1/datasets/{version}").status_code == 204
    assert tenant.delete(f"/v1/domains/{domain}").status_code == 204


def test_unfinished_edit_does_not_block_deletions(tenant: Client, domain: str, first: str, services: Services) -> None:
    """A version of the same domain keeps the zips that it needs."""
    edited = tenant.made(f"/v1/datasets/{first}/versions", {"drop_classes": ["owl"]})["id"]
    assert tenant.delete(f"/v1/datasets/{first}").status_code == 204
    forget_deleted(services)
    validate_datasets(services)
    assert colours(services, edited) == [(0, 10), (0, 60), (1, 120)]
    tenant.made(f"/v1/datasets/{edited}/versions", {"drop_classes": ["dog"]})
    assert tenant.delete(f"/v1/domains/{domain}").status_code == 204


def test_copy_is_refused_while_its_original_is_being_deleted(
    tenant: Client, domain: str, first: str, services: Services
) -> None:
    """A very large domain is hidden at once, and its rows are deleted later."""
    target = tenant.made("/v1/domains", {"name": "Target"})["id"]
    with services.database.session() as session:
        session.get_one(Domain, domain).deleted_at = database_now(session)
    problem(tenant.post(f"/v1/domains/{target}/datasets/copies", {"dataset_id": first}), 404, "not_found")
