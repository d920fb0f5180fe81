"""The main job through a real API process and a real worker process, on every kind of service."""

import io
import json
import os
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from core.artifact.file import decode
from core.ml.bundled import sample_domain_folder
from tests import radosgw, services
from tests.deploy.test_compose import OURS
from tests.processes import ADMIN, Caller, running

Environment = dict[str, str]


def embedded(request: pytest.FixtureRequest, folder: Path) -> Environment:
    """Returns settings for SQLite, a folder as store and a folder as broker."""
    return {"DIFFFIT_DATA_DIR": str(folder / "data")}


def full(request: pytest.FixtureRequest, folder: Path) -> Environment:
    """Returns settings for PostgreSQL, Redis and an S3 server."""
    endpoint: str = request.getfixturevalue("s3_endpoint")
    return _servers(request, folder, endpoint, "test", "test")


def full_on_radosgw(request: pytest.FixtureRequest, folder: Path) -> Environment:
    """Returns the same settings for Ceph's gateway, which checks every signature."""
    if not radosgw.installed():
        pytest.skip("radosgw is not installed")
    gateway: radosgw.Gateway = request.getfixturevalue("ceph_gateway")
    return _servers(request, folder, gateway.endpoint, gateway.access_key, gateway.secret_key)


@pytest.mark.parametrize("kind", [embedded, full, full_on_radosgw])
def test_main_job_works(kind: Callable[..., Environment], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    environment = kind(request, tmp_path)
    with running(environment, tmp_path) as url, httpx.Client(base_url=url, timeout=120) as http:
        admin = Caller(http, ADMIN)
        tenant = admin.post("/v1/admin/tenants", {"name": "First"})
        key = admin.post(f"/v1/admin/tenants/{tenant['id']}/keys", {"name": "laptop"})["key"]
        caller = Caller(http, key)
        domain = caller.post("/v1/domains", {"name": "OpenMoji"})
        asked = caller.send("POST", f"/v1/domains/{domain['id']}/generations", json={"class_id": 0})
        assert (asked.status_code, asked.json()["code"]) == (409, "no_active_adapter")

        dataset = caller.wait(f"/v1/datasets/{upload(caller, domain['id'])['id']}", "validating")
        assert dataset["status"] == "ready"
        assert dataset["images"] == 24
        assert [rejected["file"] for rejected in dataset["report"]["rejected"]] == ["fruit/broken.png"]

        first = finetune(caller, domain["id"], dataset["id"])
        again = finetune(caller, domain["id"], dataset["id"])
        adapters = caller.get(f"/v1/domains/{domain['id']}/adapters")["data"]
        assert [adapter["version"] for adapter in adapters] == [2, 1]
        assert adapters[0]["sha256"] == adapters[1]["sha256"], "equal training must give equal files"
        assert caller.get(f"/v1/domains/{domain['id']}")["active_adapter_id"] == first["adapter_id"]
        caller.post(f"/v1/domains/{domain['id']}/adapters/{again['adapter_id']}/promote", {})
        assert caller.get(f"/v1/domains/{domain['id']}")["active_adapter_id"] == again["adapter_id"]

        file = caller.send("GET", f"/v1/adapters/{first['adapter_id']}/download").content
        artifact = decode(file)
        assert artifact.sha256 == adapters[1]["sha256"]
        assert artifact.manifest.class_names == ("fruit", "smiling-face")

        body = {"class_name": "smiling-face", "count": 2, "seed": 7, "steps": 4, "sampler": "ddpm", "previews": 1}
        alone = draw(caller, domain["id"], body)
        assert sorted((preview["index"], preview["step"]) for preview in alone["previews"]) == [(0, 2), (1, 2)]
        seen = Image.open(io.BytesIO(httpx.get(alone["previews"][0]["url"]).content))
        assert seen.size == (64, 64)
        crowd = [
            caller.post(
                f"/v1/domains/{domain['id']}/generations",
                {"class_id": 0, "steps": steps, "seed": steps, "sampler": sampler, "guidance_interval": [300, 900]},
            )
            for steps, sampler in ((3, "ddim"), (5, "dpmpp_2m"), (8, "ddpm"))
        ]
        together = draw(caller, domain["id"], body)
        assert digests(alone) == digests(together), "an image must not depend on others in its batch"
        for generation in crowd:
            assert caller.wait(f"/v1/generations/{generation['id']}", "queued", "running")["status"] == "succeeded"
        check_image(http, together)

        stored = admin.get("/v1/admin/adapters")["data"]
        assert {row["tenant_id"] for row in stored} == {tenant["id"]}
        assert caller.get("/v1/usage")["images"] == 7
        for name in ("api", "worker"):
            _, _, *check = OURS[name]["healthcheck"]["test"]
            command = [sys.executable, *(word.replace("http://127.0.0.1:8000", url) for word in check)]
            subprocess.run(command, env={**os.environ, **environment}, check=True)


def finetune(caller: Caller, domain_id: str, dataset_id: str) -> dict[str, Any]:
    body = {"dataset_id": dataset_id, "steps": 6, "batch_size": 4}
    started = caller.post(f"/v1/domains/{domain_id}/finetunes", body)
    ended = caller.wait(f"/v1/finetunes/{started['id']}", "queued", "running")
    assert (ended["status"], ended["step"], ended["error"]) == ("succeeded", 6, None)
    events = caller.send("GET", f"/v1/finetunes/{started['id']}/events").text
    assert "event: progress" in events
    last = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")][-1]
    details = {name: ended[name] for name in ("adapter_id", "adapter_step", "stop_reason")}
    assert json.loads(last) == {"status": "succeeded", **details}
    return ended


def draw(caller: Caller, domain_id: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = caller.send("POST", f"/v1/domains/{domain_id}/generations", json=body, headers={"Prefer": "wait=60"})
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    generation: dict[str, Any] = answer.json()
    return generation


def digests(generation: dict[str, Any]) -> list[str]:
    return [image["sha256"] for image in generation["images"]]


def check_image(http: httpx.Client, generation: dict[str, Any]) -> None:
    signed = generation["images"][0]["url"]
    answer = httpx.get(signed)
    assert answer.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (64, 64)
    assert json.loads(image.text["difffit"])["seed"] == 7  # type: ignore[attr-defined]
    tampered = httpx.get(signed.replace("/images/0", "/images/1"))
    assert tampered.status_code == 401


def upload(caller: Caller, domain_id: str) -> dict[str, Any]:
    """Uploads two classes of twelve drawings and one file that is no image. Returns the data set."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("fruit", "smiling-face"):
            for path in sorted((sample_domain_folder() / name).glob("*.png"))[:12]:
                archive.write(path, f"{name}/{path.name}")
        archive.writestr("fruit/broken.png", b"not an image")
    dataset: dict[str, Any] = caller.send(
        "POST", f"/v1/domains/{domain_id}/datasets", files={"file": ("set.zip", buffer.getvalue())}
    ).json()
    return dataset


def _servers(request: pytest.FixtureRequest, folder: Path, endpoint: str, access: str, secret: str) -> Environment:
    """Prepares an empty database and a bucket with the same two jobs as compose. Returns the settings."""
    server: services.Postgres = request.getfixturevalue("postgres_server")
    environment = {
        **services.roles_of(server.create(f"main_job_{uuid.uuid4().hex}")),
        "DIFFFIT_BROKER_URL": request.getfixturevalue("redis_url"),
        "DIFFFIT_STORAGE_URL": f"s3://main-job-{uuid.uuid4().hex}/prefix",
        "DIFFFIT_S3_ENDPOINT_URL": endpoint,
        "DIFFFIT_DATA_DIR": str(folder / "data"),
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    for job in ("migrations", "core.service.storage"):
        subprocess.run([sys.executable, "-m", job], env={**os.environ, **environment}, check=True)
    return environment
