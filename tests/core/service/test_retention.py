"""Retention deletes only old rows and their objects, and survives the loss of a worker at any point."""

import datetime
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from core.artifact.errors import NotFound
from core.artifact.training import TrainingSettings
from core.service import discards, domains, expiry, generations, images, jobs, metering, quotas, tenants
from core.service.config import Settings
from core.service.db.models import (
    AuditEntry,
    Dataset,
    Deletion,
    DiscardedObject,
    Finetune,
    FinetuneEvent,
    Generation,
    GenerationImage,
    GenerationPreview,
    IdempotencyKey,
    UsageDay,
    WebhookDelivery,
    Worker,
)
from core.service.db.session import Database, database_now
from core.service.errors import ImageExpired
from core.service.finetunes import recording
from core.service.finetunes import service as finetunes
from core.service.generations import DrawnImage
from core.service.retention import Retention
from core.service.storage import FolderStore, StoredObject
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import SYSTEM, Scope
from tests.core.service.rows import (
    acting,
    add_dataset,
    add_finetune,
    add_generation,
    claim,
    tenant_with_domain,
    tenant_with_everything,
)

NOTHING: dict[str, Any] = dict.fromkeys(name for name in Settings.model_fields if name.startswith("keep_"))
"""Settings with retention switched off."""


@pytest.fixture
def owner(database: Database) -> tuple[Scope, str]:
    return tenant_with_domain(database)


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


def sweep(database: Database, store: FolderStore, **days: int) -> int:
    """Runs retention until nothing is left to delete."""
    settings = Settings(_env_file=None, **NOTHING | days)
    return Retention(database, store, settings).sweep(60)


def drawn(database: Database, store: FolderStore, owner: tuple[Scope, str], *, days_ago: float, images: int = 2) -> str:
    """Creates a generation that ended some days ago, with images of 10 bytes and a preview of 5."""
    scope, domain = owner
    with database.session() as session:
        add_generation(session, scope, domain, count=images, preview_count=1)
    taken = claim(database)
    folder = f"{domains.folder(scope.tenant, domain)}generations/{taken.id}/{taken.attempt}"
    preview = store.put(f"{folder}/preview.png", b"12345")
    stored = [store.put(f"{folder}/{index}.png", b"1234567890") for index in range(images)]
    with database.session() as session:
        generations.add_preview(session, taken, 0, 1, preview)
        pictures = [DrawnImage(index, index, image, 8, 8) for index, image in enumerate(stored)]
        generations.succeed(session, taken, pictures, 10, {})
        row = session.get_one(Generation, taken.id)
        row.finished_at = ago(session, days_ago)
        session.get_one(GenerationPreview, (taken.id, 0, 1)).created_at = row.finished_at
    return taken.id


def ago(session: Any, days: float) -> datetime.datetime:
    return database_now(session) - datetime.timedelta(days=days)


def count(database: Database, model: Any) -> int:
    with database.session() as session:
        return session.execute(select(func.count()).select_from(model)).scalar_one()


def stored(database: Database, scope: Scope) -> int:
    with database.session(scope) as session:
        return quotas.stored_bytes(session)


def test_old_images_are_deleted_and_their_generation_stays(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    old, young = (drawn(database, objects, owner, days_ago=days) for days in (31, 29))
    assert stored(database, owner[0]) == 50
    sweep(database, objects, keep_image_days=30)
    assert stored(database, owner[0]) == 25
    assert [key.split("/")[5] for key in objects.list("")] == [young] * 3
    with database.session(owner[0]) as session:
        assert session.get_one(Generation, young).expired_at is None
        expired = session.get_one(Generation, old)
        assert (expired.status, expired.images, expired.previews) == ("succeeded", [], [])
        assert expired.expired_at is not None
        with pytest.raises(ImageExpired):
            generations.image(session, old, 0)
        with pytest.raises(ImageExpired):
            generations.preview(session, old, 0, 1)
        with pytest.raises(NotFound):
            generations.image(session, young, 7)
        assert domains.covers(session, [owner[1]]) == {}
    assert count(database, DiscardedObject) == 0
    assert sweep(database, objects, keep_image_days=30) == 0


def test_images_are_not_deleted_by_default(database: Database, objects: FolderStore, owner: tuple[Scope, str]) -> None:
    id = drawn(database, objects, owner, days_ago=10_000)
    Retention(database, objects, Settings(_env_file=None)).sweep(60)  # type: ignore[call-arg]
    with database.session() as session:
        row = session.get_one(Generation, id)
        assert (len(row.images), row.previews) == (2, []), "previews are kept for some days only"
    assert len(objects.list("")) == 2
    assert stored(database, owner[0]) == 20


def test_old_ended_generations_are_deleted_and_queued_ones_stay(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    drawn(database, objects, owner, days_ago=31)
    with database.session() as session:
        waiting = add_generation(session, *owner)
        waiting.created_at = ago(session, 100)
    sweep(database, objects, keep_generation_days=30)
    with database.session() as session:
        assert session.execute(select(Generation.id)).scalars().all() == [waiting.id]
    assert (count(database, GenerationImage), count(database, GenerationPreview), objects.list("")) == (0, 0, [])
    assert stored(database, owner[0]) == 0


def test_unreachable_store_leaves_the_discard_for_another_worker(
    database: Database, objects: FolderStore, owner: tuple[Scope, str], tmp_path: Path
) -> None:
    class Away(FolderStore):
        def delete(self, keys: Any) -> None:
            raise StorageUnavailable("it is away")

    drawn(database, objects, owner, days_ago=31)
    with pytest.raises(StorageUnavailable):
        sweep(database, Away(tmp_path / "objects"), keep_image_days=30)
    assert (count(database, DiscardedObject), len(objects.list(""))) == (3, 3)
    assert discards.remove_page(database, objects) == 0, "another worker still has it"
    with database.session() as session:
        for row in session.execute(select(DiscardedObject)).scalars():
            row.due_at = database_now(session)
    sweep(database, objects)
    assert (count(database, DiscardedObject), objects.list("")) == (0, [])


def test_concurrent_workers_delete_each_row_once(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    for _ in range(12):
        drawn(database, objects, owner, days_ago=31, images=1)
    settings = Settings(_env_file=None, **NOTHING | {"keep_image_days": 30})
    workers = [Retention(database, objects, settings) for _ in range(3)]
    for worker in workers:
        for rule in worker._rules:
            rule.rows = 2
    with ThreadPoolExecutor(3) as pool:
        removed = sum(pool.map(lambda worker: worker.sweep(60), workers))
    assert (removed, stored(database, owner[0])) == (12, 0)
    assert sweep(database, objects, keep_image_days=30) == 0
    assert (count(database, GenerationImage), objects.list("")) == (0, [])


def test_old_loss_curve_is_thinned_to_evenly_spaced_points(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    scope, domain = owner
    with database.session() as session:
        ids = [add_finetune(session, scope, domain, training=TrainingSettings(steps=10_000)) for _ in range(2)]
        for id, days in zip(ids, (31, 29), strict=True):
            row = session.get_one(Finetune, id)
            for step in range(10, 10_001, 10):
                jobs.report(session, row, "progress", {"step": step, "loss": 1 / step})
                if step % 20 == 0:
                    jobs.report(session, row, "evaluation", {"step": step, "held_out_loss": 1 / step})
            row.status, row.finished_at = "succeeded", ago(session, days)
    sweep(database, objects, keep_event_days=30)
    with database.session(scope) as session:
        old, young = (finetunes.metrics(session, id) for id in ids)
        assert len(young) == 1000
        assert 200 <= len(old) <= 202
        assert (old[0]["step"], old[-1]["step"]) == (10, 10_000)
        steps = [point["step"] for point in old]
        assert max(after - before for before, after in itertools.pairwise(steps)) <= 60
        evaluations = [[point["step"] for point in finetunes.evaluations(session, id)] for id in ids]
        assert len(evaluations[1]) == 500
        assert 200 <= len(evaluations[0]) <= 202
        assert (evaluations[0][0], evaluations[0][-1]) == (20, 10_000)
        kinds = select(FinetuneEvent.type).where(FinetuneEvent.finetune_id == ids[0], FinetuneEvent.type == "status")
        assert session.execute(kinds).scalars().all() == ["status"]


@pytest.mark.parametrize(("points", "told"), [(0, 0), (1, 1), (2000, 2000), (2001, 1001), (5000, 1668)])
def test_loss_curve_has_a_maximum_number_of_points(
    database: Database, owner: tuple[Scope, str], points: int, told: int
) -> None:
    with database.session(owner[0]) as session:
        row = session.get_one(Finetune, add_finetune(session, *owner))
        common = {"finetune_id": row.id, "tenant_id": row.tenant_id, "type": "progress"}
        session.add_all(FinetuneEvent(id=step + 2, data={"step": step}, **common) for step in range(points))
        steps = [point["step"] for point in finetunes.metrics(session, row.id)]
    assert len(steps) == told
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, points - 1) if points else not steps


def test_event_ids_increase_within_a_finetune_and_are_not_reused(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    """Also when other fine-tunes report at the same time and after retention deleted events."""
    other = tenant_with_domain(database, "busy")
    with database.session() as session:
        id, busy = add_finetune(session, *owner), add_finetune(session, *other)

    def run(finetune: str) -> None:
        for _ in range(20):
            with database.session() as session:
                jobs.report(session, session.get_one(Finetune, finetune), "sample", {"key": "k"})

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(run, finetune) for finetune in (id, busy, id, busy)]:
            done.result()
    with database.session(owner[0]) as session:
        assert [event.id for event in finetunes.events_after(session, id, 0)] == list(range(1, 42))
        row = session.get_one(Finetune, id)
        row.status, row.finished_at = "succeeded", ago(session, 91)
    sweep(database, objects, keep_sample_days=90)
    with database.session() as session:
        jobs.report(session, session.get_one(Finetune, id), "status", {"status": "succeeded"})
        assert [event.id for event in finetunes.events_after(acting(session, owner[0]), id, 0)] == [1, 42]
        assert len(finetunes.events_after(acting(session, other[0]), busy, 0)) == 41, "other events must stay"


def test_samples_and_checkpoints_of_ended_finetunes_are_deleted(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    scope, domain = owner
    folder = f"{domains.folder(scope.tenant, domain)}finetunes"
    with database.session() as session:
        ids = [add_finetune(session, scope, domain) for _ in range(2)]
        for id, days in zip(ids, (91, 0), strict=True):
            row = session.get_one(Finetune, id)
            recording.add_sample(session, row, 50, objects.put(f"{folder}/{id}/samples/50.png", b"12345"))
            recording.record_checkpoint(session, row, 50, objects.put(f"{folder}/{id}/checkpoint-50", b"12"))
            recording.record_checkpoint(session, row, 100, objects.put(f"{folder}/{id}/checkpoint-100", b"12345"))
            if days:
                row.status, row.finished_at = "succeeded", ago(session, days)
    assert stored(database, scope) == 24, "data sets that tests insert are not counted"
    sweep(database, objects, keep_sample_days=90, keep_checkpoint_days=1)
    assert stored(database, scope) == 12
    assert all(ids[1] in key for key in objects.list(""))
    with database.session() as session:
        assert session.get_one(Finetune, ids[0]).checkpoint_key is None
        assert session.get_one(Finetune, ids[1]).checkpoint_key is not None
        samples = session.execute(select(FinetuneEvent.finetune_id).where(FinetuneEvent.type == "sample"))
        assert samples.scalars().all() == [ids[1]]


def test_checkpoint_replaced_twice_is_deleted_an_hour_later(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    with database.session() as session:
        row = session.get_one(Finetune, add_finetune(session, *owner))
        recording.record_checkpoint(session, row, 50, StoredObject("tenants/a", "0" * 64, 10))
        recording.record_checkpoint(session, row, 50, StoredObject("tenants/a", "0" * 64, 10))
        recording.record_checkpoint(session, row, 100, StoredObject("tenants/b", "0" * 64, 30))
        assert not session.execute(select(DiscardedObject)).scalars().all(), "the previous checkpoint must stay"
        recording.record_checkpoint(session, row, 150, StoredObject("tenants/c", "0" * 64, 30))
        [replaced] = session.execute(select(DiscardedObject)).scalars()
        wait = replaced.due_at - database_now(session)
    assert replaced.object_key == "tenants/a"
    assert datetime.timedelta(minutes=50) < wait <= datetime.timedelta(hours=1)
    assert stored(database, owner[0]) == 60, "both kept checkpoints"
    assert discards.remove_page(database, objects) == 0


@pytest.mark.parametrize(("kept", "left"), [(("tenants/b", "0" * 64), 30), (("tenants/a", "0" * 64), 10), (None, 0)])
def test_checkpoints_that_cannot_be_read_are_not_counted(
    database: Database, owner: tuple[Scope, str], kept: tuple[str, str] | None, left: int
) -> None:
    with database.session() as session:
        row = session.get_one(Finetune, add_finetune(session, *owner))
        recording.record_checkpoint(session, row, 50, StoredObject("tenants/a", "0" * 64, 10))
        recording.record_checkpoint(session, row, 100, StoredObject("tenants/b", "0" * 64, 30))
        recording.record_restart(session, row, 50, kept, "unreadable")
    assert stored(database, owner[0]) == left


def test_rejected_archive_is_deleted_and_its_report_stays(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    with database.session() as session:
        for key, status, days in (("old", "rejected", 8), ("young", "rejected", 6), ("ready", "ready", 8)):
            row = add_dataset(session, *owner, archive_key=objects.put(key, b"zip").key, status=status)
            row.finished_at, row.report = ago(session, days), {"rejected": [key]}
    sweep(database, objects, keep_rejected_days=7)
    assert objects.list("") == ["ready", "young"]
    with database.session() as session:
        [row] = session.execute(select(Dataset).where(Dataset.archive_key == "")).scalars()
        assert row.report == {"rejected": ["old"]}


def test_zips_of_versions_that_were_rejected_are_released(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    """The zip of an edited data set stays with the latter."""
    shared, copied = (
        {"key": objects.put(f"{name}.zip", b"zip").key, "sha256": "0" * 64, "size_bytes": 3} for name in "ab"
    )
    with database.session() as session:
        add_dataset(session, *owner, archive_key=shared["key"], size_bytes=3)
        metering.add_stored_bytes(session, owner[1], 6)
        for zip in (shared, copied):
            row = add_dataset(session, *owner, archive_key="", size_bytes=0, sources=[zip], status="rejected")
            row.finished_at = ago(session, 8)
    assert sweep(database, objects, keep_rejected_days=7) == 2
    assert (objects.list(""), stored(database, owner[0])) == ([shared["key"]], 3)
    assert sweep(database, objects, keep_rejected_days=7) == 0


def test_old_records_are_deleted_and_new_ones_stay(database: Database, objects: FolderStore) -> None:
    tenant_with_everything(database, "tenant")
    tables = (WebhookDelivery, Deletion, UsageDay, IdempotencyKey, Worker)
    with database.session() as session:
        session.add(Worker(id="wrk_1", hostname="h", pid=1, device="cpu", queues=[], resident=[]))
        for row in session.execute(select(Deletion)).scalars():
            row.done_at = database_now(session)
    settings = {"keep_delivery_days": 30, "keep_receipt_days": 365, "keep_usage_days": 31}
    before = {table: count(database, table) for table in tables}
    sweep(database, objects, **settings)
    assert {table: count(database, table) for table in tables} == before
    make_old(database)
    sweep(database, objects, **settings)
    assert {table: count(database, table) for table in tables} == dict.fromkeys(tables, 0)


def test_old_audit_entries_are_deleted(database: Database, objects: FolderStore) -> None:
    with database.session() as session:
        for days in (400, 366, 364):
            entry = AuditEntry(action="domain.create", target=f"dom_{days}", detail={}, created_at=ago(session, days))
            session.add(entry)
            session.flush()
    sweep(database, objects, keep_audit_days=365)
    with database.session() as session:
        assert session.execute(select(AuditEntry.target)).scalars().all() == ["dom_364"]


def make_old(database: Database) -> None:
    """Makes all rows of these tables two years older."""
    with database.session() as session:
        for row in session.execute(select(WebhookDelivery)).scalars():
            row.created_at = ago(session, 730)
        for receipt in session.execute(select(Deletion)).scalars():
            receipt.done_at = ago(session, 730)
        for key in session.execute(select(IdempotencyKey)).scalars():
            key.created_at = ago(session, 730)
        for worker in session.execute(select(Worker)).scalars():
            worker.heartbeat_at = ago(session, 730)
        days = session.execute(select(UsageDay)).scalars().all()
        for day in days:
            day.day = day.day - datetime.timedelta(days=730)


def test_domains_and_tenants_have_their_own_retention_of_images(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    scope, first = owner
    with database.session(scope) as session:
        second = domains.create(session, "second", "", "mini").id
    kept, ruled = (drawn(database, objects, (scope, domain), days_ago=0) for domain in (first, second))
    foreign = drawn(database, objects, tenant_with_domain(database, "foreign"), days_ago=0)

    def expire(days: float) -> set[str]:
        """Runs the rule of domains as if so many days had passed, and returns the ids of all expired generations."""
        with database.session() as session:
            expiry.images_of_domains(session, ago(session, -days), 100)
            return set(session.scalars(select(Generation.id).where(Generation.expired_at.is_not(None))))

    assert expire(10_000) == set(), "without a rule nothing is deleted"
    with database.session(scope) as session:
        domains.change(session, second, {"keep_image_days": 10})
    assert expire(9) == set()
    assert expire(11) == {ruled}
    with database.session() as session:
        tenants.change(acting(session, SYSTEM), scope.tenant, {"keep_image_days": 20})
    assert expire(19) == {ruled}
    with database.session(scope) as session:
        domains.change(session, first, {"keep_image_days": 30})
    assert expire(21) == {ruled}, "the domain's own days come first"
    assert expire(31) == {kept, ruled}
    assert stored(database, scope) == 0
    assert foreign not in expire(10_000)


@pytest.mark.parametrize("keeps", [True, False])
def test_favourites_outlast_retention_if_they_are_to_be_kept(
    database: Database, objects: FolderStore, owner: tuple[Scope, str], keeps: bool
) -> None:
    scope, domain = owner
    id = drawn(database, objects, owner, days_ago=31)
    with database.session(scope) as session:
        images.change(session, id, 1, {"favourite": True})
        domains.change(session, domain, {"keep_image_days": 10, "keep_favourites": keeps})
    with database.session() as session:
        expiry.images_of_domains(session, ago(session, -11), 100)
    assert stored(database, scope) == (10 if keeps else 0)
    with database.session(scope) as session:
        assert [image.index for image in generations.get(session, id).images] == ([1] if keeps else [])
        with pytest.raises(ImageExpired):
            generations.image(session, id, 0)
    if not keeps:
        return
    with database.session() as session:
        assert expiry.images_of_domains(session, ago(session, -11), 100) == 0, "each generation is handled once"
    with database.session(scope) as session:
        images.change(session, id, 1, {"favourite": False})
    with database.session() as session:
        assert expiry.images_of_domains(session, ago(session, -11), 100) == 1
    assert stored(database, scope) == 0


@pytest.mark.parametrize("change", ["other rule", "domain changed", "tenant changed", "setting changed"])
def test_kept_favourites_are_deleted_by_a_rule_that_does_not_keep_them(
    database: Database, objects: FolderStore, owner: tuple[Scope, str], change: str
) -> None:
    """The service's rule, and the domain's own until it is changed, keep the favourites of all generations first."""
    scope, domain = owner
    with database.session(scope) as session:
        other = domains.create(session, "other", "", "mini").id
    _, young, kept = ids = [
        drawn(database, objects, (scope, where), days_ago=-day) for where, day in ((domain, 0), (domain, 2), (other, 0))
    ]
    with database.session(scope) as session:
        for id in ids:
            images.change(session, id, 1, {"favourite": True})

    def expire(service_days: int, *, keep: bool = True) -> tuple[int, list[str]]:
        """Runs both rules 61 days later. Returns the number of handled generations, and the ids of those with images
        left."""
        with database.session() as session:
            handled = expiry.images(session, ago(session, service_days - 61), 100, keep_favourites=keep)
            handled += expiry.images_of_domains(session, ago(session, -61), 100)
            return handled, [id for id in ids if session.get_one(Generation, id).images]

    assert expire(30) == (3, ids)
    own = {"keep_image_days": 60, "keep_favourites": False}
    with database.session() as session:
        match change:
            case "other rule":
                domains.change(acting(session, scope), domain, own)
            case "domain changed":
                domains.change(acting(session, scope), domain, own | {"keep_favourites": True})
            case "tenant changed":
                tenants.change(session, scope.tenant, own)
                domains.change(acting(session, scope), other, {"keep_image_days": 90})
    if change == "domain changed":
        assert expire(30) == (0, ids)
        with database.session(scope) as session:
            domains.change(session, domain, {"keep_favourites": False})
    handled, left = (2, [young]) if change == "setting changed" else (1, [young, kept])
    rule: dict[str, Any] = {"service_days": 60, "keep": False} if change == "setting changed" else {"service_days": 30}
    assert expire(**rule) == (handled, left)
    assert stored(database, scope) == 10 * len(left)
    assert expire(**rule) == (0, left), "each generation is handled once"


def test_setting_decides_whether_the_services_limit_spares_favourites(
    database: Database, objects: FolderStore, owner: tuple[Scope, str]
) -> None:
    spared, gone = (drawn(database, objects, owner, days_ago=31) for _ in range(2))
    with database.session(owner[0]) as session:
        images.change(session, spared, 0, {"favourite": True})
    sweep(database, objects, keep_image_days=30)
    assert stored(database, owner[0]) == 10
    with database.session(owner[0]) as session:
        assert [image.index for image in generations.get(session, spared).images] == [0]
        session.get_one(Generation, spared).expired_at = None
        assert generations.get(session, gone).images == []
    sweep(database, objects, keep_image_days=30, expire_favourites=True)
    assert stored(database, owner[0]) == 0
