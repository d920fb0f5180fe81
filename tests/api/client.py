"""A synchronous client of the real application, and a worker's changes to database rows without a device."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx
import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from PIL import Image

from api.app import create_app
from api.deps import Services
from core.artifact.base import BaseConfig, BaseDescription
from core.artifact.file import decode, encode
from core.artifact.manifest import Manifest
from core.artifact.sites import PRESETS, Sites, trainable_shapes
from core.ml.bundled import sample_domain_folder
from core.service import fleet, generations, jobs
from core.service.config import Settings
from core.service.datasets import samples, validation
from core.service.datasets import service as datasets
from core.service.db.models import Dataset, Finetune, Generation
from core.service.db.session import Database
from core.service.errors import ArchiveInvalid
from core.service.finetunes import recording
from core.service.generations import DrawnImage
from core.service.jobs import Claim
from core.service.tenancy import SYSTEM

ADMIN_KEY = "the-administrators-own-key-of-all-tests"
BASE = BaseDescription(
    name="mini",
    digest="ba5e" * 16,
    config=BaseConfig(input_size=4, hidden_size=8, depth=2, num_heads=2, num_classes=3),
    image_size=32,
    licence="Apache-2.0",
    parameters=100_000,
    class_names=("circle", "square", "star"),
)
PNG_START = b"\x89PNG\r\n\x1a\n"


class Client:
    """Client of one application with one key."""

    def __init__(self, portal: BlockingPortal, http: httpx.AsyncClient, key: str | None = None) -> None:
        self.portal, self.http = portal, http
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def request(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> httpx.Response:
        send = partial(self.http.request, method, path, headers={**self.headers, **(headers or {})}, **options)
        return self.portal.call(send)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return self.request("POST", path, **({} if body is None else {"json": body}), **options)

    def patch(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.request("PATCH", path, json=body, **options)

    def delete(self, path: str) -> httpx.Response:
        return self.request("DELETE", path)

    def upload(self, path: str, data: bytes, **options: Any) -> httpx.Response:
        return self.post(path, files={"file": ("a-file", data, "application/octet-stream")}, **options)

    def made(self, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
        """Returns the body of a POST that must succeed."""
        response = self.post(path, body, **options)
        assert response.is_success, response.text
        body: dict[str, Any] = response.json()
        return body

    def read(self, path: str, **options: Any) -> dict[str, Any]:
        response = self.get(path, **options)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


@dataclass(frozen=True)
class Api:
    """Running application."""

    app: FastAPI
    portal: BlockingPortal
    http: httpx.AsyncClient
    services: Services
    """Services of a worker, whose database role sees the rows of all tenants."""

    def client(self, key: str | None = None) -> Client:
        return Client(self.portal, self.http, key)

    @property
    def admin(self) -> Client:
        return self.client(ADMIN_KEY)

    def tenant(self, name: str, scopes: list[str] | None = None) -> Client:
        tenant = self.admin.made("/v1/admin/tenants", {"name": name})
        body = {"name": "key", "scopes": scopes}
        return self.client(self.admin.made(f"/v1/admin/tenants/{tenant['id']}/keys", body)["key"])


@contextmanager
def running(settings: Settings, change: Callable[[FastAPI], None] = lambda app: None) -> Iterator[Api]:
    """Runs the application; `change` may modify it before it starts."""
    app = create_app(settings)
    change(app)
    transport = httpx.ASGITransport(app)
    database = Database(settings.worker_database_url, SYSTEM)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(app.router.lifespan_context(app)),
        portal.wrap_async_context_manager(httpx.AsyncClient(transport=transport, base_url="http://api.test")) as http,
    ):
        yield Api(app, portal, http, replace(app.state.services, database=database))
    database.dispose()


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Returns the body of a response that must be this problem, in the form of all problems."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(response.content)
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"].endswith(f"/{code}")
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def png(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 255 - colour, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def images_zip(classes: tuple[str, ...] = ("apple", "pear"), each: int = 2) -> bytes:
    return zip_of({f"{name}/{k}.png": png(40 * k + number) for number, name in enumerate(classes) for k in range(each)})


def adapter_file(
    class_names: tuple[str, ...] = ("apple", "pear"),
    seed: int = 0,
    digest: str = BASE.digest,
    distill_guidance: float | None = None,
    image_size: int | None = None,
) -> bytes:
    """Returns an adapter file with random values, in the form that fine-tunes publish."""
    generator, guidance = np.random.default_rng(seed), distill_guidance is not None
    shapes = trainable_shapes(BASE.config, "difffit", PRESETS["paper"], len(class_names), guidance=guidance)
    tensors = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    manifest = Manifest(
        method="difffit",
        preset="paper",
        sites=PRESETS["paper"],
        class_names=class_names,
        base_name=BASE.name,
        base_digest=digest,
        base_licence=BASE.licence,
        dataset_digest="da7a" * 16,
        image_size=image_size,
        training={"seed": seed} | ({"distill_guidance": distill_guidance} if guidance else {}),
    )
    return encode(manifest, tensors)


# Changes by a worker


def load_base(services: Services) -> None:
    with services.database.session() as session:
        fleet.register_base(session, services.settings.base_model, BASE)


def claims(services: Services, model: Any) -> Iterator[Claim]:
    """Claims every waiting row as a worker does."""
    while True:
        with services.database.session() as session:
            claim = jobs.claim_next(session, model, "wrk_test", 60)
        if claim is None:
            return
        yield claim


def validate_datasets(services: Services) -> None:
    for claim in claims(services, Dataset):
        with services.database.session() as session:
            archive = validation.StoredArchive.of(session.get_one(Dataset, claim.id))
        if samples.is_sample(archive.key):
            samples.store_zip(services.store, archive.key, sample_domain_folder())
        try:
            validated = validation.validate_archive(services.store, archive, datasets.limits(services.settings))
        except ArchiveInvalid as error:
            with services.database.session() as session:
                rejected = session.get_one(Dataset, claim.id)
                jobs.fail(session, rejected, error)
                validation.record_rejection(rejected, error)
        else:
            with services.database.session() as session:
                validation.succeed(session, claim, validated)


def start_finetunes(services: Services) -> list[Claim]:
    """Claims all queued fine-tunes, and reports the first steps with a sample."""
    started = list(claims(services, Finetune))
    for claim in started:
        with services.database.session() as session:
            row = session.get_one(Finetune, claim.id)
            recording.record_start(session, row, 0.5, 1234, 0)
            recording.record_progress(session, row, 5, loss=0.4, gradient_norm=0.2, seconds=1.5)
            recording.record_evaluation(session, row, 5, 0.25, 5)
            stored = services.store.put(f"tenants/{row.tenant_id}/samples/{row.id}.png", png(9))
            jobs.report(session, row, "sample", {"step": 5, "key": stored.key})
            recording.record_progress(session, row, 10, loss=0.3, gradient_norm=0.1, seconds=1.5)
    return started


def finish_finetune(services: Services, claim: Claim, seed: int = 0) -> None:
    with services.database.session() as session:
        row = session.get_one(Finetune, claim.id)
        names = tuple(class_["name"] for class_ in session.get_one(Dataset, row.dataset_id).classes)
        assert Sites.from_json(row.sites) == PRESETS["paper"]
        digest = fleet.served_base(session, services.settings.base_model).digest
    data = adapter_file(names, seed, digest)
    stored = services.store.put(f"tenants/{row.tenant_id}/domains/{row.domain_id}/{claim.id}.safetensors", data)
    losses = {"base": 0.5, "adapter": 0.2, "adapter_null": float("nan")}
    result = recording.Result(losses=losses, adapter_step=5, stop_reason="early_stopping")
    with services.database.session() as session:
        assert recording.publish(session, claim, decode(data), stored, result)


def draw_generations(services: Services) -> None:
    for claim in claims(services, Generation):
        with services.database.session() as session:
            row = session.get_one(Generation, claim.id)
        images = []
        for index in range(row.count):
            key = f"tenants/{row.tenant_id}/domains/{row.domain_id}/generations/{row.id}/1/{index}.png"
            images.append(DrawnImage(index, row.seed + index, services.store.put(key, png(index)), 8, 8))
        timings = {"queued": 0.1, "activation": 0.01, "total": 0.5}
        with services.database.session() as session:
            assert generations.succeed(session, claim, images, row.count * row.sampling.steps * 2, timings)
