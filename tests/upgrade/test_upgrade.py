"""Upgrade of a service of the last release, which is migrated and continues where that release stopped."""

import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from standardwebhooks import Webhook

from core.artifact.file import decode
from tests.processes import ADMIN, Caller, running
from tests.receiver import Receiver, receiving
from tests.upgrade.release import Release, differing

DEFAULTS = {"sampler": "ddim", "guidance_adapter_scale": 1.0, "guidance_interval": [0, 999]}
"""Sampling settings of the release's requests that gave none."""
SOON = {"DIFFFIT_LEASE_SECONDS": "4", "DIFFFIT_HEARTBEAT_SECONDS": "1", "DIFFFIT_REAPER_SECONDS": "1"}


def test_upgraded_service_continues_where_the_release_stopped(release: Release, tmp_path: Path) -> None:
    facts = release.facts
    environment = release.environment | SOON | {"DIFFFIT_WEBHOOKS_ALLOW_PRIVATE": "true"}
    subprocess.run([sys.executable, "-m", "migrations"], env={**os.environ, **environment}, check=True)
    with (
        receiving() as receiver,
        running(environment, tmp_path) as url,
        httpx.Client(base_url=url, timeout=120) as http,
    ):
        caller = Caller(http, facts["key"])
        hook = f"/v1/webhooks/{facts['webhook']['id']}"
        caller.send("PATCH", hook, json={"url": receiver.url}).raise_for_status()
        check_keys(http, facts)
        check_lists(http, facts)
        complete_upload(caller, facts, release.folder / "last-part")
        assert caller.wait(f"/v1/datasets/{facts['waiting_dataset']}", "validating")["status"] == "ready"
        check_images(caller, facts, release.folder)
        check_finetune(caller, facts)
        check_deliveries(caller, hook, facts, receiver)


def check_keys(http: httpx.Client, facts: dict[str, Any]) -> None:
    domains = f"/v1/domains/{facts['domain']}"
    reader, revoked = (Caller(http, facts[f"{name}_key"]) for name in ("reading", "revoked"))
    admin = Caller(http, ADMIN)  # newly configured; replaces the release's key
    assert reader.get(domains)["name"] == "Drawings"
    assert reader.send("POST", "/v1/domains", json={"name": "another"}).status_code == 403
    assert revoked.send("GET", domains).status_code == 401
    assert [tenant["id"] for tenant in admin.get("/v1/admin/tenants")["data"]] == [facts["tenant"]]


def check_lists(http: httpx.Client, facts: dict[str, Any]) -> None:
    caller, admin = Caller(http, facts["key"]), Caller(http, ADMIN)
    domain = f"/v1/domains/{facts['domain']}"
    expected = {
        "/v1/domains": {facts["domain"]},
        f"{domain}/datasets": {facts["dataset"], facts["waiting_dataset"]},
        f"{domain}/datasets/uploads": {facts["upload"]["id"]},
        f"{domain}/finetunes": {facts["finished"]["id"], facts["running"]},
        f"{domain}/generations": {row["id"] for row in facts["generations"].values()} | {facts["waiting_generation"]},
        "/v1/webhooks": {facts["webhook"]["id"]},
    }
    for path, ids in expected.items():
        assert {row["id"] for row in caller.get(path)["data"]} == ids, path
    assert facts["finished"]["adapter"] in {row["id"] for row in caller.get(f"{domain}/adapters")["data"]}
    assert {entry["action"] for entry in admin.get("/v1/admin/audit")["data"]} >= {"tenant.create", "finetune.create"}


def complete_upload(caller: Caller, facts: dict[str, Any], last: Path) -> None:
    """Sends the part that the release did not receive."""
    upload = f"/v1/domains/{facts['domain']}/datasets/uploads/{facts['upload']['id']}"
    put = caller.send("PUT", f"{upload}/parts/2", content=last.read_bytes()).raise_for_status()
    etags = [facts["upload"]["etag"], put.headers["ETag"]]
    dataset = caller.post(f"{upload}/complete", {"parts": [{"number": n, "etag": e} for n, e in enumerate(etags, 1)]})
    ready = caller.wait(f"/v1/datasets/{dataset['id']}", "validating")
    assert (ready["status"], ready["images"]) == ("ready", 4)


def check_images(caller: Caller, facts: dict[str, Any], folder: Path) -> None:
    """Checks that the release's images are unchanged to the byte, and that the same requests, with the sampler and the
    guidance that were the default then, generate them again within rounding. How sums are rounded may differ between
    releases."""
    generations = f"/v1/domains/{facts['domain']}/generations"
    for name, expected in facts["generations"].items():
        body = {"adapter_id": facts["finished"]["adapter"], **DEFAULTS} | expected["asked"]
        again = caller.post(generations, body)["id"]
        ids = {expected["id"], again} | ({facts["waiting_generation"]} if name == "adapter" else set())
        for id in ids:
            ended = caller.wait(f"/v1/generations/{id}", "queued", "running")
            assert (ended["status"], ended["error"]) == ("succeeded", None)
            for index, sha256 in enumerate(expected["sha256"]):
                png = caller.send("GET", f"/v1/generations/{id}/images/{index}").raise_for_status().content
                if id == expected["id"]:
                    assert hashlib.sha256(png).hexdigest() == sha256
                assert largest_difference(png, (folder / f"{name}-{index}.png").read_bytes()) <= 2


def check_finetune(caller: Caller, facts: dict[str, Any], start: int = 50, *, has_reason: bool = False) -> None:
    """Checks that the fine-tune resumes at step `start` and ends like the undisturbed one. With `has_reason`, its
    events give a reason."""
    ended = caller.wait(f"/v1/finetunes/{facts['running']}", "queued", "running")
    assert (ended["status"], ended["error"], ended["step"]) == ("succeeded", None, facts["finetune"]["steps"])
    events = caller.send("GET", f"/v1/finetunes/{facts['running']}/events").text
    data = [json.loads(line.removeprefix("data: ")) for line in events.splitlines() if line.startswith("data: ")]
    assert [event["step"] for event in data if event.keys() == {"status", "step", "steps"}] == [0, start]
    assert [event["restarted_from"] for event in data if "reason" in event] == [start] * has_reason
    resumed, whole = (
        decode(caller.send("GET", f"/v1/adapters/{id}/download").raise_for_status().content)
        for id in (ended["adapter_id"], facts["finished"]["adapter"])
    )
    assert whole.sha256 == facts["finished"]["sha256"]
    assert differing(resumed.tensors, whole.tensors) == []


@pytest.mark.parametrize(
    ("lost", "restarted"),
    [("missing", 0), ("damaged", 0), ("missing behind another", 50)],
)
@pytest.mark.parametrize("release", ["sqlite"], indirect=True)
def test_finetune_with_a_lost_checkpoint_continues_from_the_last_readable_one(
    release: Release, tmp_path: Path, lost: str, restarted: int
) -> None:
    facts, environment = release.facts, release.environment | SOON
    subprocess.run([sys.executable, "-m", "migrations"], env={**os.environ, **environment}, check=True)
    (checkpoint,) = release.folder.glob(f"data/objects/**/{facts['running']}/attempts/1/checkpoint-50.safetensors")
    if lost == "missing":
        checkpoint.unlink()
    elif lost == "damaged":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"x")
    else:
        with closing(sqlite3.connect(release.folder / "data" / "difffit.db")) as rows, rows:
            rows.execute(
                "UPDATE finetunes SET previous_checkpoint_key = checkpoint_key, checkpoint_key = 'tenants/no/such', "
                "previous_checkpoint_sha256 = checkpoint_sha256 WHERE id = ?",
                [facts["running"]],
            )
    with running(environment, tmp_path) as url, httpx.Client(base_url=url, timeout=120) as http:
        check_finetune(Caller(http, facts["key"]), facts, start=restarted, has_reason=True)


def test_local_run_of_the_release_continues(release_files: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "local.safetensors"
    (release_files / "local.checkpoint").rename(output.with_suffix(".checkpoint"))
    command = [sys.executable, "-m", "difffit", "train", str(release_files / "images.zip"), "--json"]
    environment = os.environ | {"DIFFFIT_TORCH_THREADS": "1", "DIFFFIT_DEVICE": "cpu"}
    run = subprocess.run(
        [*command, "-o", str(output), *facts["local"]["options"]], env=environment, check=True, capture_output=True
    )
    assert b'"started_at_step": 20' in run.stdout
    resumed, whole = (decode(path.read_bytes()) for path in (output, release_files / "local.safetensors"))
    assert differing(resumed.tensors, whole.tensors) == []


def check_deliveries(caller: Caller, hook: str, facts: dict[str, Any], receiver: Receiver) -> None:
    """Checks the delivery that the release could not make and a new delivery, both signed with the old secret."""
    deliveries = caller.get(f"{hook}/deliveries")["data"]
    for delivery in deliveries:
        assert caller.wait(f"{hook}/deliveries/{delivery['id']}", "pending")["status"] == "succeeded"
    secret = Webhook(facts["webhook"]["secret"])
    delivered = {secret.verify(body, headers)["data"]["id"] for headers, body in receiver.received}
    assert delivered == {facts["finished"]["id"], facts["running"]}


def largest_difference(first: bytes, second: bytes) -> int:
    """Returns the largest difference of two images, out of 255."""
    pixels = [np.asarray(Image.open(io.BytesIO(data)), dtype=int) for data in (first, second)]
    return int(np.abs(pixels[0] - pixels[1]).max())
