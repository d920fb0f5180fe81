"""The OpenAPI document, from which clients are generated."""

import json
import re
from typing import Any, get_args

import pytest
from openapi_spec_validator import validate

from core.artifact.sampling import SamplingSettings
from core.artifact.sites import METHODS, PRESETS
from core.artifact.training import DEFAULT_TRAINING
from core.service.finetunes.service import FinetuneRequest
from core.service.generations import GenerationRequest
from tests.api.client import Client

CONTRACT = """
POST /v1/admin/tenants 201
GET /v1/admin/tenants 200
GET /v1/admin/tenants/{id} 200
PATCH /v1/admin/tenants/{id} 200
DELETE /v1/admin/tenants/{id} 204
POST /v1/admin/tenants/{id}/keys 201
POST /v1/admin/keys 201
GET /v1/admin/keys 200
PATCH /v1/admin/keys/{id} 200
POST /v1/admin/keys/{id}/rotate 201
DELETE /v1/admin/keys/{id} 204
POST /v1/domains 201
GET /v1/domains 200
GET /v1/domains/{id} 200
PATCH /v1/domains/{id} 200
DELETE /v1/domains/{id} 204
POST /v1/domains/{id}/datasets 202
GET /v1/domains/{id}/datasets 200
POST /v1/domains/{id}/datasets/uploads 201
GET /v1/domains/{id}/datasets/uploads/{upload_id} 200
POST /v1/domains/{id}/datasets/uploads/{upload_id}/complete 202
DELETE /v1/domains/{id}/datasets/uploads/{upload_id} 204
GET /v1/domains/{id}/finetunes 200
GET /v1/domains/{id}/generations 200
GET /v1/datasets/{id} 200
GET /v1/datasets/{id}/download 200
POST /v1/domains/{id}/finetunes 202
GET /v1/finetunes/{id} 200
GET /v1/finetunes/{id}/events 200
GET /v1/finetunes/{id}/metrics 200
POST /v1/finetunes/{id}/cancel 202
GET /v1/domains/{id}/adapters 200
POST /v1/domains/{id}/adapters 201
GET /v1/adapters/{id} 200
GET /v1/adapters/{id}/download 200
POST /v1/domains/{id}/adapters/{adapter_id}/promote 200
POST /v1/domains/{id}/generations 202
POST /v1/domains/{id}/generations/batches 202
GET /v1/generations/{id} 200
GET /v1/generations/{id}/images/{index} 200
POST /v1/generations/{id}/cancel 202
GET /v1/base 200
GET /v1/usage 200
POST /v1/webhooks 201
GET /v1/webhooks 200
GET /v1/webhooks/{id} 200
PATCH /v1/webhooks/{id} 200
DELETE /v1/webhooks/{id} 204
POST /v1/webhooks/{id}/rotate 200
POST /v1/webhooks/{id}/test 202
GET /v1/webhooks/{id}/deliveries 200
GET /v1/webhooks/{id}/deliveries/{delivery_id} 200
POST /v1/webhooks/{id}/deliveries/{delivery_id}/redeliver 202
GET /v1/admin/adapters 200
GET /v1/admin/workers 200
GET /v1/admin/usage 200
GET /v1/admin/audit 200
GET /v1/admin/deletions 200
GET /v1/deletions/{id} 200
GET /livez 200
GET /readyz 200
GET /metrics 200
"""

Document = dict[str, Any]


@pytest.fixture
def document(api_client: Client) -> Document:
    return api_client.read("/openapi.json")


def operations(document: Document) -> list[tuple[str, str, Document]]:
    paths = document["paths"].items()
    return [(method, path, operation) for path, methods in paths for method, operation in methods.items()]


def test_document_is_valid_and_shown_at_docs(document: Document, api_client: Client) -> None:
    validate(document)
    page = api_client.get("/docs").text
    parts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(parts) == 3
    for part in parts:
        assert part.startswith("/docs/"), "nothing may be loaded from other hosts"
        assert api_client.get(part).status_code == 200


def test_every_route_of_the_contract_exists(document: Document) -> None:
    for line in CONTRACT.split("\n")[1:-1]:
        method, path, status = line.split()
        assert status in document["paths"][path][method.lower()]["responses"], line


def test_every_operation_has_a_description_and_its_errors(document: Document) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for method, path, operation in operations(document):
        assert operation["operationId"].replace("_", "").isalpha()
        assert operation["description"], path
        assert operation["tags"]
        assert not {"default", "HTTPValidationError"} & set(operation["responses"])
        for status, response in operation["responses"].items():
            assert response["description"]
            assert "X-Request-ID" in response["headers"]
            if int(status) >= 400 and path.startswith("/v1"):
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)
        if path.startswith("/v1"):
            assert {"401", "403", "429", "503"} <= set(operation["responses"])
            for response in operation["responses"].values():
                assert {"RateLimit", "RateLimit-Policy"} <= set(response["headers"])
            assert "Retry-After" in operation["responses"]["429"]["headers"]
            assert {"ApiKey": []} in operation["security"]
        if "{" in path:
            assert "404" in operation["responses"], path
        has_key = {"$ref": "#/components/parameters/IdempotencyKey"} in operation.get("parameters", [])
        assert has_key == (method == "post"), path


def test_every_field_of_a_request_has_limits_and_a_description(document: Document) -> None:
    for name in (
        "FinetuneCreate",
        "GenerationCreate",
        "DatasetUploadCreate",
        "UploadedPart",
        "DomainCreate",
        "TenantCreate",
        "TenantChange",
        "AdminKeyCreate",
        "KeyCreate",
        "KeyChange",
        "KeyRotate",
        "WebhookCreate",
        "WebhookChange",
        "WebhookRotate",
    ):
        schema = document["components"]["schemas"][name]
        assert schema["additionalProperties"] is False
        for field, described in schema["properties"].items():
            assert "description" in described or "examples" in described or "default" in described, f"{name}.{field}"
            if described.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(described), f"{name}.{field}"
                assert {"maximum", "exclusiveMaximum"} & set(described), f"{name}.{field}"
            if described.get("type") == "string" and "enum" not in described and "const" not in described:
                assert "maxLength" in described, f"{name}.{field}"


def test_every_field_of_a_change_has_a_description(document: Document) -> None:
    schemas = {name: schema for name, schema in document["components"]["schemas"].items() if name.endswith("Change")}
    assert {"TenantChange", "DomainChange"} <= set(schemas)
    fields = {f"{name}.{field}": value for name in schemas for field, value in schemas[name]["properties"].items()}
    assert [name for name, field in fields.items() if not field.get("description")] == []


def test_defaults_are_those_of_the_services(document: Document) -> None:
    for name, request in (
        ("FinetuneCreate", FinetuneRequest(dataset_id="")),
        ("FinetuneCreate", DEFAULT_TRAINING),
        ("GenerationCreate", GenerationRequest()),
        ("GenerationCreate", SamplingSettings()),
    ):
        fields = document["components"]["schemas"][name]["properties"]
        for field, described in fields.items():
            if "default" in described and hasattr(request, field):
                expected = json.loads(json.dumps(getattr(request, field)))
                assert described["default"] == expected, f"{name}.{field}"
    fields = document["components"]["schemas"]["FinetuneCreate"]["properties"]
    assert tuple(fields["method"]["enum"]) == METHODS
    assert tuple(fields["preset"]["enum"]) == tuple(PRESETS)
    assert get_args(FinetuneRequest.__annotations__["method"])[: len(METHODS)] == METHODS


def test_types_have_names_that_clients_can_use(document: Document) -> None:
    assert "DomainList" in document["components"]["schemas"]
    assert all(name.replace("_", "").isalnum() and not name.endswith("_") for name in document["components"]["schemas"])


def test_references_resolve_and_no_schema_is_unused(document: Document) -> None:
    text = str(document["paths"]) + str(document["components"])
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in text, name
