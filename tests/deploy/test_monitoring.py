"""Alerts and dashboard use only metrics and labels that the service exposes."""

import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from sqlalchemy.orm import Session

from api import middleware
from core.service import jobs
from core.service.db.models import Finetune, Generation
from core.service.db.session import Database, database_now
from core.service.finetunes import recording
from core.service.jobs import ladder
from core.service.storage import FolderStore, objects
from core.service.storage.errors import StorageUnavailable
from core.service.tenancy import Scope
from tests.core.service.rows import add_finetune, add_generation, tenant_with_domain
from tests.deploy.test_compose import OURS
from tests.deploy.test_kubernetes import BASE, SERVICE_PODS, kustomization
from tests.worker.test_metrics import gpu, settings  # noqa: F401  # fixtures: a real engine on the bundled base
from worker import metrics, webhooks
from worker.gpu import Gpu

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
ALERTS = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
PANELS = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
SCRAPED = {"up": {"job", "instance"}}
"""Series that Prometheus adds by itself, with their labels."""


def test_every_expression_uses_existing_metrics(database: Database, gpu: Gpu) -> None:  # noqa: F811
    scope, domain = tenant_with_domain(database)
    with database.session() as session:
        add(session, scope, domain, "failed")
    series = SCRAPED | exposed(database, gpu)
    for expression in expressions():
        for selector in selectors(promql_parser.parse(expression)):
            assert selector.name in series, expression
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked <= series[selector.name] | {"job", "instance"}, expression
        for label in grouped(promql_parser.parse(expression)):
            assert any(label in labels for labels in series.values()), expression


def test_each_alert_has_a_runbook() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "runbook"} <= set(alert["annotations"])
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names)


def test_each_panel_has_a_position_and_legends() -> None:
    places = set()
    for panel in PANELS:
        assert panel["type"] == "timeseries"
        assert panel["datasource"]["uid"] == "${source}"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        assert all(target["legendFormat"] for target in panel["targets"])
    assert len(places) == len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_prometheus_loads_the_rules_and_scrapes_both() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [(FOLDER / name).is_file() for name in config["rule_files"]] == [True]
    names = {
        (name, target["port"])
        for job in config["scrape_configs"]
        for target in job["dns_sd_configs"]
        for name in target["names"]
    }
    workers = {
        (name, int(OURS[name]["environment"]["DIFFFIT_METRICS_PORT"]))
        for name in OURS
        if "worker" in name and "embedded" not in name
    }
    assert names == {("api", int(OURS["api"]["environment"]["DIFFFIT_API_METRICS_PORT"])), *workers}


def test_kubernetes_targets_get_the_job_names_of_the_alerts() -> None:
    """Applies the relabelling rules to the targets that Prometheus makes of the pods: one for each port."""
    (scrape,) = yaml.safe_load((FOLDER / "kubernetes.yml").read_text())["scrape_configs"]
    (discovery,) = scrape["kubernetes_sd_configs"]
    assert discovery == {"role": "pod", "namespaces": {"names": [kustomization(BASE)["namespace"]]}}
    targets = set()
    for (variant, name), pod in SERVICE_PODS.items():
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                labels = relabelled(scrape["relabel_configs"], discovered(name, pod["metadata"], port["name"]))
                if labels is not None:
                    assert labels["pod"] == name
                    targets.add((variant, labels["job"], port["containerPort"]))
    jobs = {job["job_name"] for job in yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]}
    asked = {
        matcher.value
        for expression in expressions()
        for selector in selectors(promql_parser.parse(expression))
        for matcher in selector.matchers.matchers
        if matcher.name == "job"
    }
    assert jobs == asked == {job for _, job, _ in targets}
    assert targets == {
        (variant, f"difffit-{part}", port)
        for variant in ("base", "gpu")
        for part, port in (("api", 9101), ("worker", 9100))
    }


def discovered(name: str, metadata: dict[str, Any], port: str) -> dict[str, str]:
    """Returns the labels that Prometheus' discovery gives to a port of a pod."""
    labels = {"__meta_kubernetes_pod_name": name, "__meta_kubernetes_pod_container_port_name": port}
    for kind in ("label", "annotation"):
        for key, value in metadata.get(f"{kind}s", {}).items():
            labels[f"__meta_kubernetes_pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"] = value
    return labels


def relabelled(rules: list[dict[str, Any]], labels: dict[str, str]) -> dict[str, str] | None:
    """Returns a target's labels after the rules, which keep or copy, or None if a rule drops the target."""
    for rule in rules:
        value = labels.get(*rule["source_labels"], "")
        if rule.get("action") == "keep":
            if not re.fullmatch(rule["regex"], value):
                return None
        else:
            labels[rule["target_label"]] = value
    return labels


def test_queues_are_counted_from_database_rows(database: Database) -> None:
    scope, domain = tenant_with_domain(database)
    with database.session() as session:
        for status in ("queued", "queued", "failed"):
            add(session, scope, domain, status)
    with database.session() as session:
        assert jobs.claim_next(session, Generation, "wrk_1", 60) is not None
    values = {
        (sample.name, sample.labels.get("queue"), sample.labels.get("code")): sample.value
        for family in metrics.JobsCollector(database).collect()
        for sample in family.samples
    }
    assert values["difffit_jobs_waiting", "generate", None] == 1
    assert values["difffit_jobs_running", "generate", None] == 1
    assert values["difffit_jobs_failed", "generate", "drawing_diverged"] == 1
    assert values["difffit_jobs_oldest_seconds", "generate", None] >= 0
    assert values["difffit_jobs_waiting", "finetune", None] == 0


def test_metric_shows_the_time_since_the_last_checkpoint(database: Database) -> None:
    assert unkept(database) == 0
    scope, domain = tenant_with_domain(database)
    with database.session() as session:
        before = database_now(session) - datetime.timedelta(minutes=10)
        late = {"status": "running", "started_at": before, "lease_expires_at": database_now(session)}
        row = add_finetune(session, scope, domain, **late)
    assert 600 <= unkept(database) < 660
    with database.session() as session:
        stored = objects.StoredObject("checkpoint", "0" * 64, 1)
        recording.record_checkpoint(session, session.get_one(Finetune, row), 50, stored)
    assert unkept(database) < 60


def unkept(database: Database) -> float:
    families = {family.name: family for family in metrics.JobsCollector(database).collect()}
    value: float = families["difffit_finetunes_unkept_seconds"].samples[0].value
    return value


def test_unavailable_store_is_counted(tmp_path: Path) -> None:
    counted = objects.ERRORS.labels("storage_unavailable")
    before = counted._value.get()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable):
        FolderStore(tmp_path / "file").put("key", b"data")
    assert counted._value.get() == before + 1


def add(session: Session, scope: Scope, domain: str, status: str) -> None:
    failure = {"error_code": "drawing_diverged", "finished_at": database_now(session)} if status == "failed" else {}
    add_generation(session, scope, domain, status=status, **failure)


def exposed(database: Database, engine: Gpu) -> dict[str, set[str]]:
    """Returns the labels of every series that the API and a worker expose."""
    middleware.REQUESTS.labels("GET", "/v1/domains", "200").inc()
    middleware.SECONDS.labels("GET", "/v1/domains").observe(0.1)
    ladder.REAPED.labels("generate").inc()
    metrics.ended("succeeded", {"total": 0.1})
    webhooks.DELIVERIES.labels("taken").inc()
    objects.ERRORS.labels("storage_unavailable").inc()
    worker = CollectorRegistry()
    worker.register(metrics.EngineCollector(engine.engine))
    worker.register(metrics.JobsCollector(database))
    families: list[Metric] = [*REGISTRY.collect(), *worker.collect()]
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


def expressions() -> list[str]:
    return [alert["expr"] for alert in ALERTS] + [target["expr"] for panel in PANELS for target in panel["targets"]]


def selectors(node: Any) -> Iterator[Any]:
    for inner in walk(node):
        if isinstance(inner, promql_parser.VectorSelector):
            yield inner


def grouped(node: Any) -> Iterator[str]:
    for inner in walk(node):
        if isinstance(inner, promql_parser.AggregateExpr) and inner.modifier is not None:
            yield from inner.modifier.labels


def walk(node: Any) -> Iterator[Any]:
    """Yields the nodes of a parsed expression."""
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "args"):
        inner = getattr(node, name, None)
        for child in inner if isinstance(inner, list) else [inner]:
            if child is not None:
                yield from walk(child)
