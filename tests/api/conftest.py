"""One application per run on each database; every test creates its own tenants."""

import uuid
from collections.abc import Iterator

import pytest

from api.deps import Services
from core.service.config import Settings
from tests import services as real_services
from tests.api.client import (
    ADMIN_KEY,
    Api,
    Client,
    finish_finetune,
    images_zip,
    load_base,
    running,
    start_finetunes,
    validate_datasets,
)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp("api")
    if request.param == "sqlite":
        yield make_settings(folder)
        return
    server: real_services.Postgres = request.getfixturevalue("postgres_server")
    name = f"api_{uuid.uuid4().hex}"
    url = server.create_migrated(name)
    as_role = real_services.as_role
    yield make_settings(
        folder,
        database_url=as_role(url, real_services.API),
        worker_database_url=as_role(url, real_services.WORKER),
        owner_database_url=url,
    )
    server.drop(name)


@pytest.fixture(scope="session")
def api(settings: Settings) -> Iterator[Api]:
    with running(settings) as api:
        load_base(api.services)
        yield api


@pytest.fixture
def services(api: Api) -> Services:
    return api.services


@pytest.fixture
def admin(api: Api) -> Client:
    return api.admin


@pytest.fixture
def tenant(api: Api) -> Client:
    return api.tenant(f"tenant {uuid.uuid4()}")


@pytest.fixture
def other(api: Api) -> Client:
    """Returns the client of another tenant."""
    return api.tenant(f"other {uuid.uuid4()}")


@pytest.fixture
def domain(tenant: Client) -> str:
    """Returns the id of the tenant's empty domain."""
    id: str = tenant.made("/v1/domains", {"name": "Fruit"})["id"]
    return id


@pytest.fixture
def dataset(tenant: Client, domain: str, services: Services) -> str:
    """Returns the id of a ready data set of that domain."""
    id: str = tenant.upload(f"/v1/domains/{domain}/datasets", images_zip()).json()["id"]
    validate_datasets(services)
    return id


@pytest.fixture
def adapter(tenant: Client, domain: str, dataset: str, services: Services) -> str:
    """Returns the id of the domain's first adapter, which a fine-tune made and which is active."""
    return finetuned(tenant, domain, dataset, services)


def finetuned(tenant: Client, domain: str, dataset: str, services: Services, seed: int = 0) -> str:
    """Returns the id of a new version of the domain."""
    finetune = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "steps": 10})
    for claim in start_finetunes(services):
        finish_finetune(services, claim, seed)
    id: str = tenant.read(f"/v1/finetunes/{finetune['id']}")["adapter_id"]
    return id


def make_settings(folder: object, **changes: object) -> Settings:
    """Hides the environment: no `.env` and no variables except those that tests set."""
    values = {
        "data_dir": folder,
        "broker_url": "memory://localhost/",
        "admin_key": ADMIN_KEY,
        "log_level": "WARNING",
        "upload_part_bytes": 5 * 2**20,
        "dashboard": False,
        **changes,
    }
    return Settings(_env_file=None, **values)  # type: ignore[arg-type,call-arg]


@pytest.fixture
def api_client(api: Api) -> Client:
    """Returns a client without a key."""
    return api.client()
