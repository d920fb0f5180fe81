"""Webhooks by command and SDK, from a real worker to a real receiver."""

import json
import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from difffit import Client, errors, verify_webhook
from difffit.signatures import InvalidSignature
from tests.client.conftest import Drawable, Server
from tests.client.proxy import proxied
from tests.client.test_commands import Shell
from tests.receiver import receiving


@pytest.fixture
def shell(server: Server) -> Shell:
    return Shell(server.url, server.key)


def test_generation_is_delivered_to_its_webhook(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    with receiving() as receiver:
        webhook = shell.json("webhooks", "create", receiver.url, "--event", "generation.succeeded")
        generation = shell.json("generate", drawable.id, "fruit", "--steps", 2, "--output", tmp_path)
        while not receiver.received:
            time.sleep(0.05)
        headers, body = receiver.received[0]
        event = Verifier(webhook["secret"]).verify(body, headers)
        assert (event["type"], event["data"]["id"]) == ("generation.succeeded", generation["id"])
        _check_verification(webhook["secret"], dict(headers), body)
        while not (deliveries := shell.json("webhooks", "deliveries", webhook["id"], "--status", "succeeded")):
            time.sleep(0.05)
        assert (deliveries[0]["id"], deliveries[0]["attempts"][0]["response_status"]) == (headers["webhook-id"], 204)
        shell.text("webhooks", "redeliver", webhook["id"], deliveries[0]["id"])
        while len(receiver.received) < 2:
            time.sleep(0.05)
        assert receiver.received[1][0]["webhook-id"] == deliveries[0]["id"]
    shell.json("webhooks", "delete", webhook["id"], "--yes")


def test_generation_names_a_webhook_without_events(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    with receiving() as receiver:
        webhook = shell.json("webhooks", "create", receiver.url, "--no-events")
        words = ("generate", drawable.id, "fruit", "--steps", 1, "-o", tmp_path)
        shell.json(*words)
        named = shell.json(*words, "--webhook", webhook["id"])
        while not receiver.received:
            time.sleep(0.05)
        (headers, body), *others = receiver.received
        assert (Verifier(webhook["secret"]).verify(body, headers)["data"]["id"], others) == (named["id"], [])
    shell.json("webhooks", "delete", webhook["id"], "--yes")


def _check_verification(secret: str, headers: dict[str, str], body: bytes) -> None:
    """Checks that the SDK accepts a delivered event, and no other secret, body or time."""
    titled = {name.title(): value for name, value in headers.items()}
    assert verify_webhook(secret, titled, body) == json.loads(body)
    for wrong, wrong_body in ((secret[:-4] + "AAA=", body), (secret, body + b" ")):
        with pytest.raises(InvalidSignature, match="signature"):
            verify_webhook(wrong, headers, wrong_body)
    with pytest.raises(InvalidSignature, match="signed"):
        verify_webhook(secret, headers, body, tolerance_seconds=-1)
    with pytest.raises(InvalidSignature, match="headers"):
        verify_webhook(secret, {}, body)


def test_webhook_is_created_updated_rotated_and_deleted(shell: Shell) -> None:
    url = "https://example.com/hooks"
    webhook = shell.json("webhooks", "create", url, "--description", "Ours")
    assert webhook["secret"].startswith("whsec_")
    assert webhook["id"] in shell.text("webhooks", "list")
    assert shell.json("webhooks", "list", "--limit", 1)[0]["id"] == webhook["id"]
    changed = shell.json("webhooks", "update", webhook["id"], "--event", "dataset.ready", "--disable")
    assert (changed["events"], changed["status"]) == (["dataset.ready"], "disabled")
    assert shell.run("webhooks", "test", webhook["id"]).exit_code == 5
    assert shell.json("webhooks", "update", webhook["id"], "--all-events", "--enable")["events"] is None
    assert "Ours" in shell.text("webhooks", "get", webhook["id"])
    assert shell.json("webhooks", "update", webhook["id"], "--no-events")["events"] == []
    assert "none" in shell.text("webhooks", "list")
    rotated = shell.json("webhooks", "rotate", webhook["id"], "--overlap", 1)
    assert rotated["secret"] not in {None, webhook["secret"]}
    sent = shell.json("webhooks", "test", webhook["id"])
    assert sent["type"] == "webhook.test"
    assert "webhook.test" in shell.text("webhooks", "deliveries", webhook["id"])
    assert shell.run("webhooks", "create", "ftp://example.com").exit_code == 6
    assert shell.json("webhooks", "delete", webhook["id"], "--yes") == {"deleted": webhook["id"]}
    assert shell.run("webhooks", "get", webhook["id"]).exit_code == 4


def test_secret_whose_response_was_lost_is_replaced(server: Server) -> None:
    with proxied(server.url) as proxy, Client(proxy.url, server.key) as client:
        proxy.faults = ["lose answer"]
        webhook = client.webhooks.create("https://example.com/hooks", ["adapter.promoted"])
        assert webhook.secret
        assert [row.id for row in client.webhooks.list() if row.events == ["adapter.promoted"]] == [webhook.id]
        proxy.faults = ["lose answer"]
        rotated = client.webhooks.rotate(webhook.id)
        assert rotated.secret not in {None, webhook.secret}
        delivery = client.webhooks.test(webhook.id)
        assert client.webhooks.delivery(webhook.id, delivery.id).payload == delivery.payload
        client.webhooks.delete(webhook.id)
        with pytest.raises(errors.NotFound):
            client.webhooks.get(webhook.id)
