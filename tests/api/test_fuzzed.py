"""The OpenAPI document and the service agree on a few random requests; `make faults` sends more."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from api.app import create_app
from api.deps import Services
from core.service.config import Settings
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
    fuzzed = fuzz(url, ADMIN_KEY, tmp_path, 1, {}, admin=True, phases=phases)
    assert fuzzed.failures == 0, fuzzed.report
