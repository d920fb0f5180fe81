"""Writes what a release leaves behind, with that release's own code; tests then migrate it and continue.

    git worktree add ../release COMMIT
    cd ../release
    PYTHONPATH=$PWD python THIS_FILE OUTPUT_FOLDER

If the bundled base has changed since, first copy today's base over the release's, since adapters of another base are
rejected.
Runs in the release's tree, whose `tests.processes` starts its API and its worker on SQLite and a folder. Writes
`OUTPUT_FOLDER/release.tar.xz` (the data folder, the same rows as a PostgreSQL dump, images, a local run's checkpoint)
and `OUTPUT_FOLDER/release.json` (keys, ids, digests, and the processor that the images were computed on).
"""

import hashlib
import io
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import sqlalchemy
import torch

from core.ml.bundled import sample_domain_folder
from core.service.db.base import Base
from core.service.db.schema import upgrade
from tests import services
from tests.processes import ADMIN, Caller, api, wait_for_worker, worker

STEPS, PART = 70, 5 * 2**20
FINETUNE = {"preset": "literal", "steps": STEPS, "batch_size": 4, "seed": 3}
DRAWING = {"class_name": "heart", "count": 2, "seed": 11, "steps": 5}


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = folder / "kept"
        kept.mkdir()
        facts = _service(folder, kept)
        facts["local"] = _local_run(folder, kept)
        _dump(folder / "data" / "difffit.db", kept / "postgresql.sql")
        data = kept / "data"
        shutil.copytree(folder / "data", data, ignore=shutil.ignore_patterns("broker*", "difffit.db*"))
        with (
            closing(sqlite3.connect(folder / "data" / "difffit.db")) as original,
            closing(sqlite3.connect(data / "difffit.db")) as copy,
        ):
            original.backup(copy)
            copy.execute("VACUUM")
        commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
        facts |= {
            "commit": commit.strip(),
            "made_at": time.time(),
            "processor": processor(),
            "torch": torch.__version__,
        }
        with tarfile.open(output / "release.tar.xz", "w:xz", preset=9) as archive:
            archive.add(kept, "")
    (output / "release.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def processor() -> str:
    """Returns the processor's name; the last bits of a product differ between processors."""
    match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{match.group(1) if match else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _service(folder: Path, kept: Path) -> dict[str, Any]:
    """Creates keys, a data set, an adapter with images, a fine-tune whose worker is killed after its checkpoint, and
    waiting rows: a data set, a generation, an upload without its last part, a delivery."""
    environment = {
        "DIFFFIT_DATA_DIR": str(folder / "data"),
        "DIFFFIT_TORCH_THREADS": "1",
        "DIFFFIT_WEBHOOKS_ALLOW_PRIVATE": "true",
        "DIFFFIT_UPLOAD_PART_BYTES": str(PART),
    }
    facts: dict[str, Any] = {"admin_key": ADMIN, "finetune": FINETUNE, "drawing": DRAWING}
    with api(environment, folder) as url, httpx.Client(base_url=url, timeout=120) as http:
        facts |= _tenant(http)
        caller = Caller(http, facts["key"])
        hook = caller.post("/v1/webhooks", {"url": "http://127.0.0.1:9/", "events": ["finetune.succeeded"]})
        facts["webhook"] = {"id": hook["id"], "secret": hook["secret"]}
        facts["domain"] = domain = caller.post("/v1/domains", {"name": "Drawings"})["id"]
        with worker(environment, folder) as process:
            wait_for_worker(url)
            facts["dataset"] = dataset = _upload(caller, domain, _images(("fruit", "heart"), 6))
            caller.wait(f"/v1/datasets/{dataset}", "validating")
            asked = {"dataset_id": dataset, **FINETUNE}
            first = caller.post(f"/v1/domains/{domain}/finetunes", asked)["id"]
            ended = caller.wait(f"/v1/finetunes/{first}", "queued", "running")
            facts["finished"] = {"id": first, "adapter": ended["adapter_id"]}
            facts["finished"]["sha256"] = caller.get(f"/v1/adapters/{ended['adapter_id']}")["sha256"]
            facts["generations"] = {
                "adapter": _draw(caller, domain, DRAWING, kept / "adapter"),
                "base": _draw(caller, domain, {**DRAWING, "adapter_id": "base", "sampler": "ddpm"}, kept / "base"),
            }
            facts["running"] = running = caller.post(f"/v1/domains/{domain}/finetunes", asked)["id"]
            while not caller.get(f"/v1/finetunes/{running}")["step"] > 50:
                time.sleep(0.01)
            process.kill()
        assert list((folder / "data" / "objects").glob(f"**/{running}/attempts/1/checkpoint-50.safetensors"))
        facts["upload"] = _upload_in_parts(caller, domain, kept / "last-part")
        facts["waiting_dataset"] = _upload(caller, domain, _images(("animal-face", "bird"), 2))
        facts["waiting_generation"] = caller.post(f"/v1/domains/{domain}/generations", DRAWING)["id"]
    return facts


def _tenant(http: httpx.Client) -> dict[str, Any]:
    admin = Caller(http, ADMIN)
    tenant = admin.post("/v1/admin/tenants", {"name": "Studio"})["id"]
    keys = f"/v1/admin/tenants/{tenant}/keys"
    revoked = admin.post(keys, {"name": "lost"})
    admin.send("DELETE", f"/v1/admin/keys/{revoked['id']}").raise_for_status()
    return {
        "tenant": tenant,
        "key": admin.post(keys, {"name": "laptop"})["key"],
        "reading_key": admin.post(keys, {"name": "viewer", "scopes": ["read"]})["key"],
        "revoked_key": revoked["key"],
    }


def _draw(caller: Caller, domain: str, body: dict[str, Any], path: Path) -> dict[str, Any]:
    """Generates images and stores them as `path-0.png` and so on."""
    id = caller.post(f"/v1/domains/{domain}/generations", body)["id"]
    ended = caller.wait(f"/v1/generations/{id}", "queued", "running")
    digests = []
    for index in range(ended["count"]):
        png = caller.send("GET", f"/v1/generations/{id}/images/{index}").raise_for_status().content
        path.with_name(f"{path.name}-{index}.png").write_bytes(png)
        digests.append(hashlib.sha256(png).hexdigest())
    return {"id": id, "asked": body, "sha256": digests}


def _images(classes: tuple[str, ...], count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in classes:
            for path in sorted((sample_domain_folder() / name).glob("*.png"))[:count]:
                archive.write(path, f"{name}/{path.name}")
    return buffer.getvalue()


def _upload(caller: Caller, domain: str, data: bytes) -> str:
    answer = caller.send("POST", f"/v1/domains/{domain}/datasets", files={"file": ("set.zip", data)})
    return str(answer.raise_for_status().json()["id"])


def _upload_in_parts(caller: Caller, domain: str, last: Path) -> dict[str, Any]:
    """Sends the first of two parts and stores the second one in `last`."""
    buffer = io.BytesIO(_images(("fruit", "heart"), 2))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("fruit/zeros.bin", bytes(PART))  # the part compresses well
        archive.writestr("heart/last.txt", "the end")
    data = buffer.getvalue()
    uploads = f"/v1/domains/{domain}/datasets/uploads"
    begun = caller.post(uploads, {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    size = begun["part_bytes"]
    put = caller.send("PUT", f"{uploads}/{begun['id']}/parts/1", content=data[:size])
    etag = put.raise_for_status().headers["ETag"]
    last.write_bytes(data[size:])
    return {"id": begun["id"], "etag": etag}


def _local_run(folder: Path, kept: Path) -> dict[str, Any]:
    """Runs `difffit train` to its end, and stores a checkpoint that it wrote before."""
    (kept / "images.zip").write_bytes(_images(("fruit", "heart"), 6))
    output = folder / "local.safetensors"
    options = ["--method", "lora", "--site", "rank=1", "--steps", "30", "--batch-size", "4", "--checkpoint-every", "20"]
    command = [sys.executable, "-m", "difffit", "train", str(kept / "images.zip"), "-o", str(output), *options]
    environment = os.environ | {"DIFFFIT_TORCH_THREADS": "1", "DIFFFIT_DEVICE": "cpu"}
    process = subprocess.Popen(command, env=environment)
    while not output.with_suffix(".checkpoint").exists():
        assert process.poll() is None, "it must not end before its checkpoint is copied"
        time.sleep(0.001)
    shutil.copy(output.with_suffix(".checkpoint"), kept / "local.checkpoint")
    assert process.wait() == 0
    shutil.copy(output, kept / "local.safetensors")
    return {"options": options, "step": 20}


def _dump(sqlite: Path, path: Path) -> None:
    """Writes a dump of a PostgreSQL database of the same release with the rows of an SQLite file."""
    source = sqlalchemy.create_engine(f"sqlite:///{sqlite}")
    with services.postgres() as server:
        url = server.create("release")
        upgrade(url)
        owner = server.uri_of("release")
        target = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(owner))
        with source.connect() as rows, target.begin() as connection:
            for table in Base.metadata.sorted_tables:
                copies = [dict(row._mapping) for row in rows.execute(table.select())]
                if not copies:
                    continue
                connection.execute(table.insert(), copies)
                if (column := table.autoincrement_column) is not None:
                    last = max(row[column.name] for row in copies)
                    name = sqlalchemy.text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)")
                    connection.execute(name, {"table": table.name, "column": column.name, "last": last})
        target.dispose()
        options = ["--no-owner", "--no-privileges", "--file", str(path), owner]
        subprocess.run([server.psql.with_name("pg_dump"), *options], check=True)
    source.dispose()
    # Older versions of psql do not accept these lines of the newest pg_dump.
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
    path.write_text("\n".join(line for line in lines if "transaction_timeout" not in line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
