"""Rules of domains, data sets, fine-tunes, adapters and keys: tenant isolation, the choice of the adapter to serve, and
cascading deletion."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select, update

from core.artifact.errors import BaseMismatch, NotFound, QueueFull, UnknownClass
from core.artifact.sampling import SamplingSettings
from core.artifact.training import TrainingSettings
from core.service import adapters, audit, domains, generations, keys, metering, tenants
from core.service.audit import AuditFilter
from core.service.config import Settings
from core.service.datasets import service as datasets
from core.service.db.models import ApiKey, AuditEntry, Deletion, Domain, Generation, GenerationImage
from core.service.db.paging import PageRequest
from core.service.db.session import Database, database_now
from core.service.errors import (
    AdapterQuarantined,
    DatasetNotReady,
    JobFinished,
    LastAdminKey,
    NameTaken,
    NoActiveAdapter,
    Unauthenticated,
)
from core.service.finetunes import recording
from core.service.finetunes import service as finetunes
from core.service.finetunes.service import FinetuneRequest
from core.service.generations import GenerationFilter, GenerationRequest
from tests.core.service.rows import (
    BASE,
    Sent,
    acting,
    add_adapter,
    add_dataset,
    add_generation,
    claim,
    tenant_with_domain,
)


def test_rows_of_another_tenant_are_not_found(database: Database) -> None:
    owner, domain_id = tenant_with_domain(database, "owner")
    stranger, _ = tenant_with_domain(database, "stranger")
    with database.session(owner) as session:
        dataset = add_dataset(session, owner, domain_id).id
        generation = add_generation(session, owner, domain_id).id
        adapter = add_adapter(session, owner, domain_id, 1).id
        finetune = finetunes.create(session, Sent(), domain_id, FinetuneRequest(dataset_id=dataset)).id
    nouns = (
        (domains.get, domain_id),
        (datasets.get, dataset),
        (generations.get, generation),
        (generations.cancel, generation),
        (adapters.get, adapter),
        (finetunes.get, finetune),
        (finetunes.cancel, finetune),
        (finetunes.delete, finetune),
        (adapters.delete, adapter),
        (finetunes.metrics, finetune),
        (domains.delete, domain_id),
    )
    for call, id in nouns:
        with pytest.raises(NotFound), database.session(stranger) as session:
            call(session, id)
    with database.session(stranger) as session:
        assert [row.name for row in domains.page(session, PageRequest()).data] == ["domain"]
        with pytest.raises(NotFound):
            generations.page(session, GenerationFilter(domain_id=domain_id), PageRequest())
    with database.session() as session:
        assert domains.get(session, domain_id).id == domain_id


def test_adapter_or_dataset_of_another_tenant_cannot_be_used(database: Database) -> None:
    owner, domain_id = tenant_with_domain(database)
    with database.session(owner) as session:
        other = domains.create(session, "other", "", "mini").id
        adapter = add_adapter(session, owner, other, 1).id
        dataset = add_dataset(session, owner, other).id
        with pytest.raises(NotFound):
            adapters.promote(session, domain_id, adapter)
        with pytest.raises(NotFound):
            finetunes.create(session, Sent(), domain_id, FinetuneRequest(dataset_id=dataset))
        request = GenerationRequest(class_id=0, adapter_id=adapter)
        with pytest.raises(NotFound):
            generations.create(session, Sent(), domain_id, request, BASE, most_waiting=10)


def test_names_are_unique_only_within_a_tenant(database: Database) -> None:
    scope, _ = tenant_with_domain(database, "one")
    tenant_with_domain(database, "two")
    with pytest.raises(NameTaken), database.session(scope) as session:
        domains.create(session, "domain", "", "mini")


def test_deleting_a_domain_deletes_rows_and_lists_its_objects(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)
    with database.session(scope) as session:
        add_adapter(session, scope, domain_id, 1)
        add_generation(session, scope, domain_id)
        dataset = add_dataset(session, scope, domain_id).id
        finetunes.create(session, Sent(), domain_id, FinetuneRequest(dataset_id=dataset))
    with database.session(scope) as session:
        domains.delete(session, domain_id)
    with database.session() as session:
        assert session.execute(select(Generation)).first() is None
        prefix = session.execute(select(Deletion.prefix)).scalar_one()
        assert prefix == f"tenants/{scope.tenant}/domains/{domain_id}/"


def test_cover_is_searched_among_the_newest_generations_of_the_version(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    with database.session(scope) as session:
        adapter = domains.get(session, domain).active_adapter_id = add_adapter(session, scope, domain, 1).id
        generation = {"adapter_id": adapter, "status": "succeeded"}
        cover = add_generation(session, scope, domain, **generation).id
        values = {"domain_id": domain, "tenant_id": scope.tenant, "object_key": "k", "sha256": "0" * 64}
        size = {"size_bytes": 1, "width": 8, "height": 8}
        session.add(GenerationImage(generation_id=cover, index=0, seed=0, **values, **size))
        assert domains.covers(session, [domain]) == {domain: cover}
        values = {"domain_id": domain, "tenant_id": scope.tenant, "class_id": 0, "class_name": "cat"}
        values |= {"count": 1, "seed": 0, "sampling": SamplingSettings(steps=5), "timings": {}, **generation}
        newer = [values | {"id": f"gen_7{number:025}"} for number in range(2000)]
        session.execute(insert(Generation), newer[:-1])
        assert domains.covers(session, [domain]) == {domain: cover}
        session.execute(insert(Generation), newer[-1:])
        assert domains.covers(session, [domain]) == {}


def test_deleting_a_tenant_ends_its_keys_but_not_its_audit_log(database: Database) -> None:
    scope, _ = tenant_with_domain(database)
    with database.session() as session:
        key = keys.issue(session, scope.tenant, "k", None).key
    with database.session() as session:
        assert keys.authenticate(session, key).tenant == scope.tenant
        tenants.delete(session, scope.tenant)
    with pytest.raises(Unauthenticated), database.session() as session:
        keys.authenticate(session, key)
    with database.session() as session:
        actions = session.execute(select(AuditEntry.action).order_by(AuditEntry.id)).scalars().all()
        assert actions[-1] == "tenant.delete"
        assert session.execute(select(Domain)).first() is None


def test_key_authenticates_and_wrong_keys_do_not(database: Database) -> None:
    scope, _ = tenant_with_domain(database)
    with database.session() as session:
        issued = keys.issue(session, scope.tenant, "k", ["read"])
        assert issued.key.split("_", 2)[2] not in issued.row.secret_hash
    for wrong in ("", "x", issued.key[:-1], issued.key + "x", "dfk_" + "0" * 26 + "_secret"):
        with pytest.raises(Unauthenticated), database.session() as session:
            keys.authenticate(session, wrong)
    with database.session() as session:
        assert keys.authenticate(session, issued.key).scopes == {"read"}
        keys.revoke(session, issued.row.id)
    with pytest.raises(Unauthenticated), database.session() as session:
        keys.authenticate(session, issued.key)


def test_first_administrators_key_is_generated_once(database: Database) -> None:
    with database.session() as session:
        key = keys.ensure_admin_key(session, None)
        assert key is not None
        assert keys.ensure_admin_key(session, None) is None
        assert keys.ensure_admin_key(session, "configured secret") is None
        assert keys.authenticate(session, key).tenant_id is None
        assert keys.authenticate(session, "configured secret").scopes == {"admin"}


def test_revoked_configured_key_stays_revoked_until_another_is_configured(database: Database) -> None:
    with database.session() as session:
        keys.ensure_admin_key(session, None)
        keys.ensure_admin_key(session, "leaked")
        configured = keys.authenticate(session, "leaked")
        assert configured.key_id is not None
        keys.revoke(acting(session, configured), configured.key_id)
    with database.session() as session:
        keys.ensure_admin_key(session, "leaked")
        with pytest.raises(Unauthenticated):
            keys.authenticate(session, "leaked")
    with database.session() as session:
        keys.ensure_admin_key(session, "another")
        assert keys.authenticate(session, "another").scopes == {"admin"}
        entries = audit.page(session, AuditFilter(), PageRequest()).data
        assert [entry.action for entry in entries] == ["key.configure", "key.revoke", "key.configure", "key.create"]


def test_last_administrators_key_is_never_made_to_expire(database: Database) -> None:
    def change(id: str) -> None:
        with database.session() as session:
            keys.change(session, id, {"lifetime_seconds": 3600})

    with database.session() as session:
        first = keys.authenticate(session, keys.ensure_admin_key(session, None) or "").key
    with pytest.raises(LastAdminKey):
        change(first)
    with pytest.raises(LastAdminKey), database.session() as session:
        keys.rotate(session, first, 0, {"lifetime_seconds": 1})
    with database.session() as session:
        assert keys.change(session, first, {"name": "renamed", "lifetime_seconds": None}).expires_at is None
        second = keys.rotate(session, first, 3600, {}).row.id
    with pytest.raises(LastAdminKey), database.session() as session:
        keys.revoke(session, second)  # the first one works for an hour only
    with database.session() as session:
        keys.change(session, first, {"lifetime_seconds": None})
    with ThreadPoolExecutor(2) as pool:  # two administrators let each other's key expire at the same time
        errors = [run.exception() for run in [pool.submit(change, id) for id in (first, second)]]
    assert sorted(type(error).__name__ for error in errors) == ["LastAdminKey", "NoneType"]


@pytest.mark.parametrize("ended", ["revoked_at", "expires_at"])
def test_start_creates_an_administrators_key_when_none_works(database: Database, ended: str) -> None:
    with database.session() as session:
        issued = keys.ensure_admin_key(session, None)
        session.execute(update(ApiKey).values({ended: database_now(session)}))
    with database.session() as session:
        again = keys.ensure_admin_key(session, None)
        assert again is not None
        assert again != issued
        assert keys.ensure_admin_key(session, None) is None
        assert keys.authenticate(session, again).scopes == {"admin"}


def test_last_administrators_key_is_rotated_but_never_revoked(database: Database) -> None:
    with database.session() as session:
        tenant = tenants.create(session, "tenant").id
        keys.issue(session, tenant, "no administrator's")
        first = keys.authenticate(session, keys.ensure_admin_key(session, None) or "").key
    with pytest.raises(LastAdminKey), database.session() as session:
        keys.revoke(session, first)
    with database.session() as session:
        second = keys.rotate(session, first, 3600, {}).row.id

    def revoke(id: str) -> None:
        with database.session() as session:
            keys.revoke(session, id)

    with ThreadPoolExecutor(2) as pool:  # two administrators revoke each other's key at the same time
        errors = [run.exception() for run in [pool.submit(revoke, id) for id in (first, second)]]
    assert sorted(type(error).__name__ for error in errors) == ["LastAdminKey", "NoneType"]


def test_generation_uses_the_requested_or_active_adapter(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)

    def create(request: GenerationRequest) -> Generation:
        with database.session(scope) as session:
            return generations.create(session, Sent(), domain_id, request, BASE, most_waiting=2)

    with pytest.raises(NoActiveAdapter):
        create(GenerationRequest(class_id=0))
    with database.session(scope) as session:
        first = add_adapter(session, scope, domain_id, 1).id
        foreign = add_adapter(session, scope, domain_id, 2, base_digest="c" * 64).id
        broken = add_adapter(session, scope, domain_id, 3, status="quarantined").id
        adapters.promote(session, domain_id, first)
    with pytest.raises(BaseMismatch):
        create(GenerationRequest(class_id=0, adapter_id=foreign))
    with pytest.raises(AdapterQuarantined):
        create(GenerationRequest(class_id=0, adapter_id=broken))
    for wrong in (GenerationRequest(class_name="bird"), GenerationRequest(class_id=2), GenerationRequest(class_id=-1)):
        with pytest.raises(UnknownClass):
            create(wrong)
    generation = create(GenerationRequest(class_name="dog"))
    assert (generation.adapter_id, generation.class_id, generation.status) == (first, 1, "queued")
    create(GenerationRequest(class_id=0))
    with pytest.raises(QueueFull):
        create(GenerationRequest(class_id=0))


def test_finetune_needs_a_ready_dataset(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)
    with database.session(scope) as session:
        waiting = add_dataset(session, scope, domain_id, status="validating").id
        ready = add_dataset(session, scope, domain_id).id
        with pytest.raises(DatasetNotReady):
            finetunes.create(session, Sent(), domain_id, FinetuneRequest(dataset_id=waiting))
        estimate = finetunes.estimate(
            session, domain_id, FinetuneRequest(dataset_id=ready, training=TrainingSettings(steps=10)), BASE
        )
    assert estimate.images_seen == 320
    assert estimate.epochs == 80


def test_events_resume_where_a_client_left(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)
    with database.session(scope) as session:
        dataset = add_dataset(session, scope, domain_id).id
        finetune = finetunes.create(session, Sent(), domain_id, FinetuneRequest(dataset_id=dataset))
        recording.record_progress(session, finetune, 10, loss=0.5, gradient_norm=1.0, seconds=2.0)
        recording.record_progress(session, finetune, 20, loss=0.4, gradient_norm=1.0, seconds=2.0)
    with database.session(scope) as session:
        events = finetunes.events_after(session, finetune.id, 0)
        assert [event.type for event in events] == ["status", "progress", "progress"]
        assert list(finetunes.events_after(session, finetune.id, events[1].id)) == [events[2]]
        assert [point["loss"] for point in finetunes.metrics(session, finetune.id)] == [0.5, 0.4]
        assert metering.usage(session, Settings(_env_file=None)).training_seconds == 4.0
        finetunes.cancel(session, finetune.id)
    with pytest.raises(JobFinished), database.session(scope) as session:
        finetunes.cancel(session, finetune.id)


def test_lost_claim_writes_no_images_and_no_usage(database: Database) -> None:
    scope, domain_id = tenant_with_domain(database)
    with database.session() as session:
        add_generation(session, scope, domain_id)
    claimed = claim(database)
    with database.session() as session:
        session.get_one(Generation, claimed.id).attempt += 1
    with database.session(scope) as session:
        assert not generations.succeed(session, claimed, [], 10, {})
        assert metering.usage(session, Settings(_env_file=None)).model_evaluations == 0
