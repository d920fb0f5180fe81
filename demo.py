"""Runs the main use case through the REST API, as a user's script would: `make demo`."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import Progress

from core.ml.bundled import sample_domain_folder
from difffit import Client, errors, events, models

OUTPUT = Path("demo-output")
ADMIN_KEY = "demo-administrator-of-one-run-on-this-machine"
FIGURES = {"trainable_parameters", "held_out_loss_base", "held_out_loss_adapter", "held_out_loss_adapter_null"}
console = Console()


def main(steps: int = 300, batch_size: int = 32, count: int = 4) -> None:
    """Starts a server (SQLite, a folder, a Celery worker on a filesystem broker, the bundled base on the CPU),
    fine-tunes a domain on 160 images in OpenMoji's style, and generates `count` images of every class with the base and
    with the domain."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    started = time.monotonic()
    training = {"steps": steps, "batch_size": batch_size, "seed": 0}
    drawing = {"count": count, "seed": 1}
    with server() as url, Client(url, ADMIN_KEY) as operator:
        key = operator.admin.keys.create(operator.admin.tenants.create("Demo").id, "demo").key
        report = main_job(Client(url, key), operator, training, drawing)
    report["total_seconds"] = round(time.monotonic() - started, 1)
    (OUTPUT / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    better = 1 - report["held_out_loss_adapter"] / report["held_out_loss_base"]
    console.print(f"Held-out loss {better:.1%} below the base's, with {report['trainable_parameters']:,} parameters.")
    console.print(f"[bold]{OUTPUT}/before_after.png\n{OUTPUT}/report.json[/bold]")


def main_job(client: Client, operator: Client, training: Any, drawing: Any) -> dict[str, Any]:
    """Creates a domain from a folder of images, fine-tunes it, and generates images of every class before and after.
    Returns the report."""
    domain = client.domains.create("OpenMoji", "Black outlines, flat fills")
    dataset = client.datasets.wait(client.datasets.upload(domain.id, sample_domain_folder()).id)
    console.print(f"Data set: {dataset.images} images in {len(dataset.classes)} classes")
    before = draw(client, dataset, adapter_id="base", **drawing)
    finetune = follow(client, client.finetunes.start(domain.id, dataset.id, **training).id)
    after = draw(client, dataset, **drawing)
    side_by_side(client, before, after).save(OUTPUT / "before_after.png")

    adapter = next(operator.admin.adapters())
    console.print(f"Stored adapter: {adapter.size_bytes:,} bytes, on {', '.join(adapter.resident_on)}")
    curve = client.finetunes.metrics(finetune.id).data
    report: dict[str, Any] = {"base_digest": adapter.base_digest}
    report["trainable_fraction"] = client.finetunes.estimate(domain.id, dataset.id, **training).trainable_fraction
    report |= {"adapter_bytes": adapter.size_bytes, "adapter_sha256": adapter.sha256, "finetune_steps": finetune.step}
    report |= {"finetune_seconds": round(finetune.seconds, 1), "loss_first": curve[0].loss, "loss_last": curve[-1].loss}
    report |= finetune.model_dump(include=FIGURES)
    report["activation_ms"] = round(1000 * max(row.timings.activation or 0 for row in after), 3)
    report["generation_seconds"] = round(max(row.timings.total or 0 for row in after), 2)
    images = ((row.class_name, image) for row in after for image in row.images)
    return report | {"images": [{"class": name, **image.model_dump(exclude={"url"})} for name, image in images]}


def draw(client: Client, dataset: models.Dataset, **settings: Any) -> list[models.Generation]:
    """Generates images of every class with the same seeds. All requests are sent at once, so that the engine steps them
    in one batch."""
    jobs = [client.generations.create(dataset.domain_id, class_name=row.name, **settings) for row in dataset.classes]
    with console.status("Drawing"):
        return [client.generations.wait(job.id) for job in jobs]


def follow(client: Client, id: str) -> models.Finetune:
    """Shows a fine-tune's progress until it ends, and returns the fine-tune."""
    with Progress(console=console) as bar:
        task = bar.add_task("Fine-tuning", total=None)
        for event in client.finetunes.events(id):
            if isinstance(event, events.Progress):
                bar.update(task, total=event.steps, completed=event.step, description=f"Loss {event.loss:.4f}")
    return client.finetunes.wait(id)


def side_by_side(client: Client, *sides: list[models.Generation]) -> Image.Image:
    """Returns a sheet with one row for each class: the class name, the base's images, and the domain's images with the
    same seeds."""
    size, pitch, label, gap = 96, 102, 110, 24
    width = sides[0][0].count * pitch + gap
    sheet = Image.new("RGB", (label + 2 * width - gap, 30 + len(sides[0]) * pitch), "white")
    text = ImageDraw.Draw(sheet).text
    for left, title, side in zip((label, label + width), ("the base", "the domain, same seeds"), sides, strict=True):
        text((left, 10), title, fill="black")
        for top, generation in zip(range(30, sheet.height, pitch), side, strict=True):
            text((8, top + size // 2), generation.class_name, fill="black")
            for picture in client.generations.pictures(generation):
                image = Image.open(io.BytesIO(picture.data)).resize((size, size), Image.Resampling.LANCZOS)
                sheet.paste(image, (left + pitch * picture.index, top))
    return sheet


@contextmanager
def server() -> Iterator[str]:
    """Runs the API and a worker as `make serve` does; yields the API's URL once both are ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = {"DIFFFIT_DATA_DIR": f"{OUTPUT}/server", "DIFFFIT_PORT": f"{port}", "DIFFFIT_ADMIN_KEY": ADMIN_KEY}
    command = [sys.executable, str(Path(__file__).with_name("serve.py"))]
    with (OUTPUT / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True)
    try:
        with Client(f"http://127.0.0.1:{port}") as client, console.status("Starting the server"):
            for _ in range(600):
                with suppress(errors.ConnectionFailed):
                    if client.ready().workers:
                        break
                time.sleep(0.2)
            else:
                sys.exit(f"The server is not ready after two minutes; see {OUTPUT}/server.log")
        yield client.url
    finally:
        process.terminate()
        process.wait(60)


if __name__ == "__main__":
    typer.run(main)
