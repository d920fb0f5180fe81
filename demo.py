"""The main job through the REST API, as a user's script would do it: `make demo`.

Starts a server of its own (SQLite, a folder, a Celery worker on a filesystem broker, the bundled base on the CPU),
teaches it the OpenMoji style from 160 drawings, and draws every class with the base and with the domain.
"""

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from core.ml.bundled import sample_domain_folder

OUTPUT = Path("demo-output")
console = Console()


def main() -> None:
    options = _options()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    started = time.monotonic()
    with server() as (url, admin_key):
        admin = Client(url, admin_key)
        tenant = admin.post("/v1/admin/tenants", {"name": "Demo"})
        key = admin.post(f"/v1/admin/tenants/{tenant['id']}/keys", {"name": "demo"})["key"]
        client = Client(url, key)
        report = main_job(client, admin, options)
    report["total_seconds"] = round(time.monotonic() - started, 1)
    (OUTPUT / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    better = 1 - report["held_out_loss_adapter"] / report["held_out_loss_base"]
    console.print(f"Held-out loss {better:.1%} below the base's, with {report['trainable_parameters']:,} parameters.")
    for name in ("before_after.png", "report.json"):
        console.print(f"[bold]{OUTPUT / name}[/bold]")


def main_job(client: "Client", admin: "Client", options: argparse.Namespace) -> dict[str, Any]:
    """Domain, data set, fine-tune, hot swap, images; returns what the report tells."""
    domain = client.post("/v1/domains", {"name": "OpenMoji", "description": "Black outlines, flat fills"})
    dataset = client.upload(f"/v1/domains/{domain['id']}/datasets", zip_folder(sample_domain_folder()))
    dataset = client.wait(f"/v1/datasets/{dataset['id']}", {"ready", "rejected"})
    console.print(f"Data set: {dataset['images']} images in {len(dataset['classes'])} classes")
    classes = [one["name"] for one in dataset["classes"]]

    before, _ = draw_all(client, domain["id"], classes, options, adapter_id="base")
    body = {"dataset_id": dataset["id"], "steps": options.steps, "batch_size": options.batch_size, "seed": 0}
    finetune = client.post(f"/v1/domains/{domain['id']}/finetunes", body)
    finetune = follow(client, finetune["id"])
    after, drawn = draw_all(client, domain["id"], classes, options)
    side_by_side(classes, before, after).save(OUTPUT / "before_after.png")

    stored = admin.get("/v1/admin/adapters")["data"]
    console.print(f"Stored adapters: {len(stored)}, {stored[0]['size_bytes']:,} bytes, on {stored[0]['resident_on']}")
    losses = client.get(f"/v1/finetunes/{finetune['id']}/metrics")["data"]
    adapter = client.get(f"/v1/adapters/{finetune['adapter_id']}")
    workers = admin.get("/v1/admin/workers")["data"]
    estimate = client.post(f"/v1/domains/{domain['id']}/finetunes", body | {"dry_run": True})
    return {
        "base_digest": workers[0]["base_digest"],
        "trainable_parameters": finetune["trainable_parameters"],
        "trainable_fraction": estimate["trainable_fraction"],
        "adapter_bytes": adapter["size_bytes"],
        "adapter_sha256": adapter["sha256"],
        "finetune_steps": finetune["step"],
        "finetune_seconds": round(finetune["seconds"], 1),
        "loss_first": losses[0]["loss"],
        "loss_last": losses[-1]["loss"],
        "held_out_loss_base": finetune["held_out_loss_base"],
        "held_out_loss_adapter": finetune["held_out_loss_adapter"],
        "held_out_loss_adapter_null": finetune["held_out_loss_adapter_null"],
        "activation_ms": round(1000 * max(one["timings"]["activation"] for one in drawn), 3),
        "generation_seconds": round(max(one["timings"]["total"] for one in drawn), 2),
        "images": [{"class": one["class_name"], **strip(image)} for one in drawn for image in one["images"]],
    }


def draw_all(
    client: "Client", domain_id: str, classes: list[str], options: argparse.Namespace, adapter_id: str | None = None
) -> tuple[list[list[Image.Image]], list[dict[str, Any]]]:
    """Every class with the same seeds, all at once: the engine puts them into one batch."""
    settings = {"count": options.count, "seed": 1, "steps": options.sampling_steps, "adapter_id": adapter_id}
    requests = [
        client.post(f"/v1/domains/{domain_id}/generations", {"class_name": name, **settings}) for name in classes
    ]
    with console.status(f"Drawing with {'the base' if adapter_id else 'the domain'}"):
        drawn = [client.wait(f"/v1/generations/{one['id']}", {"succeeded", "failed"}) for one in requests]
    for one in drawn:
        if one["status"] == "failed":
            sys.exit(f"{one['class_name']}: {one['error']['detail']}")
    images = [[client.image(image["url"]) for image in one["images"]] for one in drawn]
    return images, drawn


def follow(client: "Client", id: str) -> dict[str, Any]:
    """Shows a fine-tune's events until it ends."""
    columns = (TextColumn("Fine-tuning"), BarColumn(), MofNCompleteColumn())
    times = (TextColumn("loss {task.fields[loss]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console) as progress:
        task = progress.add_task("", total=None, loss="?")
        for event, data in client.events(f"/v1/finetunes/{id}/events"):
            if event == "progress":
                progress.update(task, completed=data["step"], total=data["steps"], loss=f"{data['loss']:.4f}")
            elif event == "error":
                sys.exit(f"The fine-tune failed: {data['detail']}")
    return client.get(f"/v1/finetunes/{id}")


def side_by_side(classes: list[str], before: list[list[Image.Image]], after: list[list[Image.Image]]) -> Image.Image:
    """A row a class: its name, the base's drawings, the domain's with the same seeds."""
    size, gap, label = 96, 6, 110
    count = len(before[0])
    width = label + 2 * count * (size + gap) + 4 * gap
    sheet = Image.new("RGB", (width, 30 + len(classes) * (size + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((label, 10), "the base", fill="black")
    draw.text((label + count * (size + gap) + 4 * gap, 10), "the domain, same seeds", fill="black")
    for row, name in enumerate(classes):
        top = 30 + row * (size + gap)
        draw.text((8, top + size // 2), name, fill="black")
        for side, images in enumerate((before[row], after[row])):
            for column, image in enumerate(images):
                left = label + (side * count + column) * (size + gap) + side * 4 * gap
                sheet.paste(image.resize((size, size), Image.Resampling.LANCZOS), (left, top))
    return sheet


def zip_folder(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(folder.glob("*/*.png")):
            archive.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def strip(image: dict[str, Any]) -> dict[str, Any]:
    """An image's facts without its URL, which expires."""
    return {name: value for name, value in image.items() if name != "url"}


class Client:
    """A few lines around httpx: bearer key, problem details as errors."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def get(self, path: str) -> Any:
        return self._read(self.http.get(path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._read(self.http.post(path, json=body))

    def upload(self, path: str, data: bytes) -> Any:
        return self._read(self.http.post(path, files={"file": ("drawings.zip", data, "application/zip")}))

    def image(self, url: str) -> Image.Image:
        """By the signed URL, without a key."""
        return Image.open(io.BytesIO(httpx.get(url).raise_for_status().content)).convert("RGB")

    def wait(self, path: str, ended: set[str]) -> Any:
        while (found := self.get(path))["status"] not in ended:
            time.sleep(0.3)
        return found

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        with self.http.stream("GET", path, timeout=None) as response:
            event = ""
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    event = value
                elif name == "data":
                    yield event, json.loads(value)

    def _read(self, response: httpx.Response) -> Any:
        if response.is_error:
            sys.exit(f"{response.request.url}: {response.status_code} {response.text}")
        return response.json()


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """API and worker as two processes, as `make serve` starts them; yields the URL and an administrator's key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    key, url = "demo-administrator-of-one-run-on-this-machine", f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "DIFFFIT_DATA_DIR": str(OUTPUT / "server"),
        "DIFFFIT_PORT": str(port),
        "DIFFFIT_ADMIN_KEY": key,
    }
    with (OUTPUT / "server.log").open("w") as log:
        command = [sys.executable, str(Path(__file__).with_name("serve.py"))]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_ready(url, process)
            yield url, key
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    with console.status("Starting the server"):
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"The server did not start; see {OUTPUT / 'server.log'}")
            try:
                ready = httpx.get(f"{url}/readyz", timeout=2).json()
                if ready["status"] == "ready" and ready["workers"]:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
    sys.exit(f"The server is not ready after two minutes; see {OUTPUT / 'server.log'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of the fine-tune")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--count", type=int, default=4, help="images of a class")
    parser.add_argument("--sampling-steps", type=int, default=50)
    return parser.parse_args()


if __name__ == "__main__":
    main()
