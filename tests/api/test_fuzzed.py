"""The OpenAPI document and the service agree on a few random requests; `make faults` sends more."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from sqlalchemy import update

from api.app import create_app
from api.deps import Services
from core.service import keys
from core.service.config import Settings
from core.service.db.base import Now
from core.service.db.models import ApiKey
from tests.api.client import ADMIN_KEY, Client, draw_generations
from tests.fuzzing import fuzz
from tests.services import free_port

PHASES = {"sqlite": "coverage", "postgresql": "examples,fuzzing,stateful"}
"""Phases of schemathesis, one per test because each takes long."""


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    config = uvicorn.Config(create_app(settings), port=free_port(), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{config.port}"
    server.should_exit = True
    thread.join()


def test_responses_match_the_openapi_document(
    url: str,
    settings: Settings,
    services: Services,
    tenant: Client,
    domain: str,
    dataset: str,
    adapter: str,
    tmp_path: Path,
) -> None:
    finetune = tenant.read(f"/v1/adapters/{adapter}")["finetune_id"]
    generation = tenant.made(f"/v1/domains/{domain}/generations", {"class_id": 0})["id"]
    draw_generations(services)
    ids = {
        "domains": [domain],
        "datasets": [dataset],
        "finetunes": [finetune],
        "adapters": [adapter],
        "generations": [generation],
        "webhooks": [tenant.made("/v1/webhooks", {"url": "https://example.com/hooks"})["id"]],
    }
    phases = PHASES[services.database.engine.dialect.name]
    key = tenant.headers["Authorization"].removeprefix("Bearer ")
    fuzzed = fuzz(url, key, tmp_path, 1, ids, phases=phases)
    assert fuzzed.failures == 0, fuzzed.report
    with administrator(services) as key:
        fuzzed = fuzz(url, key, tmp_path, 1, {}, admin=True, phases=phases)
    assert fuzzed.failures == 0, fuzzed.report


@contextmanager
def administrator(services: Services) -> Iterator[str]:
    """Yields an administrator's key for requests that may create, change and revoke administrators' keys. At the end
    ADMIN_KEY is the only one again."""
    own = keys.id_of(ADMIN_KEY)
    with services.database.session() as session:
        key = keys.issue_admin(session, "fuzzing").key
    yield key
    with services.database.session() as session:
        admins = update(ApiKey).where(ApiKey.tenant_id.is_(None))
        session.execute(admins.where(ApiKey.id == own).values(revoked_at=None, expires_at=None))
        session.execute(admins.where(ApiKey.id != own).values(revoked_at=Now()))
