"""Mixes of two domains' versions through the API and a worker: their images, broken files and deletions."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from core.artifact.file import decode, encode
from core.artifact.sites import CLASS_TABLE
from tests.processes import ADMIN, Caller, api, wait_for_worker, worker
from tests.test_main_job import digests, draw
from tests.worker.test_deletion import until
from tests.worker.test_lost_worker import prepare, start, wait

BODY = {"class_name": "smiling-face", "seed": 7, "steps": 3}


def test_versions_of_two_domains_are_mixed_and_deleted(tmp_path: Path) -> None:
    environment = {
        "DIFFFIT_DATA_DIR": str(tmp_path / "data"),
        "DIFFFIT_HEARTBEAT_SECONDS": "1",
        "DIFFFIT_REAPER_SECONDS": "1",
    }
    with (
        api(environment, tmp_path) as url,
        worker(environment, tmp_path),
        httpx.Client(base_url=url, timeout=120) as http,
    ):
        wait_for_worker(url)
        caller, domain, dataset = prepare(http)
        wait(caller, start(caller, domain, dataset, steps=2), lambda finetune: finetune["status"] == "succeeded")
        (first,) = caller.get(f"/v1/domains/{domain}/adapters")["data"]
        file = caller.send("GET", f"/v1/adapters/{first['id']}/download").content
        sketches, second = uploaded(caller, "Sketches", changed(file, seed=0))
        check_images(caller, domain, sketches, second)
        check_deletion(caller, Caller(http, ADMIN), domain, sketches, first, second)
        check_broken_file(caller, domain, first, uploaded(caller, "Broken", changed(file, seed=1)), tmp_path / "data")


def check_images(caller: Caller, domain: str, sketches: str, second: dict[str, Any]) -> None:
    """Compares mixes with the images of both versions, and a mix in a batch with the same mix alone."""
    alone = [picture(draw(caller, where, BODY)) for where in (domain, sketches)]
    mixes = {weight: draw(caller, domain, mix(second, weight)) for weight in (0, 0.4, 1)}
    assert (mixes[0.4]["mix_adapter_id"], mixes[0.4]["mix_weight"]) == (second["id"], 0.4)
    pictures = {weight: picture(mixed) for weight, mixed in mixes.items()}
    assert pictures[0] == alone[0], "a weight of 0 must give the first version's file"
    assert pixels(pictures[1]) == pixels(alone[1])
    assert pixels(pictures[0.4]) not in [pixels(data) for data in alone]
    settings = [json.loads(Image.open(io.BytesIO(data)).text["difffit"]) for data in pictures.values()]  # type: ignore[attr-defined]
    expected = [(None, None), (second["sha256"], 0.4), (second["sha256"], 1.0)]
    assert [(stored.get("mix_adapter"), stored.get("mix_weight")) for stored in settings] == expected
    others = ((domain, BODY), (sketches, BODY), (domain, mix(second, 0.7)))
    crowd = [
        caller.post(f"/v1/domains/{where}/generations", {**body, "steps": 5 + number})["id"]
        for number, (where, body) in enumerate(others)
    ]
    assert digests(draw(caller, domain, mix(second, 0.4))) == digests(mixes[0.4])
    for id in crowd:
        assert caller.wait(f"/v1/generations/{id}", "queued", "running")["status"] == "succeeded"


def check_deletion(
    caller: Caller, admin: Caller, domain: str, sketches: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Deletes the domain of the second version while a mix with it is generated."""

    def resident() -> set[str]:
        return set(admin.get("/v1/admin/workers")["data"][0]["resident"])

    long = mix(second, 0.5) | {"steps": 1000, "count": 16}
    running = caller.post(f"/v1/domains/{domain}/generations", long)["id"]
    until(lambda: caller.get(f"/v1/generations/{running}")["progress"] > 0)
    until(lambda: resident() == {first["sha256"], second["sha256"]})
    location = caller.send("DELETE", f"/v1/domains/{sketches}").headers["location"]
    failed = caller.get(f"/v1/generations/{running}")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "not_found")
    assert second["id"] in failed["error"]["detail"]
    until(lambda: caller.get(location)["done_at"])
    until(lambda: second["sha256"] not in resident())
    assert caller.send("POST", f"/v1/domains/{domain}/generations", json=mix(second, 0.5)).status_code == 404
    assert draw(caller, domain, BODY)["images"]


def check_broken_file(
    caller: Caller, domain: str, first: dict[str, Any], other: tuple[str, dict[str, Any]], data: Path
) -> None:
    """Damages the stored file of a mix's second version: only this version is quarantined."""
    other_domain, broken = other
    (path,) = data.rglob(f"{other_domain}/adapters/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    id = caller.post(f"/v1/domains/{domain}/generations", mix(broken, 0.5))["id"]
    failed = caller.wait(f"/v1/generations/{id}", "queued", "running")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "checksum_mismatch")
    statuses = [caller.get(f"/v1/adapters/{version['id']}")["status"] for version in (first, broken)]
    assert statuses == ["ready", "quarantined"]
    refused = caller.send("POST", f"/v1/domains/{domain}/generations", json=mix(broken, 0.5))
    assert (refused.status_code, refused.json()["code"]) == (409, "adapter_quarantined")


def uploaded(caller: Caller, name: str, file: bytes) -> tuple[str, dict[str, Any]]:
    """Returns the id of a new domain, and its version."""
    domain = caller.post("/v1/domains", {"name": name})["id"]
    sent = caller.send("POST", f"/v1/domains/{domain}/adapters", files={"file": ("a", file)}).raise_for_status()
    return domain, sent.json()


def changed(file: bytes, seed: int) -> bytes:
    """Returns an adapter file with other values, and with its two classes in the other order."""
    artifact, generator = decode(file), np.random.default_rng(seed)
    tensors = {
        name: tensor + 0.05 * generator.standard_normal(tensor.shape, dtype=np.float32)
        for name, tensor in artifact.tensors.items()
    }
    tensors[CLASS_TABLE] = tensors[CLASS_TABLE][[1, 0, 2]]
    return encode(replace(artifact.manifest, class_names=artifact.manifest.class_names[::-1]), tensors)


def mix(version: dict[str, Any], weight: float) -> dict[str, Any]:
    return {**BODY, "mix_adapter_id": version["id"], "mix_weight": weight}


def picture(generation: dict[str, Any]) -> bytes:
    (image,) = generation["images"]
    return httpx.get(image["url"]).raise_for_status().content


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).tobytes()
