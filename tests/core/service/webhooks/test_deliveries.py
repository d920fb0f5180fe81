"""Webhook deliveries as database rows: stored with their event, claimed once, retried for a day, never lost."""

import datetime
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import select, text

from core.artifact.errors import CoreError
from core.service import adapters, etags, generations, jobs, tenants
from core.service.db.models import AuditEntry, Finetune, Generation, Webhook, WebhookDelivery
from core.service.db.session import Database, database_now
from core.service.errors import WebhookBacklog
from core.service.finetunes import service as finetunes
from core.service.finetunes.service import FinetuneRequest
from core.service.tenancy import SYSTEM, Scope
from core.service.webhooks import deliveries, service
from core.service.webhooks.deliveries import MOST_ATTEMPTS, Attempt, Outcome, pause_seconds
from tests.core.service.rows import Sent, acting, add_adapter, add_dataset, add_generation, tenant_with_domain

OK = Outcome(0.1, 204)
BAD = Outcome(0.1, 500, "refused", "It answered 500.")


@pytest.fixture
def owner(database: Database) -> tuple[Scope, str]:
    return tenant_with_domain(database)


@pytest.fixture
def webhook(database: Database, owner: tuple[Scope, str]) -> str:
    return add_webhook(database, owner[0])


def add_webhook(database: Database, scope: Scope, events: list[str] | None = None) -> str:
    with database.session(scope) as session:
        return service.create(session, "https://example.com", events, "", allow_private=False).row.id


def send(database: Database, scope: Scope, webhook: str) -> str:
    with database.session(scope) as session:
        return service.test(session, webhook).id


def claim(database: Database) -> Attempt | None:
    with database.session() as session:
        return deliveries.claim(session)


def claimed(database: Database) -> Attempt:
    attempt = claim(database)
    assert attempt is not None
    return attempt


def settle(database: Database, attempt: Attempt, outcome: Outcome) -> bool:
    with database.session() as session:
        return deliveries.settle(session, attempt, outcome)


def row(database: Database, id: str) -> WebhookDelivery:
    with database.session() as session:
        return session.get_one(WebhookDelivery, id)


def types(database: Database) -> list[str]:
    with database.session() as session:
        return list(session.execute(select(WebhookDelivery.type).order_by(WebhookDelivery.id)).scalars())


def make_due(database: Database, id: str, **columns: Any) -> None:
    """Makes a delivery due immediately, and sets other columns."""
    with database.session() as session:
        delivery = session.get_one(WebhookDelivery, id)
        delivery.next_attempt_at = database_now(session)
        for name, value in columns.items():
            setattr(delivery, name, value)


def test_retries_take_about_a_day() -> None:
    pauses = [pause_seconds(failures, lambda: 0.5) for failures in range(1, MOST_ATTEMPTS + 1)]
    assert pauses == [5, 20, 80, 320, 1280, 5120, 20480, 28800, 28800, None]
    assert 23 < sum(pause for pause in pauses if pause) / 3600 < 24
    assert (pause_seconds(1, lambda: 0.0), pause_seconds(1, lambda: 1.0)) == (3.75, 6.25)


def test_delivery_is_inserted_in_the_jobs_transaction(
    database: Database, owner: tuple[Scope, str], webhook: str
) -> None:
    scope, domain = owner
    with database.session(scope) as session:
        dataset = add_dataset(session, scope, domain)
        finetune = finetunes.create(session, Sent(), domain, FinetuneRequest(dataset_id=dataset.id))
        first, second = (add_adapter(session, scope, domain, version).id for version in (1, 2))
        add_generation(session, scope, domain)
    with database.session() as session:
        finetunes.cancel(acting(session, scope), finetune.id)
        adapters.promote(session, domain, first)
        adapters.promote(session, domain, first)
        adapters.quarantine(acting(session, SYSTEM), second)
        claim = jobs.claim_next(session, Generation, "worker", 60)
        assert claim is not None
        jobs.fail(session, session.get_one(Generation, claim.id), CoreError("It broke."))
    expected = ["finetune.cancelled", "adapter.promoted", "adapter.quarantined", "generation.failed"]
    assert types(database) == expected
    with database.session() as session:
        jobs.finish(session, session.get_one(Finetune, finetune.id), "succeeded")
        session.rollback()
    assert types(database) == expected, "a rolled back event must not be delivered"


def test_webhook_gets_only_its_events_of_its_tenant(database: Database, owner: tuple[Scope, str]) -> None:
    scope, domain = owner
    stranger, _ = tenant_with_domain(database, "stranger")
    wanted = [add_webhook(database, scope, events) for events in (None, ["generation.cancelled"], ["dataset.ready"])]
    add_webhook(database, stranger)
    disabled = add_webhook(database, scope)
    with database.session(scope) as session:
        service.change(session, disabled, {"enabled": False}, allow_private=False)
        generations.cancel(session, add_generation(session, scope, domain).id)
        delivered = session.execute(select(WebhookDelivery.webhook_id)).scalars().all()
    assert set(delivered) == set(wanted[:2])


def test_delivery_is_claimed_and_settled(database: Database, owner: tuple[Scope, str], webhook: str) -> None:
    id = send(database, owner[0], webhook)
    attempt = claimed(database)
    assert (attempt.id, attempt.number, attempt.url) == (id, 1, "https://example.com")
    assert claim(database) is None, "another attempt has it"
    assert settle(database, attempt, OK)
    assert not settle(database, attempt, BAD), "it has already ended"
    delivery = row(database, id)
    assert (delivery.status, delivery.next_attempt_at, len(delivery.attempts)) == ("succeeded", None, 1)
    assert delivery.attempts[0]["response_status"] == 204


def test_success_leaves_the_etag_of_the_settings(database: Database, owner: tuple[Scope, str], webhook: str) -> None:
    with database.session() as session:
        seen = etags.tag(session.get_one(Webhook, webhook))
    send(database, owner[0], webhook)
    assert settle(database, claimed(database), OK)
    with database.session(owner[0]) as session:
        assert service.get(session, webhook).last_success_at is not None
        service.change(session, webhook, {"description": "new"}, seen, allow_private=False)


def test_delivery_of_a_killed_worker_is_sent_again(database: Database, owner: tuple[Scope, str], webhook: str) -> None:
    id = send(database, owner[0], webhook)
    lost = claimed(database)
    with database.session() as session:
        session.get_one(WebhookDelivery, id).lease_expires_at = database_now(session)
    again = claimed(database)
    assert (again.id, again.number) == (id, 2)
    assert not settle(database, lost, OK), "the first attempt is too late"
    assert settle(database, again, OK)
    assert len(row(database, id).attempts) == 1


def test_many_workers_claim_every_delivery_once(database: Database) -> None:
    ids = []
    for number in range(10):
        scope, _ = tenant_with_domain(database, f"tenant {number}")
        webhook = add_webhook(database, scope)
        ids += [send(database, scope, webhook) for _ in range(3)]

    def work(_: int) -> list[str]:
        taken = []
        while (attempt := claim(database)) is not None:
            taken.append(attempt.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [id for worker in pool.map(work, range(4)) for id in worker]
    assert sorted(taken) == sorted(ids)


def test_many_deliveries_of_one_tenant_do_not_delay_another(database: Database, owner: tuple[Scope, str]) -> None:
    loud, quiet = add_webhook(database, owner[0]), tenant_with_domain(database, "quiet")[0]
    for _ in range(9):
        send(database, owner[0], loud)
    last = send(database, quiet, add_webhook(database, quiet))
    claimed(database)
    assert claimed(database).id == last, "the tenant without a running delivery must be first"
    assert [claim(database) is None for _ in range(4)] == [False, False, False, True], "at most 4 of one tenant"


def test_claims_do_not_read_a_backlog(database: Database, database_url: str) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite does not count the rows that it reads")
    loud, quiet = (tenant_with_domain(database, name)[0] for name in ("loud", "quiet"))
    insert = text(
        "INSERT INTO webhook_deliveries (id, tenant_id, webhook_id, type, body, status, attempt, failures, attempts, "
        "next_attempt_at) SELECT 'msg_' || :webhook || i, :tenant, :webhook, 'webhook.test', '{}', 'pending', 0, 0, "
        "'[]', now() - interval '1 hour' FROM generate_series(1, 5000) i"
    )
    for _ in range(3):
        webhook = add_webhook(database, loud)
        with database.session() as session:
            session.execute(insert, {"webhook": webhook, "tenant": loud.tenant})
    last = send(database, quiet, add_webhook(database, quiet))
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("ANALYZE webhook_deliveries")
    attempts = []
    for _ in range(5):
        with database.session() as session:
            attempts.append(deliveries.claim(session))
            tables = "pg_stat_xact_user_tables WHERE relname = 'webhook_deliveries'"
            read = session.execute(text(f"SELECT seq_tup_read + idx_tup_fetch FROM {tables}")).scalar_one()
            assert read < 100
    assert [attempt.tenant_id for attempt in attempts if attempt] == [loud.tenant, quiet.tenant] + [loud.tenant] * 3
    assert attempts[1] is not None
    assert attempts[1].id == last


def test_webhook_with_a_backlog_gets_no_further_delivery(
    database: Database, owner: tuple[Scope, str], webhook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.service.webhooks.events.MOST_PENDING", 2)
    scope, domain = owner
    for _ in range(2):
        send(database, scope, webhook)
    with pytest.raises(WebhookBacklog):
        send(database, scope, webhook)
    other = add_webhook(database, scope)
    with database.session(scope) as session:
        generations.cancel(session, add_generation(session, scope, domain).id)
        events = session.scalars(select(WebhookDelivery).where(WebhookDelivery.type == "generation.cancelled")).all()
    statuses = {event.webhook_id: event.status for event in events}
    assert statuses == {webhook: "failed", other: "pending"}
    (failed,) = (event for event in events if event.status == "failed")
    assert [attempt["code"] for attempt in failed.attempts] == ["webhook_backlog"]
    with pytest.raises(WebhookBacklog), database.session(scope) as session:
        service.redeliver(session, webhook, failed.id)
    assert settle(database, claimed(database), OK)
    with database.session(scope) as session:
        service.redeliver(session, webhook, failed.id)
    assert row(database, failed.id).status == "pending"


def test_failures_are_retried_until_the_webhook_is_disabled(
    database: Database, owner: tuple[Scope, str], webhook: str
) -> None:
    id = send(database, owner[0], webhook)
    for number in range(1, MOST_ATTEMPTS + 1):
        attempt = claimed(database)
        assert attempt.number == number
        assert settle(database, attempt, BAD)
        assert claim(database) is None, "it is not due yet"
        if number < MOST_ATTEMPTS:
            assert row(database, id).status == "pending"
            make_due(database, id)
    assert (row(database, id).status, len(row(database, id).attempts)) == ("failed", MOST_ATTEMPTS)
    with database.session() as session:
        disabled = session.get_one(Webhook, webhook)
        actions = session.execute(select(AuditEntry.action).where(AuditEntry.target == webhook)).scalars().all()
    assert disabled.status == "disabled"
    assert disabled.disabled_code == "failing"
    assert "It answered 500." in str(disabled.disabled_detail)
    assert "webhook.disable" in actions


def test_webhook_with_successful_deliveries_stays_enabled(
    database: Database, owner: tuple[Scope, str], webhook: str
) -> None:
    failing = send(database, owner[0], webhook)
    settle(database, claimed(database), BAD)
    send(database, owner[0], webhook)
    settle(database, claimed(database), OK)
    make_due(database, failing, failures=MOST_ATTEMPTS - 1)
    settle(database, claimed(database), BAD)
    with database.session() as session:
        assert session.get_one(WebhookDelivery, failing).status == "failed"
        assert session.get_one(Webhook, webhook).status == "enabled"


def test_response_410_disables_the_webhook_and_keeps_pending_deliveries(
    database: Database, owner: tuple[Scope, str], webhook: str
) -> None:
    first, second = (send(database, owner[0], webhook) for _ in range(2))
    settle(database, claimed(database), Outcome(0.1, 410, "refused", "It answered 410."))
    assert claim(database) is None
    assert (row(database, first).status, row(database, second).status) == ("failed", "pending")
    with database.session(owner[0]) as session:
        assert session.get_one(Webhook, webhook).disabled_code == "gone"
        service.change(session, webhook, {"enabled": True}, allow_private=False)
    assert claimed(database).id == second


def test_delivery_is_sent_again_on_demand(database: Database, owner: tuple[Scope, str], webhook: str) -> None:
    id = send(database, owner[0], webhook)
    late = claimed(database)
    with database.session(owner[0]) as session:
        service.redeliver(session, webhook, id)
    assert not settle(database, late, BAD), "the running attempt must not end it"
    attempt = claimed(database)
    assert (attempt.id, attempt.body) == (id, late.body)
    settle(database, attempt, OK)
    with database.session(owner[0]) as session:
        service.redeliver(session, webhook, id)
    assert claimed(database).id == id, "also one that succeeded"


def test_old_secrets_sign_until_their_overlap_ends(database: Database, owner: tuple[Scope, str], webhook: str) -> None:
    with database.session(owner[0]) as session:
        first = session.get_one(Webhook, webhook).secret
        second = service.rotate(session, webhook, 3600).secret
        third = service.rotate(session, webhook, 0).secret
        fourth = service.rotate(session, webhook, 60).secret
    assert len({first, second, third, fourth}) == 4
    send(database, owner[0], webhook)
    assert claimed(database).secrets == (fourth, third, first), "the secret without an overlap must stop immediately"
    with database.session() as session:
        stored = session.get_one(Webhook, webhook)
        past = (database_now(session) - datetime.timedelta(seconds=1)).isoformat()
        stored.previous_secrets = [{**secret, "expires_at": past} for secret in stored.previous_secrets]
    send(database, owner[0], webhook)
    assert claimed(database).secrets == (fourth,)


def test_webhooks_are_deleted_with_their_tenant(database: Database, owner: tuple[Scope, str], webhook: str) -> None:
    send(database, owner[0], webhook)
    attempt = claimed(database)
    with database.session() as session:
        tenants.delete(session, owner[0].tenant)
    assert not settle(database, attempt, OK)
    with database.session() as session:
        for table in ("webhooks", "webhook_deliveries"):
            assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


@pytest.mark.parametrize("outcome", [OK, Outcome(0.1, 410, "refused", "It answered 410.")])
def test_own_url_of_a_generation_says_nothing_about_the_webhook(
    database: Database, owner: tuple[Scope, str], webhook: str, outcome: Outcome
) -> None:
    scope, domain = owner
    with database.session(scope) as session:
        service.change(session, webhook, {"events": []}, allow_private=False)
        named = {"webhook_id": webhook, "webhook_url": "https://example.com/once"}
        generations.cancel(session, add_generation(session, scope, domain, **named).id)
    attempt = claimed(database)
    assert (attempt.webhook_id, attempt.url) == (webhook, "https://example.com/once")
    assert settle(database, attempt, outcome)
    assert row(database, attempt.id).status == ("succeeded" if outcome is OK else "failed")
    with database.session() as session:
        unchanged = session.get_one(Webhook, webhook)
        assert (unchanged.status, unchanged.last_success_at) == ("enabled", None)
