import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from starlette.requests import Request

from api.deps import Services
from api.signing import signed_url
from core.service import fleet, generations, jobs
from core.service.db.models import Generation
from tests.api.client import BASE, PNG_START, Api, Client, adapter_file, draw_generations, load_base, problem, running
from tests.api.conftest import make_settings


def test_images_are_generated_and_served(
    tenant: Client, domain: str, adapter: str, services: Services, api_client: Client
) -> None:
    body = {"class_name": "pear", "count": 2, "seed": 7, "steps": 5, "previews": 2}
    sent = tenant.post(f"/v1/domains/{domain}/generations", body)
    assert sent.status_code == 202
    assert "preference-applied" not in sent.headers
    generation = sent.json()
    assert (generation["status"], generation["progress"], generation["images"]) == ("queued", 0, [])
    assert (generation["class_id"], generation["adapter_id"]) == (1, adapter)

    draw_generations(services)
    done = tenant.read(f"/v1/generations/{generation['id']}")
    assert (done["status"], done["progress"], done["model_evaluations"]) == ("succeeded", 1, 20)
    assert done["timings"]["total"] == 0.5
    assert [(image["index"], image["seed"]) for image in done["images"]] == [(0, 7), (1, 8)]
    for image in done["images"]:
        assert image["url"].startswith(f"http://api.test/v1/generations/{generation['id']}/images/{image['index']}?")
        served = api_client.get(image["url"])
        assert served.status_code == 200
        assert served.headers["content-type"] == "image/png"
        assert served.content.startswith(PNG_START)
        assert hashlib.sha256(served.content).hexdigest() == image["sha256"]
        by_key = tenant.get(f"/v1/generations/{generation['id']}/images/{image['index']}")
        assert by_key.content == served.content
    problem(tenant.get(f"/v1/generations/{generation['id']}/images/2"), 404, "not_found")
    (listed,) = tenant.read(f"/v1/domains/{domain}/generations")["data"]
    assert listed["id"] == generation["id"]
    assert tenant.read(f"/v1/adapters/{adapter}")["last_used_at"] is not None
    usage = tenant.read("/v1/usage")
    assert (usage["images"], usage["model_evaluations"], usage["training_seconds"]) == (2, 20, 3.0)
    assert usage["stored_bytes"] > 0
    assert usage["days"][0]["images"] == 2


def test_sampler_and_steps_that_are_left_out_get_defaults(tenant: Client, domain: str, adapter: str) -> None:
    def settings(**body: object) -> tuple[object, object]:
        made = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, **body})
        return made["sampler"], made["steps"]

    assert settings() == settings(adapter_id="base") == ("dpmpp_2m", 20)
    assert settings(sampler="ddim", steps=None) == ("ddim", 50)
    assert settings(eta=0.5, steps=30) == ("ddim", 30)


def test_sampler_settings_are_stored_and_returned(
    tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    body = {"class_id": 0, "sampler": "ddim", "eta": 0.5, "guidance_interval": [800, 200], "previews": 3.0}
    body |= {"timestep_spacing": "dit", "guidance_adapter_scale": 0.5, "adapter_scale": 0.8}
    generation = tenant.made(f"/v1/domains/{domain}/generations", body)
    assert (generation["sampler"], generation["eta"], generation["guidance_interval"]) == ("ddim", 0.5, [200, 800])
    stored = tenant.get(f"/v1/generations/{generation['id']}").json()
    assert (stored["timestep_spacing"], stored["guidance_adapter_scale"]) == ("dit", 0.5)
    assert stored["adapter_scale"] == 0.8
    assert generation["previews"] == []
    plain = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "sampler": "dpmpp_2m"})
    draw_generations(services)
    assert (plain["sampler"], plain["eta"], plain["guidance_interval"]) == ("dpmpp_2m", 0.0, [200, 800])
    assert (plain["timestep_spacing"], plain["adapter_scale"]) == ("trailing", 1.0)


def test_previews_are_served_while_the_generation_runs(
    tenant: Client, other: Client, domain: str, adapter: str, services: Services, api_client: Client
) -> None:
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "previews": 2, "steps": 6})
    with services.database.session() as session:
        claim = jobs.claim_next(session, Generation, "worker", 60)
        assert claim is not None
        assert claim.id == generation["id"]
        for step in (4, 2, 4):  # another attempt shows the same step again
            stored = services.store.put(f"previews/{step}.png", PNG_START + bytes([step]))
            assert generations.add_preview(session, claim, 0, step, stored)
        assert not generations.add_preview(session, replace(claim, attempt=9), 0, 5, stored)
    running = tenant.read(f"/v1/generations/{generation['id']}")
    assert [(preview["index"], preview["step"]) for preview in running["previews"]] == [(0, 2), (0, 4)]
    for preview in running["previews"]:
        served = api_client.get(preview["url"])
        assert (served.status_code, served.content[-1]) == (200, preview["step"])
    path = f"/v1/generations/{generation['id']}/previews/0/2"
    assert tenant.get(path).status_code == 200
    problem(other.get(path), 404, "not_found")
    problem(tenant.get(f"/v1/generations/{generation['id']}/previews/0/3"), 404, "not_found")
    tenant.post(f"/v1/generations/{generation['id']}/cancel")


def test_signed_url_gives_access_to_one_image_until_it_expires(
    tenant: Client, domain: str, adapter: str, services: Services, api_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0, "count": 2})
    draw_generations(services)
    url = tenant.read(f"/v1/generations/{generation['id']}")["images"][0]["url"]
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    expires = int(query["expires"])
    assert 3600 <= expires - time.time() <= 3660

    def at(path: str, **changes: object) -> int:
        return api_client.get(f"{path}?{urlencode(query | changes)}").status_code

    assert at(parts.path) == 200
    assert at(parts.path.replace("images/0", "images/1")) == 401
    assert at(parts.path, expires=expires + 1) == 401
    assert at(parts.path, signature="0" * 64) == 401
    assert at(parts.path, signature="é") == 401
    assert at(parts.path, expires="9" * 30) == 422
    problem(api_client.get(parts.path), 401, "unauthenticated")
    monkeypatch.setattr("api.signing.time.time", lambda: expires + 1)
    error = problem(api_client.get(url), 401, "unauthenticated")
    assert "expired" in error["detail"]


def test_wait_responds_when_the_images_are_finished(
    tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    worker = threading.Timer(0.5, draw_generations, [services])
    worker.start()
    started = time.monotonic()
    sent = tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0}, headers={"Prefer": "wait=20"})
    assert time.monotonic() - started < 15
    worker.join()
    assert (sent.status_code, sent.json()["status"]) == (200, "succeeded")
    assert sent.headers["preference-applied"] == "wait=20"
    assert len(sent.json()["images"]) == 1


def test_wait_that_times_out_responds_202(tenant: Client, domain: str, adapter: str) -> None:
    started = time.monotonic()
    sent = tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0}, headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - started < 5
    assert (sent.status_code, sent.json()["status"]) == (202, "queued")
    assert sent.headers["preference-applied"] == "wait=1"
    cancelled = tenant.post(f"/v1/generations/{sent.json()['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    problem(tenant.post(f"/v1/generations/{sent.json()['id']}/cancel"), 409, "already_finished")


@pytest.mark.parametrize("prefer", ["respond-async", "wait=", "wait=x", "wait=-1", "wait=0", "swait=9", "\xe9"])
def test_other_preferences_are_ignored(tenant: Client, domain: str, adapter: str, prefer: str) -> None:
    started = time.monotonic()
    headers = {"Prefer": prefer}
    if prefer == "\xe9":
        headers = {"Prefer": prefer.encode("latin-1")}  # type: ignore[dict-item]
    sent = tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0}, headers=headers)
    assert sent.status_code == 202
    assert time.monotonic() - started < 2
    assert "preference-applied" not in sent.headers
    tenant.made(f"/v1/generations/{sent.json()['id']}/cancel")


def test_many_waits_at_once_hold_no_connection(tenant: Client, domain: str, adapter: str, services: Services) -> None:
    """More clients wait than the pool has connections and the process has threads; all of them get their response."""
    path, wait, clients = f"/v1/domains/{domain}/generations", {"Prefer": "wait=60"}, 45
    with ThreadPoolExecutor(clients) as pool:
        sent = [pool.submit(tenant.post, path, {"class_id": 0, "seed": k}, headers=wait) for k in range(clients)]
        while len(tenant.read(path, params={"limit": 100})["data"]) < clients:  # responds while all of them wait
            assert [waiting.result().text for waiting in sent if waiting.done()] == []
            time.sleep(0.05)
        draw_generations(services)
        assert [waiting.result().json()["status"] for waiting in sent] == ["succeeded"] * clients
        assert {waiting.result().status_code for waiting in sent} == {200}


def test_base_generates_images_without_an_adapter(tenant: Client, domain: str) -> None:
    problem(tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0}), 409, "no_active_adapter")
    drawn = tenant.made(f"/v1/domains/{domain}/generations", {"class_name": "star", "adapter_id": "base"})
    assert (drawn["adapter_id"], drawn["class_id"]) == (None, 2)
    tenant.made(f"/v1/generations/{drawn['id']}/cancel")


def test_class_names_are_compared_composed(tenant: Client, domain: str, services: Services) -> None:
    tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file(("crème",)))
    drawn = tenant.made(f"/v1/domains/{domain}/generations", {"class_name": "cre\u0300me"})
    assert drawn["class_name"] == "crème"
    tenant.made(f"/v1/generations/{drawn['id']}/cancel")


@pytest.mark.parametrize(
    ("body", "code"),
    [({"class_name": "banana"}, "unknown_class"), ({"class_id": 9}, "unknown_class"), ({}, "invalid_request"),
     ({"class_id": 0, "class_name": "pear"}, "invalid_request"), ({"class_id": -1}, "invalid_request"),
     ({"class_id": 2**31}, "invalid_request"), ({"class_id": 0, "count": 65}, "invalid_request"),
     ({"class_id": 0, "seed": 2**53}, "invalid_request"), ({"class_id": 0, "guidance_scale": 51}, "invalid_request"),
     ({"class_id": 0, "guidance_adapter_scale": 1.5}, "invalid_request"),
     ({"class_id": 0, "adapter_scale": 1.6}, "invalid_request"),
     ({"class_id": 0, "adapter_scale": -0.1}, "invalid_request"),
     ({"class_id": 0, "sampler": "magic"}, "invalid_request"),
     ({"class_id": 0, "sampler": "ddpm", "eta": 0.5}, "invalid_request"),
     ({"class_id": 0, "guidance_interval": [0, 1000]}, "invalid_request"),
     ({"class_id": 0, "timestep_spacing": "leading"}, "invalid_request"),
     ({"class_id": 0, "previews": 11}, "invalid_request"), ({"class_name": "a\0"}, "invalid_request"),
     ({"class_id": 0, "deadline_seconds": 0}, "invalid_request")],
)  # fmt: skip
def test_invalid_generation_settings_are_rejected(
    tenant: Client, domain: str, adapter: str, body: dict[str, object], code: str
) -> None:
    problem(tenant.post(f"/v1/domains/{domain}/generations", body), 422, code)


def test_learned_guidance_is_used_within_what_the_version_has_learned(tenant: Client, domain: str) -> None:
    """A version with learned guidance has its own default, and no other kind of guidance."""
    file = {"file": ("a", adapter_file(distill_guidance=3.0))}
    version = tenant.made(f"/v1/domains/{domain}/adapters", files=file)
    assert version["learned_guidance"] == 3.0
    plain = tenant.made(f"/v1/domains/{domain}/adapters", files={"file": ("a", adapter_file(seed=1))})
    assert plain["learned_guidance"] is None
    assert version["parameters"] == plain["parameters"]
    path, body = f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": version["id"]}
    settings = [
        tenant.made(path, body | chosen) for chosen in ({}, {"guidance_scale": 1.5}, {"adapter_id": plain["id"]})
    ]
    assert [(each["guidance_scale"], each["learned_guidance"]) for each in settings] == [
        (3.0, True),
        (1.5, True),
        (4.0, False),
    ]
    for chosen in ({"guidance_scale": 4.0}, {"guidance_adapter_scale": 0.5}, {"guidance_interval": [200, 800]}):
        problem(tenant.post(path, body | chosen), 422, "invalid_request")


def test_adapter_of_an_earlier_base_is_rejected(tenant: Client, domain: str, adapter: str, services: Services) -> None:
    with services.database.session() as session:
        fleet.register_base(session, services.settings.base_model, replace(BASE, digest="0" * 64))
    try:
        error = problem(tenant.post(f"/v1/domains/{domain}/generations", {"class_id": 0}), 409, "base_mismatch")
        assert "fine-tune" in error["detail"]
    finally:
        load_base(services)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Api:  # type: ignore[misc]
    settings = make_settings(
        tmp_path_factory.mktemp("small"), max_queued_generations=2, public_url="https://draw.example/api/"
    )
    with running(settings) as api:
        load_base(api.services)
        yield api


def test_full_queue_responds_with_retry_after(small: Api) -> None:
    tenant = small.tenant("full")
    path = f"/v1/domains/{tenant.made('/v1/domains', {'name': 'd'})['id']}/generations"
    body = {"class_id": 0, "adapter_id": "base"}
    for _ in range(2):
        tenant.made(path, body)
    refused = tenant.post(path, body)
    problem(refused, 429, "queue_full")
    wait = int(refused.headers["retry-after"])
    assert refused.headers["ratelimit"].split(", ")[0] == f'"queued_generations";r=0;t={wait}'
    assert refused.headers["ratelimit-policy"].split(", ")[0] == '"queued_generations";q=2'
    small.tenant("its neighbour").made("/v1/domains", {"name": "d"})


def test_urls_use_the_public_address(small: Api) -> None:
    """A proxy that removes its prefix forwards the signed path."""
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "app": small.app}
    url = signed_url(Request(scope), "/v1/generations/gen_x/images/0")
    assert url.startswith("https://draw.example/api/v1/generations/gen_x/images/0?expires=")
    behind_the_proxy = small.client().get(url.removeprefix("https://draw.example/api"))
    problem(behind_the_proxy, 404, "not_found")  # the signature is valid, but the image does not exist
