"""Request id and trace of a request reach its job: an API process, a worker process, and a receiver of OpenTelemetry
data."""

import gzip
import json
from pathlib import Path

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests import processes
from tests.processes import ADMIN, Caller
from tests.receiver import Receiver, receiving

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
REQUEST = "asked-by-a-test"


def test_job_carries_the_trace_of_its_request(tmp_path: Path) -> None:
    with receiving() as collector:
        environment = {
            "DIFFFIT_DATA_DIR": str(tmp_path / "data"),
            "DIFFFIT_TRACES_ENDPOINT": f"http://127.0.0.1:{collector.port}/v1/traces",
            "DIFFFIT_LOG_JSON": "true",
        }
        with processes.running(environment, tmp_path) as url, httpx.Client(base_url=url, timeout=60) as http:
            id = draw(http)
    assert "POST /v1/domains/{id}/generations" in names(collector, "difffit-api")
    assert "generate.run" in names(collector, "difffit-worker")
    assert any(name.startswith("SELECT") for name in names(collector, "difffit-worker")), "statements are spans too"
    lines = [json.loads(line) for line in (tmp_path / "worker.log").read_text().splitlines() if line.startswith("{")]
    job_lines = [line for line in lines if line.get("job_id") == id]
    assert f"{id} succeeded" in [line["event"] for line in job_lines]
    assert all(line["request_id"] == REQUEST and line["attempt"] == 1 for line in job_lines)


def draw(http: httpx.Client) -> str:
    """Returns the id of a generation that has ended."""
    admin = Caller(http, ADMIN)
    tenant = admin.post("/v1/admin/tenants", {"name": "Traced"})["id"]
    caller = Caller(http, admin.post(f"/v1/admin/tenants/{tenant}/keys", {"name": "laptop"})["key"])
    domain = caller.post("/v1/domains", {"name": "Traced"})["id"]
    path, body = f"/v1/domains/{domain}/generations", {"class_id": 0, "adapter_id": "base", "steps": 2}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-ID": REQUEST}
    id: str = caller.send("POST", path, json=body, headers=headers).raise_for_status().json()["id"]
    assert caller.wait(f"/v1/generations/{id}", "queued", "running")["status"] == "succeeded"
    return id


def names(collector: Receiver, service: str) -> set[str]:
    """Returns the names of a service's spans in the test's trace."""
    span_names = set()
    for headers, body in collector.received:
        data = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            facts = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            if facts["service.name"] == service:
                spans = [span for scope in resource.scope_spans for span in scope.spans]
                span_names |= {span.name for span in spans if span.trace_id.hex() == TRACE}
    return span_names
