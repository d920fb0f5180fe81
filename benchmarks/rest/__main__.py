"""`python -m benchmarks.rest`: measures guided images per second through the REST API, with an API process and a worker
process on this machine's GPU, next to the bare forward of the same batch size. The base is a DiT-XL/2 with random
weights, and each domain has a version of its own."""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.gpu.device import graphed, milliseconds
from benchmarks.gpu.forwards import forwards
from benchmarks.gpu.lab import FULL, MINI, Lab
from benchmarks.processes import free_port, launch, post, start
from benchmarks.report import facts, write_json
from benchmarks.serving.subjects import CLASSES
from core.artifact.file import encode
from core.artifact.manifest import Manifest
from core.artifact.sites import PRESETS
from core.ml.model.checkpoint import save_base

DOMAINS = 4
RUNS = ((64, 50), (128, 20), (128, 50), (64, 20))
"""Number of images, over all domains, and of sampling steps of each run, the most important run first."""
MINI_RUNS = ((4, 2), (8, 2))
ADMIN_KEY = "an-administrator-of-a-benchmark-through-rest"
NAME, LICENCE = "random", "none"


def main() -> None:
    options = _options()
    lab = Lab(torch.device("cpu"), MINI) if options.mini else Lab(torch.device("cuda"), FULL)
    result: dict[str, Any] = facts("python -m benchmarks.rest", "0, weights are random", mini=options.mini)
    result["runs"] = []
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        save_base(
            folder / "base", lab.dit, lab.autoencoder, name=NAME, licence=LICENCE, class_names=(), dtype=lab.dtype
        )
        service = Service(exits, folder, lab)
        exits.push(service.show_log)
        rows = result["rows"] = 2 * lab.size.main_rows
        bare = result["bare_evaluations_a_second"] = _bare(lab, rows)
        started = time.perf_counter()
        service.begin()
        result["start_seconds"] = time.perf_counter() - started
        service.seconds(lab.size.images, 2)  # fills caches, and captures the largest batch as a CUDA graph
        for images, steps in MINI_RUNS if options.mini else RUNS:
            seconds = service.seconds(images, steps)
            evaluations = 2 * images * steps / seconds
            run = {"images": images, "steps": steps, "seconds": seconds, "images_a_second": images / seconds}
            result["runs"].append(run | {"evaluations_a_second": evaluations, "over_bare": evaluations / bare})
            write_json(options.json, result)
            print(result["runs"][-1], flush=True)


class Service:
    """API and worker on one machine, with SQLite and folders, and a tenant with domains. The worker is started at once,
    the rest by `begin`."""

    def __init__(self, exits: ExitStack, folder: Path, lab: Lab) -> None:
        self.exits, self.folder, self.lab = exits, folder, lab
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "DIFFFIT_DATA_DIR": str(folder / "data"),
            "DIFFFIT_BASE_MODEL": str(folder / "base"),
            "DIFFFIT_DEVICE": lab.device.type,
            "DIFFFIT_ADMIN_KEY": ADMIN_KEY,
            "DIFFFIT_PORT": str(self.port),
            "DIFFFIT_DASHBOARD": "false",
        }
        self.worker = launch(exits, [sys.executable, "-m", "worker"], self.environment, folder / "worker.log")
        self.versions: list[tuple[str, str]] = []
        self.seed = 0

    def begin(self) -> None:
        """Starts the API, waits for the worker, and uploads a version for each domain."""
        command = [sys.executable, "-m", "api"]
        start(self.exits, command, self.environment, port=self.port, path="/livez", log=self.folder / "api.log")
        tenant = post(self.url, "/v1/admin/tenants", ADMIN_KEY, {"name": NAME})["id"]
        self.key = post(self.url, f"/v1/admin/tenants/{tenant}/keys", ADMIN_KEY, {"name": NAME})["key"]
        self.client = self.exits.enter_context(
            httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=120)
        )
        while (response := self.client.get("/v1/base")).status_code != 200:
            if self.worker.poll() is not None:
                raise RuntimeError((self.folder / "worker.log").read_text())
            time.sleep(0.1)
        for name, tensors in self.lab.domains(DOMAINS).items():
            domain = post(self.url, "/v1/domains", self.key, {"name": name})["id"]
            manifest = Manifest(
                method="difffit",
                preset="paper",
                sites=PRESETS["paper"],
                class_names=tuple(map(str, range(CLASSES))),
                base_name=NAME,
                base_digest=response.json()["digest"],
                base_licence=LICENCE,
                dataset_digest="0" * 64,
                training={},
            )
            data = encode(manifest, {name: tensor.numpy() for name, tensor in tensors.items()})
            uploaded = self.client.post(f"/v1/domains/{domain}/adapters", files={"file": data}).raise_for_status()
            self.versions.append((domain, uploaded.json()["id"]))

    def show_log(self, error: type[BaseException] | None, *_: object) -> None:
        """Prints the end of the worker's log after an error."""
        if error is not None:
            print((self.folder / "worker.log").read_text()[-4000:], flush=True)

    def seconds(self, images: int, steps: int) -> float:
        """Returns the seconds from the first request until all images are stored. The domains' requests are sent at
        once."""
        started = time.perf_counter()
        with ThreadPoolExecutor(DOMAINS) as pool:
            list(pool.map(lambda version: self._generate(version, images // DOMAINS, steps), self.versions))
        return time.perf_counter() - started

    def _generate(self, version: tuple[str, str], count: int, steps: int) -> None:
        domain, adapter = version
        self.seed += count
        body = {"adapter_id": adapter, "class_id": 0, "count": count, "seed": self.seed}
        sampling = {"sampler": "ddim", "steps": steps, "guidance_scale": 4.0, "guidance_interval": (0, 999)}
        path, prefer = f"/v1/domains/{domain}/generations", {"Prefer": "wait=60"}
        response = self.client.post(path, json=body | sampling, headers=prefer).raise_for_status()
        while (generation := response.json())["status"] in {"queued", "running"}:
            response = self.client.get(f"/v1/generations/{generation['id']}", headers=prefer).raise_for_status()
        if generation["status"] != "succeeded":
            raise RuntimeError(f"a generation has ended: {generation}")


@torch.inference_mode()
def _bare(lab: Lab, rows: int) -> float:
    """Returns the model evaluations per second of a mixed forward, captured as a CUDA graph."""
    forward = graphed(forwards(lab, rows)["mixed"], lab.device)
    return 1000 * rows / milliseconds(forward, lab.device, lab.size.seconds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rest", description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("rest.json"), help="write the figures here, after each run")
    parser.add_argument("--mini", action="store_true", help="a model of no size on the CPU, to see that it works")
    return parser.parse_args()


if __name__ == "__main__":
    main()
