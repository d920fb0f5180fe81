"""Real API process and worker for all tests of the client, and a domain that can generate images."""

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.ml.bundled import sample_domain_folder
from difffit import Client
from tests import services
from tests.processes import ADMIN, running

CLASSES = ("fruit", "smiling-face")
_numbers = itertools.count()


@dataclass(frozen=True)
class Server:
    url: str
    key: str
    """API key of a tenant."""


@dataclass(frozen=True)
class Drawable:
    """Domain with a data set and a first version."""

    id: str
    name: str
    dataset_id: str
    adapter_id: str
    finetune_id: str


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Starts the services with a separate Redis, because the worker would take messages of other tests."""
    folder = tmp_path_factory.mktemp("server")
    with services.redis(folder) as redis_url:
        environment = {
            "DIFFFIT_DATA_DIR": str(folder / "data"),
            "DIFFFIT_BROKER_URL": redis_url,
            "DIFFFIT_TORCH_THREADS": "1",
            "DIFFFIT_WEBHOOKS_ALLOW_PRIVATE": "true",
            "DIFFFIT_DATASET_IMPORT_HOSTS": "127.0.0.1",
            "DIFFFIT_DATASET_IMPORTS_ALLOW_PRIVATE": "true",
            "DIFFFIT_MAX_UPLOAD_BYTES": str(3 * 2**20),
            "DIFFFIT_UPLOAD_PART_BYTES": str(5 * 2**20),
        }
        with running(environment, folder) as url, Client(url, ADMIN) as admin:
            tenant = admin.admin.tenants.create("Client")
            yield Server(url, admin.admin.keys.create(tenant.id, "tests").key or "")


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, server.key) as client:
        yield client


@pytest.fixture
def admin(server: Server) -> Iterator[Client]:
    with Client(server.url, ADMIN) as admin:
        yield admin


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder of two classes with four drawings each."""
    folder = tmp_path_factory.mktemp("drawings")
    for name in CLASSES:
        (folder / name).mkdir()
        for path in sorted((sample_domain_folder() / name).glob("*.png"))[:4]:
            shutil.copy(path, folder / name)
    (folder / "fruit" / ".DS_Store").write_bytes(b"what an operating system leaves")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture(scope="session")
def drawable(server: Server, drawings: Path) -> Drawable:
    with Client(server.url, server.key) as client:
        domain = client.domains.create("Line drawings")
        dataset = client.datasets.wait(client.datasets.upload(domain.id, drawings).id)
        started = client.finetunes.start(domain.id, dataset.id, steps=3, batch_size=2)
        finetune = client.finetunes.wait(started.id)
    assert finetune.adapter_id is not None
    return Drawable(domain.id, domain.name, dataset.id, finetune.adapter_id, finetune.id)


@pytest.fixture
def name() -> str:
    """Returns a name that no other test uses."""
    return f"Domain {next(_numbers)}"


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides the developer's own settings and those of other tests."""
    for variable in ("DIFFFIT_URL", "DIFFFIT_API_KEY", "DIFFFIT_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DIFFFIT_CONFIG", str(tmp_path / "configuration" / "config.json"))
