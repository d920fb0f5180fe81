"""Webhooks by command and SDK, from a real worker to a real receiver."""

import time
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Verifier

from difffit import Client, errors
from tests.client.conftest import Drawable, Server
from tests.client.proxy import proxied
from tests.client.test_commands import Shell
from tests.receiver import receiving


@pytest.fixture
def shell(server: Server) -> Shell:
    return Shell(server.url, server.key)


def test_from_a_generation_to_its_event(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    with receiving() as receiver:
        made = shell.json("webhooks", "create", receiver.url, "--event", "generation.succeeded")
        drawn = shell.json("generate", drawable.id, "fruit", "--steps", 2, "--output", tmp_path)
        while not receiver.received:
            time.sleep(0.05)
        headers, body = receiver.received[0]
        event = Verifier(made["secret"]).verify(body, headers)
        assert (event["type"], event["data"]["id"]) == ("generation.succeeded", drawn["id"])
        while not (told := shell.json("webhooks", "deliveries", made["id"], "--status", "succeeded")):
            time.sleep(0.05)
        assert (told[0]["id"], told[0]["attempts"][0]["response_status"]) == (headers["webhook-id"], 204)
        shell.text("webhooks", "redeliver", made["id"], told[0]["id"])
        while len(receiver.received) < 2:
            time.sleep(0.05)
        assert receiver.received[1][0]["webhook-id"] == told[0]["id"]
    shell.json("webhooks", "delete", made["id"], "--yes")


def test_commands(shell: Shell) -> None:
    url = "https://example.com/hooks"
    made = shell.json("webhooks", "create", url, "--description", "Ours")
    assert made["secret"].startswith("whsec_")
    assert made["id"] in shell.text("webhooks", "list")
    assert shell.json("webhooks", "list", "--limit", 1)[0]["id"] == made["id"]
    changed = shell.json("webhooks", "update", made["id"], "--event", "dataset.ready", "--disable")
    assert (changed["events"], changed["status"]) == (["dataset.ready"], "disabled")
    assert shell.run("webhooks", "test", made["id"]).exit_code == 5
    assert shell.json("webhooks", "update", made["id"], "--all-events", "--enable")["events"] is None
    assert "Ours" in shell.text("webhooks", "get", made["id"])
    rotated = shell.json("webhooks", "rotate", made["id"], "--overlap", 1)
    assert rotated["secret"] not in {None, made["secret"]}
    sent = shell.json("webhooks", "test", made["id"])
    assert sent["type"] == "webhook.test"
    assert "webhook.test" in shell.text("webhooks", "deliveries", made["id"])
    assert shell.run("webhooks", "create", "ftp://example.com").exit_code == 6
    assert shell.json("webhooks", "delete", made["id"], "--yes") == {"deleted": made["id"]}
    assert shell.run("webhooks", "get", made["id"]).exit_code == 4


def test_a_secret_whose_answer_was_lost_is_replaced(server: Server) -> None:
    with proxied(server.url) as proxy, Client(proxy.url, server.key) as client:
        proxy.faults = ["lose answer"]
        made = client.webhooks.create("https://example.com/hooks", ["adapter.promoted"])
        assert made.secret
        assert [one.id for one in client.webhooks.list() if one.events == ["adapter.promoted"]] == [made.id]
        proxy.faults = ["lose answer"]
        rotated = client.webhooks.rotate(made.id)
        assert rotated.secret not in {None, made.secret}
        delivery = client.webhooks.test(made.id)
        assert client.webhooks.delivery(made.id, delivery.id).payload == delivery.payload
        client.webhooks.delete(made.id)
        with pytest.raises(errors.NotFound):
            client.webhooks.get(made.id)
