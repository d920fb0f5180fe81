"""Database rows for several tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from core.artifact.base import BaseConfig, BaseDescription
from core.artifact.sampling import SamplingSettings
from core.service import discards, domains, idempotency, jobs, keys, metering, tenants
from core.service.db.base import new_id
from core.service.db.isolation import scope_of, set_scope
from core.service.db.models import Adapter, Dataset, DatasetUpload, Generation, GenerationImage, GenerationPreview
from core.service.db.session import Database, database_now
from core.service.finetunes import service as finetunes
from core.service.finetunes.service import FinetuneRequest
from core.service.tenancy import SYSTEM, Scope
from core.service.webhooks import service as webhooks

BASE = BaseDescription(
    name="mini", digest="b" * 64, config=BaseConfig(), image_size=32, licence="test", parameters=1000
)


class Sent:
    """Dispatcher that records messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str]] = []

    def send(self, task: str, queue: str, id: str) -> None:
        self.messages.append((task, queue, id))


def acting(session: Session, scope: Scope) -> Session:
    """Returns the given session of a worker, which from now on acts in this scope."""
    set_scope(session, scope)
    return session


@contextmanager
def recorded_statements() -> Iterator[list[str]]:
    """Yields a list that receives the SQL of each statement on any database, until the context ends."""
    statements: list[str] = []

    def record(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


def tenant_with_domain(database: Database, name: str = "tenant", weight: float = 1.0) -> tuple[Scope, str]:
    with database.session() as session:
        tenant = tenants.create(acting(session, SYSTEM), name)
        tenant.weight = weight
        scope = Scope(tenant_id=tenant.id)
        return scope, domains.create(acting(session, scope), "domain", "", "mini").id


def tenant_with_everything(database: Database, name: str) -> Scope:
    """Tenant with a row in every table that can have one."""
    scope, domain = tenant_with_domain(database, name)
    size = {"size_bytes": 1, "width": 8, "height": 8}
    common = {"tenant_id": scope.tenant, "index": 0, "sha256": "0" * 64, "object_key": "k"}
    with database.session() as session:
        add_finetune(session, scope, domain)
        add_adapter(session, scope, domain, 1)
        generation = add_generation(session, scope, domain).id
        session.add(GenerationImage(generation_id=generation, domain_id=domain, seed=0, **common, **size))
        session.add(GenerationPreview(generation_id=generation, step=1, **common))
        metering.meter(session, scope.tenant, images=1)
        key = keys.issue(acting(session, SYSTEM), scope.tenant, "key")
        caller = Scope(scope.tenant, key.row.id)
        idempotency.begin(acting(session, caller), "k", "d")
        domains.delete(acting(session, scope), domains.create(acting(session, scope), "gone", "", "mini").id)
        add_upload(session, scope, domain)
        webhook = webhooks.create(acting(session, scope), "https://example.com", None, "", allow_private=False).row.id
        webhooks.test(acting(session, scope), webhook)
        discards.record(session, [(scope.tenant, "k")])
    return caller


def add_finetune(session: Session, scope: Scope, domain_id: str, **values: Any) -> str:
    """Creates a fine-tune with its own data set, and returns its id."""
    dataset = add_dataset(session, scope, domain_id)
    before = scope_of(session)
    finetune = finetunes.create(acting(session, scope), Sent(), domain_id, FinetuneRequest(dataset_id=dataset.id))
    set_scope(session, before)
    for name, value in values.items():
        setattr(finetune, name, value)
    session.flush()
    return finetune.id


def add_generation(session: Session, scope: Scope, domain_id: str, **values: Any) -> Generation:
    columns: dict[str, Any] = {"class_id": 0, "class_name": "cat", "count": 1, "seed": 0}
    columns |= {"sampling": SamplingSettings(steps=5), "status": "queued", "timings": {}}
    generation = Generation(id=new_id("gen"), tenant_id=scope.tenant, domain_id=domain_id, **columns | values)
    session.add(generation)
    session.flush()
    return generation


def add_dataset(session: Session, scope: Scope, domain_id: str, **values: Any) -> Dataset:
    columns: dict[str, Any] = {"archive_key": "k", "archive_sha256": "0" * 64, "size_bytes": 100}
    columns |= {"status": "ready", "classes": [{"id": 0, "name": "cat", "images": 4}], "images": 4}
    dataset = Dataset(id=new_id("ds"), tenant_id=scope.tenant, domain_id=domain_id, **columns | values)
    session.add(dataset)
    session.flush()
    return dataset


def add_upload(session: Session, scope: Scope, domain_id: str, **values: Any) -> DatasetUpload:
    columns: dict[str, Any] = {"dataset_id": new_id("ds"), "object_key": "k", "store_upload": "", "size_bytes": 100}
    columns |= {"part_bytes": 100, "status": "open", "expires_at": database_now(session)}
    upload = DatasetUpload(id=new_id("upl"), tenant_id=scope.tenant, domain_id=domain_id, **columns | values)
    session.add(upload)
    session.flush()
    return upload


def add_adapter(session: Session, scope: Scope, domain_id: str, version: int, **values: Any) -> Adapter:
    columns: dict[str, Any] = {"object_key": "k", "sha256": "a" * 64, "size_bytes": 50, "parameters": 10}
    columns |= {"base_digest": BASE.digest, "method": "difffit", "preset": "paper", "status": "ready"}
    columns |= {"manifest": {"class_names": ["café", "dog"]}, "class_names": ["café", "dog"]}
    adapter = Adapter(
        id=new_id("adp"), tenant_id=scope.tenant, domain_id=domain_id, version=version, **columns | values
    )
    session.add(adapter)
    session.flush()
    return adapter


def claim(database: Database, lease_seconds: float = 60) -> jobs.Claim:
    with database.session() as session:
        claim = jobs.claim_next(session, Generation, "worker", lease_seconds)
    assert claim is not None
    return claim
