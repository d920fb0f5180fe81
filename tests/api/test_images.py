"""Lists of images by filters, favourites and labels, and deletion of images and generations."""

import datetime
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from api import archives
from api.deps import Services
from core.artifact.seeds import MAX_SEED
from core.service import deletions, discards
from core.service.db.models import Generation, GenerationImage
from core.service.db.session import database_now
from tests.api.client import Client, draw_generations, problem


@pytest.fixture
def two_domains(tenant: Client, domain: str, adapter: str, services: Services) -> dict[str, list[str]]:
    """Ids of the images of two domains, newest first: two pears and an apple of the first, a star of the second."""
    second = tenant.made("/v1/domains", {"name": "Second"})["id"]
    ids: dict[str, list[str]] = {}
    for owner, body in (
        (domain, {"class_name": "apple", "seed": 5}),
        (domain, {"class_name": "pear", "count": 2, "seed": 7}),
        (second, {"class_name": "star", "adapter_id": "base", "seed": 8}),
    ):
        made = tenant.made(f"/v1/domains/{owner}/generations", {"steps": 2, "previews": 1, **body})
        drawn = [f"{made['id']}/{index}" for index in range(made["count"])]
        ids[owner] = [*reversed(drawn), *ids.get(owner, [])]
    draw_generations(services)
    return ids


def listed(client: Client, path: str = "/v1/images", **query: Any) -> list[str]:
    return [image["id"] for image in client.read(path, params=query)["data"]]


def mark(client: Client, id: str, **changes: Any) -> dict[str, Any]:
    generation, index = id.split("/")
    response = client.patch(f"/v1/generations/{generation}/images/{index}", changes)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_images_are_listed_newest_first_in_pages(
    tenant: Client, other: Client, two_domains: dict[str, list[str]], adapter: str
) -> None:
    (first, fruit), (second, stars) = two_domains.items()
    assert listed(tenant) == [*stars, *fruit]
    assert listed(tenant, f"/v1/domains/{first}/images") == fruit
    assert listed(tenant, domain_id=second) == stars
    assert list(pages(tenant, 1)) == [*stars, *fruit]
    assert list(pages(tenant, 3)) == [*stars, *fruit]
    assert listed(other) == []
    problem(other.get(f"/v1/images?domain_id={first}"), 404, "not_found")
    for cursor in (fruit[0].replace("/", "_"), fruit[0].split("/")[0], "gen_/1"):
        problem(tenant.get("/v1/images", params={"cursor": cursor}), 422, "invalid_cursor")
    apple = tenant.read(f"/v1/domains/{first}/images")["data"][-1]
    generation = tenant.read(f"/v1/generations/{apple['generation_id']}")
    assert apple == {
        **generation["images"][0],
        **{name: generation[name] for name in ("class_name", "adapter_id", "created_at", "domain_id")},
        "generation_id": generation["id"],
        "size_bytes": len(tenant.get(apple["url"]).content),
    }
    assert (apple["seed"], apple["adapter_id"], apple["favourite"], apple["label"]) == (5, adapter, False, None)


def pages(client: Client, limit: int) -> Iterator[str]:
    cursor: str | None = None
    while True:
        page = client.read("/v1/images", params={"limit": limit, **({"cursor": cursor} if cursor else {})})
        yield from (image["id"] for image in page["data"])
        if (cursor := page["next_cursor"]) is None:
            return


def test_images_and_generations_are_filtered(tenant: Client, two_domains: dict[str, list[str]], adapter: str) -> None:
    (first, fruit), (_second, stars) = two_domains.items()
    assert listed(tenant, class_name="pear") == fruit[:2]
    assert listed(tenant, adapter_id=adapter) == fruit
    assert listed(tenant, adapter_id="base") == stars
    assert listed(tenant, seed=8) == [stars[0], fruit[0]]
    assert listed(tenant, f"/v1/domains/{first}/images", seed=8) == [fruit[0]]
    apple = tenant.read(f"/v1/generations/{fruit[-1].split('/')[0]}")
    pears, star = (images[0].split("/")[0] for images in (fruit, stars))
    time = apple["created_at"]
    assert listed(tenant, created_after=time) == [*stars, *fruit[:2]]
    assert listed(tenant, created_before=time) == []
    assert listed(tenant, created_before="9999-12-31T23:59:59-12:00") == [*stars, *fruit]
    assert listed(tenant, created_after="0001-01-01T00:00:00+12:00", class_name="apple") == fruit[2:]
    generations = "/v1/generations"
    assert listed(tenant, generations) == [star, pears, apple["id"]]
    assert listed(tenant, generations, created_after=time, adapter_id=adapter) == [pears]
    assert listed(tenant, generations, class_name="apple", status="succeeded") == [apple["id"]]
    assert listed(tenant, generations, status="queued") == []
    assert listed(tenant, f"/v1/domains/{first}/generations", class_name="star") == []
    for query in ("created_after=1", "created_before=2026-11-23", "favourite=on", "seed=x", "colour=red"):
        problem(tenant.get(f"/v1/images?{query}"), 422, "invalid_request")


def test_favourites_and_labels_are_set_found_and_removed(
    tenant: Client, other: Client, two_domains: dict[str, list[str]]
) -> None:
    (first, fruit), (_second, stars) = two_domains.items()
    assert mark(tenant, fruit[0], favourite=True, label="Cover 100%")["label"] == "Cover 100%"
    assert mark(tenant, stars[0], label="a cover")["favourite"] is False
    assert listed(tenant, favourite="true") == [fruit[0]]
    assert listed(tenant, favourite="false", domain_id=first) == fruit[1:]
    assert listed(tenant, label="COVER") == [stars[0], fruit[0]]
    assert listed(tenant, label="0%") == [fruit[0]]
    assert listed(tenant, label="_cover") == []
    assert listed(other, label="cover") == []
    assert mark(tenant, fruit[0], favourite=True)["label"] == "Cover 100%"
    changed = mark(tenant, fruit[0], favourite=False, label=None)
    assert (changed["favourite"], changed["label"]) == (False, None)
    assert listed(tenant, favourite="true") == []
    problem(other.patch(f"/v1/generations/{fruit[0].replace('/', '/images/')}", {"favourite": True}), 404, "not_found")
    problem(tenant.patch(f"/v1/generations/{fruit[0].replace('/', '/images/')}", {"label": ""}), 422, "invalid_request")


def test_deleted_images_take_their_previews_files_and_bytes_with_them(
    tenant: Client, other: Client, two_domains: dict[str, list[str]], services: Services
) -> None:
    (first, fruit), (_second, stars) = two_domains.items()
    before = tenant.read("/v1/usage")
    size = {image["id"]: image["size_bytes"] for image in tenant.read("/v1/images")["data"]}
    assert other.made("/v1/images/delete", {"ids": fruit}) == {"deleted": []}
    gone = [fruit[0], stars[0]]
    absent = f"{fruit[0].split('/')[0]}/9"
    assert tenant.made("/v1/images/delete", {"ids": [*gone, absent]}) == {"deleted": sorted(gone)}
    assert tenant.made("/v1/images/delete", {"ids": gone}) == {"deleted": []}
    assert tenant.delete(f"/v1/generations/{fruit[2].replace('/', '/images/')}").status_code == 204
    problem(tenant.delete(f"/v1/generations/{fruit[2].replace('/', '/images/')}"), 404, "not_found")
    assert listed(tenant) == [fruit[1]]
    problem(tenant.get(f"/v1/generations/{fruit[0].replace('/', '/images/')}"), 404, "not_found")
    generation = tenant.read(f"/v1/generations/{fruit[0].split('/')[0]}")
    assert [image["id"] for image in generation["images"]] == [fruit[1]]
    after = tenant.read("/v1/usage")
    assert after["images"] == before["images"]
    assert before["stored_bytes"] - after["stored_bytes"] == sum(size[id] for id in (*gone, fruit[2]))
    assert discards.remove_page(services.database, services.store) >= 3
    folder = f"tenants/{tenant.read('/v1/key')['tenant_id']}/domains/{first}/generations/"
    assert len(services.store.list(folder)) == 1
    assert tenant.read(f"/v1/domains/{first}")["cover_url"] is None or fruit[1].endswith("/0")
    problem(tenant.post("/v1/images/delete", {"ids": ["gen_1/0"]}), 422, "invalid_request")
    problem(tenant.post("/v1/images/delete", {"ids": []}), 422, "invalid_request")


def test_cover_is_an_image_that_exists(tenant: Client, two_domains: dict[str, list[str]], api_client: Client) -> None:
    (first, fruit), _ = two_domains.items()
    for id in (fruit[1], fruit[2]):  # the covers: the first images of the two generations
        cover = tenant.read(f"/v1/domains/{first}")["cover_url"]
        assert f"/v1/generations/{id.replace('/', '/images/')}?" in cover
        assert api_client.get(cover).status_code == 200
        tenant.made("/v1/images/delete", {"ids": [id]})
    assert tenant.read(f"/v1/domains/{first}")["cover_url"] is None


def test_deleted_generation_leaves_a_receipt(
    tenant: Client, other: Client, domain: str, adapter: str, services: Services
) -> None:
    path = f"/v1/domains/{domain}/generations"
    before = tenant.read("/v1/usage")["stored_bytes"]
    body, key = {"class_id": 0, "count": 2}, {"Idempotency-Key": "once"}
    id = tenant.made(path, body, headers=key)["id"]
    url = f"/v1/generations/{id}"
    assert problem(tenant.delete(url), 409, "not_ended")["detail"].startswith(f"The generation '{id}' is queued.")
    draw_generations(services)
    problem(other.delete(url), 404, "not_found")
    response = tenant.delete(url)
    assert response.status_code == 204
    problem(tenant.get(url), 404, "not_found")
    assert tenant.read("/v1/usage")["stored_bytes"] == before
    receipt = tenant.read(response.headers["location"])
    assert (receipt["kind"], receipt["target"], receipt["objects"]) == ("generation", id, 0)
    assert receipt["rows"] == {"generations": 1, "generation_images": 2}
    deletions.advance(services.database, services.store)
    receipt = tenant.read(response.headers["location"])
    assert receipt["objects"] == 2
    assert receipt["bytes"] > 0
    deletions.advance(services.database, services.store)
    assert tenant.read(response.headers["location"])["done_at"] is not None
    assert tenant.made(path, body, headers=key)["id"] != id, "the stored response is forgotten"
    tenant.post(f"/v1/generations/{tenant.read(path)['data'][0]['id']}/cancel")


def test_request_without_a_seed_gets_a_random_seed(
    tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    path, body = f"/v1/domains/{domain}/generations", {"class_id": 0, "count": 2}
    first, again = (tenant.made(path, body, headers={"Idempotency-Key": "once"}) for _ in range(2))
    other = tenant.made(path, {**body, "seed": None})
    assert again == first
    assert 0 < first["seed"] != other["seed"] < MAX_SEED
    draw_generations(services)
    images = tenant.read(f"/v1/generations/{first['id']}")["images"]
    assert [image["seed"] for image in images] == [first["seed"], first["seed"] + 1]
    assert tenant.made(path, {**body, "seed": 0})["seed"] == 0
    draw_generations(services)


def test_zip_has_the_chosen_images_and_their_facts(
    tenant: Client, other: Client, two_domains: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (_first, fruit), (_second, stars) = two_domains.items()
    mark(tenant, fruit[0], label="größer", favourite=True)
    chosen = sorted([fruit[0], stars[0]])
    response = tenant.post("/v1/images/download", {"ids": [*chosen, fruit[0]]}, headers={"Idempotency-Key": "zip"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    assert response.headers["content-disposition"] == 'attachment; filename="images.zip"'
    with zipfile.ZipFile(io.BytesIO(response.content)) as packed:
        assert packed.testzip() is None
        names = [f"{id.replace('/', '-')}.png" for id in chosen]
        assert packed.namelist() == [*names, archives.METADATA]
        for name, id in zip(names, chosen, strict=True):
            assert packed.read(name) == tenant.get(f"/v1/generations/{id.replace('/', '/images/')}").content
        lines = [json.loads(line) for line in packed.read(archives.METADATA).decode().splitlines()]
    assert [line["file_name"] for line in lines] == names
    labelled = next(line for line in lines if line["id"] == fruit[0])
    assert (labelled["label"], labelled["favourite"], labelled["class_name"]) == ("größer", True, "pear")
    again = tenant.post("/v1/images/download", {"ids": chosen}, headers={"Idempotency-Key": "zip 2"})
    assert again.content == response.content
    problem(other.post("/v1/images/download", {"ids": chosen}), 404, "not_found")
    problem(tenant.post("/v1/images/download", {"ids": [chosen[0], f"{chosen[0]}9"]}), 404, "not_found")
    generation = fruit[0].split("/")[0]
    whole = tenant.get(f"/v1/generations/{generation}/download")
    with zipfile.ZipFile(io.BytesIO(whole.content)) as packed:
        assert packed.namelist() == [f"{generation}-0.png", f"{generation}-1.png", archives.METADATA]
    problem(other.get(f"/v1/generations/{generation}/download"), 404, "not_found")
    tenant.made("/v1/images/delete", {"ids": fruit})
    problem(tenant.get(f"/v1/generations/{generation}/download"), 404, "not_found")


@pytest.mark.anyio
async def test_zip_holds_one_image_in_memory_at_a_time() -> None:
    class Store:
        reads = 0

        def get(self, key: str, sha256: str) -> bytes:
            self.reads += 1
            return bytes(1000)

    store, reads, sizes = Store(), [], []
    source = Generation(class_name="apple", adapter_id=None, created_at=datetime.datetime.now(datetime.UTC))
    images = [
        GenerationImage(generation_id="gen_1", index=index, object_key="k", sha256="", seed=index, generation=source)
        for index in range(20)
    ]
    files = archives.image_files(store, images)  # type: ignore[arg-type]  # a store that only reads
    async for piece in archives.zipped(files):
        reads.append(store.reads)
        sizes.append(len(piece))
    assert reads == [*range(1, 21), 20, 20]
    assert max(sizes[:20]) < 1200


def test_head_of_an_image_has_the_headers_of_get(tenant: Client, two_domains: dict[str, list[str]]) -> None:
    image = tenant.read("/v1/images")["data"][0]
    for url in (image["url"], f"/v1/generations/{image['id'].replace('/', '/images/')}"):
        full, head = tenant.get(url), tenant.request("HEAD", url)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "cache-control"):
            assert head.headers[name] == full.headers[name]
        tag = {"If-None-Match": full.headers["etag"]}
        assert tenant.request("HEAD", url, headers=tag).status_code == 304
        assert tenant.get(url, headers=tag).status_code == 304


def test_expired_url_shows_a_page_in_a_browser_and_a_problem_elsewhere(
    tenant: Client, two_domains: dict[str, list[str]], api_client: Client, services: Services
) -> None:
    image = tenant.read("/v1/images")["data"][0]
    path = image["url"].split("?")[0]
    browser = {"Accept": "text/html,application/xhtml+xml,image/avif,*/*;q=0.8"}
    for url, status, words in (
        (f"{path}?expires=1&signature=00", 401, "This link has expired"),
        (image["url"].replace("expires=1", "expires=2"), 401, "This link has expired"),
        (image["url"], 410, "Image expired"),
    ):
        if status == 410:
            with services.database.session() as session:
                row = session.get_one(Generation, image["generation_id"])
                row.expired_at = database_now(session)
            tenant.made("/v1/images/delete", {"ids": [image["id"]]})
        page = api_client.get(url, headers=browser)
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert words in page.text
        assert page.headers["cache-control"] == "no-store"
        code = "unauthenticated" if status == 401 else "image_expired"
        problem(api_client.get(url), status, code)
        problem(api_client.get(url, headers={"Accept": "image/avif,image/webp,*/*"}), status, code)
    problem(api_client.get(path, headers=browser), 401, "unauthenticated")
