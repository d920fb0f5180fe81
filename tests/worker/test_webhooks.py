"""A worker that sends signed deliveries to a real receiver, without a session, until one is accepted."""

import datetime
import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from core.service import domains, generations, tenants
from core.service.config import Settings
from core.service.db.models import Webhook, WebhookDelivery
from core.service.db.session import database_now
from core.service.tenancy import SYSTEM, Scope
from core.service.webhooks import service
from core.service.webhooks.deliveries import Attempt
from core.service.webhooks.signing import new_secret
from tests import services
from tests.core.service.rows import Sent, acting, add_generation
from tests.receiver import Receiver, receiving, status
from worker.context import Context
from worker.webhooks import Webhooks, send


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def context(database_url: str, tmp_path: Path) -> Iterator[Context]:
    url = services.as_role(database_url, services.WORKER)
    settings = Settings(_env_file=None, data_dir=tmp_path, database_url=url, webhooks_allow_private=True)  # type: ignore[call-arg]
    context = Context(settings, Sent())
    yield context
    context.stop()
    context.database.dispose()


def test_event_is_signed_with_every_valid_secret(context: Context, receiver: Receiver) -> None:
    first, second, scope = listening(context, receiver)
    with context.database.session(scope) as session:
        generation = add_generation(session, scope, domains.create(session, "d", "", "mini").id)
        generations.cancel(session, generation.id)
    Webhooks(context)._work()
    [(headers, body)] = receiver.received
    for secret in (first, second):
        assert Verifier(secret).verify(body, headers)["type"] == "generation.cancelled"
    with pytest.raises(WebhookVerificationError):
        Verifier(new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Verifier(first).verify(body.replace(b"cancelled", b"succeeded"), headers)
    event = json.loads(body)
    assert event["data"]["id"] == generation.id
    assert (event["data"]["status"], headers["content-type"]) == ("cancelled", "application/json")


def test_own_url_of_a_generation_gets_its_end_with_the_webhooks_signature(context: Context, receiver: Receiver) -> None:
    paths: list[str] = []
    receiver.answer = lambda request: (paths.append(request.path), status(204)(request))[1]
    _, secret, scope = listening(context, receiver)
    with context.database.session(scope) as session:
        (webhook,) = session.scalars(select(Webhook)).all()
        service.change(session, webhook.id, {"events": []}, allow_private=True)
        domain = domains.create(session, "d", "", "mini").id
        own = f"http://127.0.0.1:{receiver.port}/once"
        for url in (own, None):
            named = add_generation(session, scope, domain, webhook_id=webhook.id, webhook_url=url)
            generations.cancel(session, named.id)
        generations.cancel(session, add_generation(session, scope, domain).id)
    Webhooks(context)._work()
    assert sorted(paths) == ["/hooks?a=b", "/once"]
    for headers, body in receiver.received:
        assert Verifier(secret).verify(body, headers)["type"] == "generation.cancelled"


def test_no_session_is_held_while_waiting_for_a_response(context: Context, receiver: Receiver) -> None:
    held = []

    def count_connections(request: BaseHTTPRequestHandler) -> None:
        held.append(context.database.engine.pool.checkedout())  # type: ignore[attr-defined]
        status(204)(request)

    receiver.answer = count_connections
    listening(context, receiver, tested=True)
    Webhooks(context)._work()
    assert held == [0]


def test_event_keeps_its_id_until_it_is_delivered(context: Context, receiver: Receiver) -> None:
    receiver.answer = status(503)
    listening(context, receiver, tested=True)
    webhooks = Webhooks(context)
    webhooks._work()
    webhooks._work()
    [(first, _)] = receiver.received
    receiver.answer = status(200)
    with context.database.session() as session:
        row = session.get_one(WebhookDelivery, first["webhook-id"])
        assert (row.status, row.failures, row.attempts[0]["detail"]) == ("pending", 1, "The receiver answered 503.")
        row.next_attempt_at = database_now(session)
    webhooks._work()
    second, _ = receiver.received[1]
    assert second["webhook-id"] == first["webhook-id"]
    with context.database.session() as session:
        row = session.get_one(WebhookDelivery, first["webhook-id"])
        assert (row.status, [attempt["response_status"] for attempt in row.attempts]) == ("succeeded", [503, 200])


def test_thread_sends_due_deliveries(context: Context, receiver: Receiver) -> None:
    webhooks = Webhooks(context)
    webhooks.start()
    arrived = receiver.done
    receiver.answer = lambda request: (status(204)(request), arrived.set())[0]
    listening(context, receiver, tested=True)
    assert arrived.wait(60)
    context.stopping.set()
    webhooks._thread.join()
    webhooks._pool.shutdown()  # deliveries that arrived are settled before the connection is closed


def test_private_address_fails_the_attempt_and_not_the_worker(receiver: Receiver) -> None:
    assert send(attempt(f"https://127.0.0.1:{receiver.port}/"), allow_private=False).code == "webhook_url_refused"
    assert send(attempt(f"https://localhost:{receiver.port}/"), allow_private=False).code == "address_refused"
    assert receiver.received == []


def test_signature_uses_the_databases_time(receiver: Receiver) -> None:
    sent = attempt(receiver.url)
    assert send(sent, allow_private=True).succeeded
    [(headers, _)] = receiver.received
    assert headers["webhook-timestamp"] == "978307200", "the host's clock must not matter"


def test_stuck_lookups_of_one_tenant_do_not_delay_others(
    context: Context, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first claim after the commit takes another tenant's delivery, and workers claim twice a second. So it is sent
    within one second, while no attempt of the slow tenant ends."""
    looked_up, done, real = threading.Semaphore(0), threading.Event(), socket.getaddrinfo
    claims, is_due, lock = list[tuple[bool, str | None]](), threading.Event(), threading.Lock()

    def getaddrinfo(host: str, *rest: Any, **options: Any) -> Any:
        if host != "stuck.example.com":
            return real(host, *rest, **options)
        looked_up.release()
        done.wait()
        raise socket.gaierror

    def claim() -> Attempt | None:
        with lock:
            is_after_the_commit = is_due.is_set()
            attempt = take()
            claims.append((is_after_the_commit, attempt.tenant_id if attempt else None))
            return attempt

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("worker.webhooks.send", partial(send, seconds=3600))
    arrived = threading.Event()
    receiver.answer = lambda request: (status(204)(request), arrived.set())[0]
    with context.database.session() as session:
        slow = Scope(tenants.create(session, "slow").id)
        webhook = service.create(
            acting(session, slow), "https://stuck.example.com/", None, "", allow_private=True
        ).row.id
        for _ in range(4):
            service.test(session, webhook)
    webhooks = Webhooks(context)
    take = webhooks._claim
    monkeypatch.setattr(webhooks, "_claim", claim)
    webhooks.start()
    try:
        for _ in range(3):
            assert looked_up.acquire(timeout=60), "the slow tenant must get its share of the threads"
        *_, quick = listening(context, receiver, tested=True)
        is_due.set()
        assert arrived.wait(60)
        late = [tenant for is_after_the_commit, tenant in claims if is_after_the_commit or tenant == quick.tenant_id]
        assert late[0] == quick.tenant_id
        assert not looked_up.acquire(blocking=False), "it must get no more than its share"
    finally:
        done.set()
        context.stopping.set()
        webhooks._thread.join()
        webhooks._pool.shutdown()


def test_failures_do_not_count_while_our_own_network_is_down(context: Context, receiver: Receiver) -> None:
    webhooks = Webhooks(context)
    for tenant in ("one", "two", "three"):
        webhooks._reachability.note(tenant, "timed_out")
    receiver.answer = lambda request: request.connection.close()
    listening(context, receiver, tested=True)
    webhooks._work()
    [(headers, _)] = receiver.received
    with context.database.session() as session:
        row = session.get_one(WebhookDelivery, headers["webhook-id"])
        assert (row.status, row.failures, len(row.attempts)) == ("pending", 0, 1)
        assert row.next_attempt_at is not None
        assert row.next_attempt_at > database_now(session)


def attempt(url: str) -> Attempt:
    claimed_at = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    return Attempt("msg_1", "wh_1", 1, url, "{}", (new_secret(),), "ten_1", claimed_at)


def listening(context: Context, receiver: Receiver, *, tested: bool = False) -> tuple[str, str, Scope]:
    """Creates a webhook of a new tenant. Returns its first secret, its rotated secret and the tenant's scope."""
    with context.database.session() as session:
        scope = Scope(tenants.create(acting(session, SYSTEM), "tenant").id)
        created = service.create(acting(session, scope), receiver.url, None, "", allow_private=True)
        first, second = created.secret, service.rotate(acting(session, scope), created.row.id, 60).secret
        if tested:
            service.test(acting(session, scope), created.row.id)
    return first, second, scope
