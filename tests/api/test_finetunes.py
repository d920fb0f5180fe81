import json
from typing import Any

import pytest

from api.deps import Services
from core.artifact.sites import METHODS
from core.service import jobs
from core.service.db.models import Adapter, Finetune
from tests.api.client import (
    BASE,
    PNG_START,
    Client,
    adapter_file,
    finish_finetune,
    images_zip,
    problem,
    start_finetunes,
    validate_datasets,
)
from tests.api.conftest import finetuned


def events(client: Client, id: str, last: int | None = None) -> list[tuple[int, str, dict[str, Any]]]:
    """Returns (id, type, data) of each event of a stream that ends."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    response = client.get(f"/v1/finetunes/{id}/events", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    received = []
    for block in response.text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        received.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return received


def test_finetune_runs_from_queued_to_an_adapter(tenant: Client, domain: str, dataset: str, services: Services) -> None:
    sent = tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "steps": 10})
    assert sent.status_code == 202
    finetune = sent.json()
    path = f"/v1/finetunes/{finetune['id']}"
    assert (finetune["status"], finetune["step"], finetune["steps"]) == ("queued", 0, 10)
    assert (finetune["method"], finetune["preset"], finetune["batch_size"]) == ("difffit", "paper", 32)
    assert tenant.read(f"{path}/metrics") == {"data": [], "evaluations": []}

    (claim,) = start_finetunes(services)
    running = tenant.read(path)
    assert (running["status"], running["step"], running["loss"]) == ("running", 10, 0.3)
    assert running["trainable_parameters"] == 1234

    finish_finetune(services, claim)
    done = tenant.read(path)
    assert (done["status"], done["held_out_loss_base"], done["held_out_loss_adapter"]) == ("succeeded", 0.5, 0.2)
    assert done["held_out_loss_adapter_null"] is None
    assert done["error"] is None
    assert tenant.read(f"/v1/domains/{domain}")["active_adapter_id"] == done["adapter_id"]
    assert tenant.read(f"/v1/domains/{domain}/finetunes")["data"] == [done]
    assert (done["adapter_step"], done["stop_reason"]) == (5, "early_stopping")
    curve = tenant.read(f"{path}/metrics")
    assert curve["evaluations"] == [{"step": 5, "held_out_loss": 0.25, "best_step": 5}]
    points = curve["data"]
    assert [(point["step"], point["loss"], point["gradient_norm"]) for point in points] == [
        (5, 0.4, 0.2),
        (10, 0.3, 0.1),
    ]
    problem(tenant.post(f"{path}/cancel"), 409, "already_finished")


def test_long_stream_of_an_ended_finetune_is_complete(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    id = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "steps": 10})["id"]
    (claim,) = start_finetunes(services)
    with services.database.session() as session:
        row = session.get_one(Finetune, id)
        for step in range(1100):  # more than two pages
            jobs.report(session, row, "progress", {"step": step})
    finish_finetune(services, claim)
    received = events(tenant, id)
    assert len(received) == 1100 + 7
    assert received[-1][2]["status"] == "succeeded"


def test_events_are_replayed_and_resumed(
    tenant: Client, domain: str, dataset: str, adapter: str, api_client: Client
) -> None:
    (finetune,) = tenant.read(f"/v1/domains/{domain}/finetunes")["data"]
    id = finetune["id"]
    received = events(tenant, id)
    assert [type for _, type, _ in received] == [
        "status",
        "status",
        "progress",
        "evaluation",
        "sample",
        "progress",
        "status",
    ]
    assert [data["status"] for _, type, data in received if type == "status"] == ["queued", "running", "succeeded"]
    ids = [number for number, _, _ in received]
    assert ids == sorted(set(ids))
    assert events(tenant, id, last=ids[2]) == received[3:]

    ended = tenant.get(f"/v1/finetunes/{id}/events", headers={"Last-Event-ID": str(ids[-1])})
    assert (ended.status_code, ended.content) == (204, b"")
    problem(tenant.get(f"/v1/finetunes/{id}/events", headers={"Last-Event-ID": "x"}), 422, "invalid_request")
    problem(tenant.get(f"/v1/finetunes/{id}/events", headers={"Last-Event-ID": "9" * 30}), 422, "invalid_request")

    number, _, sample = received[4]
    assert sample.keys() == {"step", "url"}
    image = api_client.get(sample["url"])
    assert image.headers["content-type"] == "image/png"
    assert image.content.startswith(PNG_START)
    path = f"/v1/finetunes/{id}/samples/{number}"
    assert tenant.get(path).content == image.content
    problem(api_client.get(path), 401, "unauthenticated")
    problem(tenant.get(f"/v1/finetunes/{id}/samples/{number - 1}"), 404, "not_found")
    problem(tenant.get(f"/v1/finetunes/{id}/samples/{2**53 - 1}"), 404, "not_found")


def test_training_settings_reach_the_worker_and_come_back(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    settings = {"sampling": "balanced", "evaluate_every": 10, "keep": "last", "early_stopping": 3}
    sent = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, **settings})
    plain = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset})
    assert {name: sent[name] for name in settings} == settings
    defaults = {"sampling": "shuffled", "evaluate_every": 25, "keep": "best", "early_stopping": None}
    assert {name: plain[name] for name in settings} == defaults
    with services.database.session() as session:
        training = session.get_one(Finetune, sent["id"]).training
    assert (training.sampling, training.evaluate_every, training.early_stopping) == ("balanced", 10, 3)
    assert training.keeps_best


@pytest.mark.parametrize("invalid", [{"evaluate_every": 0}, {"early_stopping": 0}, {"keep": "first"}, {"sampling": ""}])
def test_invalid_training_settings_are_rejected(
    tenant: Client, domain: str, dataset: str, invalid: dict[str, Any]
) -> None:
    answer = tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, **invalid})
    problem(answer, 422, "invalid_request")


def test_queued_finetune_is_cancelled_immediately(tenant: Client, domain: str, dataset: str) -> None:
    finetune = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset})
    cancelled = tenant.post(f"/v1/finetunes/{finetune['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert [data["status"] for _, _, data in events(tenant, finetune["id"])] == ["queued", "cancelled"]


def test_dry_run_estimates_and_stores_nothing(tenant: Client, domain: str, dataset: str) -> None:
    body = {"dataset_id": dataset, "dry_run": True, "steps": 10, "batch_size": 8}
    estimate = tenant.post(f"/v1/domains/{domain}/finetunes", body)
    assert estimate.status_code == 200
    costs = estimate.json()
    assert (costs["images_seen"], costs["epochs"]) == (80, 20.0)
    assert costs["suggested_steps"] == 100
    uploaded = tenant.upload(f"/v1/domains/{domain}/adapters", adapter_file()).json()
    assert costs["adapter_bytes"] < uploaded["size_bytes"] < costs["adapter_bytes"] + 2000
    assert costs["trainable_fraction"] == pytest.approx(costs["trainable_parameters"] / 100_000)
    assert tenant.read(f"/v1/domains/{domain}/finetunes")["data"] == []


def test_estimate_has_memory_and_images_per_pass(
    tenant: Client, domain: str, dataset: str, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, body = f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "dry_run": True}
    small, large = (tenant.made(path, body | {"batch_size": 8, "image_size": size}) for size in (32, 64))
    assert small["images_at_once"] == large["images_at_once"] == 8
    assert large["memory_bytes"] == 4 * small["memory_bytes"] > 0
    monkeypatch.setattr(services.settings, "training_memory_bytes", small["memory_bytes"] - 1)
    split = tenant.made(path, body | {"batch_size": 8})
    assert split["images_at_once"] == 7
    assert split["memory_bytes"] < small["memory_bytes"]
    monkeypatch.setattr(services.settings, "training_memory_bytes", 1000)
    too_large = tenant.made(path, body | {"batch_size": 8})
    assert too_large["images_at_once"] == 0, "not even one image fits"
    assert 1000 < too_large["memory_bytes"] < split["memory_bytes"]


def test_image_size_must_be_the_bases_or_twice_that(tenant: Client, domain: str, dataset: str) -> None:
    path, body = f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "batch_size": 3}
    finetunes = [tenant.made(path, body | {"image_size": size}) for size in (None, 32, 64)]
    assert [finetune["image_size"] for finetune in finetunes] == [None, None, 64]
    tokens = [tenant.made(path, body | {"image_size": size, "dry_run": True})["tokens"] for size in (32, 64)]
    assert tokens == [3 * 4, 3 * 16]
    for more in ({}, {"dry_run": True}):
        problem(tenant.post(path, body | {"image_size": 48} | more), 422, "image_size_unsupported")


@pytest.mark.parametrize("dry_run", [False, True])
def test_class_table_stays_frozen_only_for_classes_of_the_base(
    tenant: Client, domain: str, dataset: str, services: Services, dry_run: bool
) -> None:
    path, body = f"/v1/domains/{domain}/finetunes", {"train_class_table": False, "dry_run": dry_run}
    own = tenant.upload(f"/v1/domains/{domain}/datasets", images_zip(("circle", "square"))).json()["id"]
    validate_datasets(services)
    frozen = tenant.made(path, body | {"dataset_id": own})
    trained = tenant.made(path, body | {"dataset_id": own, "train_class_table": True})
    if dry_run:
        table = 3 * BASE.config.hidden_size  # two classes and the null class
        assert trained["trainable_parameters"] - frozen["trainable_parameters"] == table
    else:
        assert (frozen["train_class_table"], trained["train_class_table"]) == (False, True)
    refused = problem(tenant.post(path, body | {"dataset_id": dataset}), 422, "invalid_request")
    assert refused["errors"] == [
        {"field": "body.train_class_table", "detail": "must be true: the base has no class apple, pear"}
    ]


def test_class_table_stays_frozen_for_classes_of_the_version_to_continue_from(
    tenant: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    path, body = f"/v1/domains/{domain}/finetunes", {"train_class_table": False, "from_adapter_id": adapter}
    assert tenant.made(path, body | {"dataset_id": dataset})["train_class_table"] is False
    more = tenant.upload(f"/v1/domains/{domain}/datasets", images_zip(("apple", "circle", "plum"))).json()["id"]
    validate_datasets(services)
    refused = problem(tenant.post(path, body | {"dataset_id": more}), 422, "invalid_request")
    reason = "must be true: the base and the version to continue from have no class plum"
    assert refused["errors"] == [{"field": "body.train_class_table", "detail": reason}]


def test_dataset_must_be_ready_and_belong_to_the_domain(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    fresh = tenant.upload(f"/v1/domains/{domain}/datasets", images_zip(("x", "y"))).json()["id"]
    problem(tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": fresh}), 409, "dataset_not_ready")
    second = tenant.made("/v1/domains", {"name": "Second"})["id"]
    problem(tenant.post(f"/v1/domains/{second}/finetunes", {"dataset_id": dataset}), 404, "not_found")
    problem(tenant.post(f"/v1/domains/{domain}/finetunes", {"dataset_id": "ds_\u0000"}), 422, "invalid_request")


def test_later_versions_wait_for_promotion_unless_asked(
    tenant: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    finetuned(tenant, domain, dataset, services, seed=1)
    assert tenant.read(f"/v1/domains/{domain}")["active_adapter_id"] == adapter
    body = {"dataset_id": dataset, "steps": 10, "auto_promote": True}
    third = tenant.made(f"/v1/domains/{domain}/finetunes", body)
    for claim in start_finetunes(services):
        finish_finetune(services, claim, seed=2)
    promoted = tenant.read(f"/v1/finetunes/{third['id']}")["adapter_id"]
    assert tenant.read(f"/v1/domains/{domain}")["active_adapter_id"] == promoted


@pytest.mark.parametrize(
    "change",
    [{"steps": 0}, {"steps": 100_001}, {"steps": "10"}, {"steps": 1.5}, {"steps": 10**400}, {"steps": True},
     {"batch_size": 0}, {"batch_size": 1025}, {"learning_rate": 0}, {"learning_rate": 2}, {"seed": -1},
     {"seed": 2**53}, {"method": 1}, {"preset": "mine"}, {"dry_run": 1}, {"epochs": 3}],
)  # fmt: skip
def test_settings_outside_the_limits_are_rejected(tenant: Client, domain: str, change: dict[str, object]) -> None:
    body = {"dataset_id": "ds_x", **change}
    error = problem(tenant.post(f"/v1/domains/{domain}/finetunes", body), 422, "invalid_request")
    assert error["errors"][0]["field"] == f"body.{next(iter(change))}"


@pytest.mark.parametrize("method", ["full", "lora", "adaptformer", "vpt", "dreambooth"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_unserved_method_is_rejected_with_the_served_ones(
    tenant: Client, domain: str, dataset: str, method: str, dry_run: bool
) -> None:
    body = {"dataset_id": dataset, "method": method, "dry_run": dry_run}
    error = problem(tenant.post(f"/v1/domains/{domain}/finetunes", body), 422, "method_not_served")
    assert error["errors"][0]["field"] == "body.method"
    assert f"'{method}' is not served; use difffit or bitfit" in error["detail"]
    assert "`difffit train --method` trains full, lora, adaptformer, vpt without a server." in error["detail"]
    assert tenant.read(f"/v1/domains/{domain}/finetunes")["data"] == []


def test_each_served_method_is_accepted(tenant: Client, domain: str, dataset: str) -> None:
    for method in METHODS:
        finetune = tenant.made(f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "method": method})
        assert finetune["method"] == method


def test_largest_seed_is_stored_exactly(tenant: Client, domain: str, dataset: str) -> None:
    body = {"dataset_id": dataset, "seed": 2**53 - 1}
    finetune = tenant.made(f"/v1/domains/{domain}/finetunes", body)
    assert tenant.read(f"/v1/finetunes/{finetune['id']}")["seed"] == 2**53 - 1
    tenant.made(f"/v1/finetunes/{finetune['id']}/cancel")


def test_learned_guidance_is_stored_and_estimated(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    path, body = f"/v1/domains/{domain}/finetunes", {"dataset_id": dataset, "steps": 40}
    plain, learning = tenant.made(path, body), tenant.made(path, body | {"distill_guidance": 3, "distill_steps": 15})
    assert (plain["distill_guidance"], learning["distill_guidance"], learning["distill_steps"]) == (None, 3, 15)
    with services.database.session() as session:
        training = session.get_one(Finetune, learning["id"]).training
    assert (training.before_distillation.steps, training.distillation.steps) == (25, 15)
    costs = [tenant.made(path, body | {"dry_run": True} | more) for more in ({}, {"distill_guidance": 3})]
    assert costs[1]["trainable_parameters"] == costs[0]["trainable_parameters"]
    assert costs[1]["adapter_bytes"] > 1.9 * costs[0]["adapter_bytes"]
    for scale in (1, 11):
        problem(tenant.post(path, body | {"distill_guidance": scale}), 422, "invalid_request")
    for dry_run in (False, True):
        single = body | {"steps": 1, "distill_guidance": 3, "dry_run": dry_run}
        assert problem(tenant.post(path, single), 422, "invalid_request")["errors"][0]["field"] == "steps"


def test_estimate_has_a_time_after_the_first_finetune(
    tenant: Client, domain: str, dataset: str, services: Services
) -> None:
    body = {"dataset_id": dataset, "steps": 10, "batch_size": 8, "dry_run": True}
    path = f"/v1/domains/{domain}/finetunes"
    assert tenant.made(path, body)["seconds"] is None
    finetuned(tenant, domain, dataset, services)
    took = tenant.read(path)["data"][0]
    assert took["seconds"] == 3.0
    images = took["steps"] * took["batch_size"]
    assert tenant.made(path, {**body, "steps": 40})["seconds"] == pytest.approx(3.0 / images * 40 * 8)
    learning = {**body, "steps": 40, "distill_guidance": 2, "distill_steps": 15}
    assert tenant.made(path, learning)["seconds"] == pytest.approx(3.0 / images * (40 + 15) * 8)


def test_fine_tune_continues_from_a_version_with_its_method_and_size(
    tenant: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    path = f"/v1/domains/{domain}/finetunes"
    body = {"dataset_id": dataset, "steps": 10, "from_adapter_id": adapter}
    started = tenant.made(path, body)
    assert (started["from_adapter_id"], started["method"], started["preset"]) == (adapter, "difffit", "paper")
    assert tenant.read(f"{path}")["data"][1]["from_adapter_id"] is None
    assert tenant.made(path, body | {"method": "difffit", "preset": "paper", "image_size": None})["id"]
    assert tenant.made(path, body | {"dry_run": True})["trainable_parameters"] > 0
    for stated in ({"method": "bitfit"}, {"preset": "literal"}, {"image_size": 2 * BASE.image_size}):
        refused = problem(tenant.post(path, body | stated), 422, "invalid_request")
        assert refused["errors"][0]["field"] == f"body.{next(iter(stated))}"
    problem(tenant.post(path, body | {"from_adapter_id": "adp_nothing"}), 404, "not_found")
    version = finetuned(tenant, domain, dataset, services)
    tenant.made(f"/v1/domains/{domain}/adapters/{version}/promote")
    unfinished = tenant.made(path, body)["id"]
    used = problem(tenant.delete(f"/v1/adapters/{adapter}"), 409, "adapter_in_use")
    assert unfinished in used["detail"]


def test_domain_stays_while_another_domain_continues_from_its_version(
    tenant: Client, domain: str, adapter: str, services: Services
) -> None:
    elsewhere = tenant.made("/v1/domains", {"name": "Elsewhere"})["id"]
    dataset = tenant.upload(f"/v1/domains/{elsewhere}/datasets", images_zip()).json()["id"]
    validate_datasets(services)
    body = {"dataset_id": dataset, "steps": 10, "from_adapter_id": adapter}
    id = tenant.made(f"/v1/domains/{elsewhere}/finetunes", body)["id"]
    assert id in problem(tenant.delete(f"/v1/domains/{domain}"), 409, "domain_in_use")["detail"]
    tenant.made(f"/v1/finetunes/{id}/cancel")
    assert tenant.delete(f"/v1/domains/{domain}").status_code == 204


def test_version_of_another_tenant_or_base_is_not_continued(
    tenant: Client, other: Client, domain: str, dataset: str, adapter: str, services: Services
) -> None:
    theirs = other.made("/v1/domains", {"name": "theirs"})["id"]
    uploaded = other.made(f"/v1/domains/{theirs}/adapters", files={"file": ("a", adapter_file())})["id"]
    body = {"dataset_id": dataset, "from_adapter_id": uploaded}
    problem(tenant.post(f"/v1/domains/{domain}/finetunes", body), 404, "not_found")
    with services.database.session() as session:
        session.get_one(Adapter, adapter).base_digest = "c" * 64
    body = {"dataset_id": dataset, "from_adapter_id": adapter}
    problem(tenant.post(f"/v1/domains/{domain}/finetunes", body), 409, "base_mismatch")


def test_fine_tunes_of_all_domains_are_listed_by_filters(
    tenant: Client, other: Client, domain: str, dataset: str, adapter: str
) -> None:
    path = f"/v1/domains/{domain}/finetunes"
    more = tenant.made(path, {"dataset_id": dataset, "from_adapter_id": adapter})["id"]
    first = tenant.read(f"/v1/adapters/{adapter}")["finetune_id"]

    def listed(**filters: str) -> list[str]:
        rows = tenant.read("/v1/finetunes", params=filters)["data"]
        assert rows == tenant.read(path, params=filters)["data"]
        return [row["id"] for row in rows]

    assert listed() == listed(dataset_id=dataset) == [more, first]
    assert listed(from_adapter_id=adapter) == listed(status="queued") == [more]
    assert listed(dataset_id="ds_nothing") == listed(created_before="2020-01-01T00:00:00Z") == []
    assert listed(created_after="2020-01-01T00:00:00Z", status="succeeded") == [first]
    assert other.read("/v1/finetunes")["data"] == []
    problem(tenant.get("/v1/finetunes", params={"dataset": dataset}), 422, "invalid_request")
    problem(tenant.get("/v1/finetunes", params={"cursor": "garbage"}), 422, "invalid_cursor")
