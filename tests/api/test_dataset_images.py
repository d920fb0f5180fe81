"""The images of a data set: list, filters, thumbnails; names of data sets, and filters of their lists."""

import io

import pytest
from PIL import Image

from api.deps import Services
from core.service.datasets.thumbnails import SIDE
from core.service.db.models import Dataset
from core.service.tenancy import Scope
from tests.api.client import Client, images_zip, png, problem, validate_datasets, zip_of
from tests.core.service.rows import add_dataset, recorded_statements


@pytest.fixture
def images(tenant: Client, domain: str, services: Services) -> str:
    """Returns the path of the images of a data set with three images in two classes, and a rejected file."""
    files = {"pear/1.png": png(1), "apple/1.png": png(200), "apple/2.png": large(), "apple/x.png": b"no image"}
    id = tenant.upload(f"/v1/domains/{domain}/datasets", zip_of(files)).json()["id"]
    validate_datasets(services)
    return f"/v1/datasets/{id}/images"


def large() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((300, 100)).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_image_is_listed_with_size_class_and_warnings(tenant: Client, images: str) -> None:
    listed = tenant.read(images)["data"]
    facts = [(image["number"], image["class_name"], image["file"], image["width"], image["height"]) for image in listed]
    assert facts == [
        (1, "pear", "pear/1.png", 8, 8), (2, "apple", "apple/1.png", 8, 8), (3, "apple", "apple/2.png", 300, 100)
    ]  # fmt: skip
    assert [image["class_id"] for image in listed] == [1, 0, 0]
    assert [image["size_bytes"] for image in listed] == [len(png(1)), len(png(200)), len(large())]
    codes = [{warning["code"] for warning in image["warnings"]} for image in listed]
    assert codes == [{"tiny", "blank"}, {"tiny", "blank"}, {"extreme_aspect"}]


def test_images_are_paged_and_filtered_by_class_and_warning(tenant: Client, images: str) -> None:
    everything = tenant.read(images)["data"]
    first = tenant.read(f"{images}?limit=2")
    assert first["data"] + tenant.read(f"{images}?limit=2&cursor={first['next_cursor']}")["data"] == everything
    for query, expected in (
        ("class_id=0", everything[1:]),
        ("warning=tiny", everything[:2]),
        ("warning=tiny&class_id=0", everything[1:2]),
        ("warning=near_duplicate", []),
        ("class_id=7", []),
    ):
        assert tenant.read(f"{images}?{query}")["data"] == expected, query
    page = tenant.read(f"{images}?warning=tiny&limit=1")
    assert tenant.read(f"{images}?warning=tiny&limit=1&cursor={page['next_cursor']}")["data"] == everything[1:2]
    problem(tenant.get(f"{images}?warning=ugly"), 422, "invalid_request")
    problem(tenant.get(f"{images}?cursor=x"), 422, "invalid_cursor")


def test_thumbnail_shows_the_centered_square(api_client: Client, tenant: Client, images: str) -> None:
    urls = [image["thumbnail_url"] for image in tenant.read(images)["data"]]
    answers = [api_client.get(url) for url in urls]
    pictures = [Image.open(io.BytesIO(answer.content)) for answer in answers]
    assert [(picture.format, picture.size) for picture in pictures] == [("JPEG", (SIDE, SIDE))] * 3
    assert max(abs(a - b) for a, b in zip(pictures[1].getpixel((48, 48)), (200, 55, 7), strict=True)) < 8
    assert answers[0].headers["content-type"] == "image/jpeg"
    etag = answers[0].headers["etag"]
    assert api_client.get(urls[0], headers={"If-None-Match": etag}).status_code == 304
    problem(api_client.get(urls[0].replace("/1/", "/2/")), 401, "unauthenticated")
    for number in (4, 2**31 - 1):
        problem(tenant.get(f"{images}/{number}/thumbnail"), 404, "not_found")


def test_thumbnail_is_found_by_the_index_of_its_image(tenant: Client, images: str) -> None:
    with recorded_statements() as statements:
        assert tenant.get(f"{images}/3/thumbnail").status_code == 200
    assert sum("members" in statement for statement in statements) == 1
    assert not any("json_each" in statement or "array_elements" in statement for statement in statements)


def test_dataset_of_an_earlier_release_lists_its_images_without_sizes(
    tenant: Client, domain: str, services: Services
) -> None:
    owner = Scope(tenant.read("/v1/key")["tenant_id"])
    with services.database.session() as session:
        id = add_dataset(session, owner, domain, members=[{"file": "cat/1.png", "class_id": 0}]).id
    (image,) = tenant.read(f"/v1/datasets/{id}/images")["data"]
    assert (image["file"], image["class_name"]) == ("cat/1.png", "cat")
    unknown = ("sha256", "size_bytes", "width", "height", "thumbnail_url")
    assert {image[name] for name in unknown} == {None}
    problem(tenant.get(f"/v1/datasets/{id}/images/1/thumbnail"), 404, "not_found")


def test_dataset_has_a_name_that_can_change(tenant: Client, domain: str) -> None:
    path = f"/v1/domains/{domain}/datasets"
    made = tenant.post(path, files={"file": images_zip()}, data={"name": " First batch "}).json()
    assert made["name"] == "First batch"
    changed = tenant.patch(f"/v1/datasets/{made['id']}", {"name": "Second"}).json()
    assert changed["name"] == tenant.read(f"/v1/datasets/{made['id']}")["name"] == "Second"
    assert tenant.patch(f"/v1/datasets/{made['id']}", {}).json()["name"] == "Second"
    assert tenant.patch(f"/v1/datasets/{made['id']}", {"name": None}).json()["name"] is None
    problem(tenant.patch(f"/v1/datasets/{made['id']}", {"name": "a\nb"}), 422, "invalid_request")
    problem(tenant.post(path, files={"file": images_zip()}, data={"name": "x" * 201}), 422, "invalid_request")


def test_lists_of_datasets_are_filtered(tenant: Client, other: Client, domain: str, services: Services) -> None:
    owner = Scope(tenant.read("/v1/key")["tenant_id"])
    second = tenant.made("/v1/domains", {"name": "Second"})["id"]
    with services.database.session() as session:
        rows: list[Dataset] = [
            add_dataset(session, owner, domain, name="Icons 100%"),
            add_dataset(session, owner, domain, name="icons, old", status="rejected"),
            add_dataset(session, owner, second, name="Photos"),
            add_dataset(session, owner, second),
        ]
        icons, old, photos, unnamed = (row.id for row in rows)

    def ids(path: str, **query: str) -> list[str]:
        return [row["id"] for row in tenant.read(path, params=query)["data"]]

    assert ids("/v1/datasets") == [unnamed, photos, old, icons]
    assert ids("/v1/datasets", name="ICONS") == [old, icons]
    assert ids("/v1/datasets", name="0%") == [icons]
    assert ids("/v1/datasets", name="o%") == []
    assert ids("/v1/datasets", name="icons", status="ready") == [icons]
    assert ids(f"/v1/domains/{domain}/datasets", name="Photos") == []
    assert ids(f"/v1/domains/{second}/datasets", name="Photos") == [photos]
    times = {row["id"]: row["created_at"] for row in tenant.read("/v1/datasets")["data"]}
    assert unnamed not in ids("/v1/datasets", created_after=times[unnamed])
    assert ids("/v1/datasets", created_after="2020-01-01T00:00:00+02:00") == [unnamed, photos, old, icons]
    assert ids("/v1/datasets", created_after="9999-12-31T23:59:59-14:00") == []
    assert ids("/v1/datasets", created_before="2020-01-01T00:00:00Z") == []
    assert len(ids("/v1/datasets", created_after="0001-01-01T00:00:00+14:00")) == 4
    for wrong in ("2020-01-01T00:00:00", "2020-01-01", "1600000000", "2020-13-01T00:00:00Z"):
        problem(tenant.get(f"/v1/datasets?created_after={wrong}"), 422, "invalid_request")
    assert other.read("/v1/datasets")["data"] == []
