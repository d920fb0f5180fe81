"""Description of the served base model, and of the settings of requests."""

from pathlib import Path

import pytest

from tests.api.client import BASE, Client, problem, running
from tests.api.conftest import make_settings


def test_base_is_described_with_its_classes_and_settings(tenant: Client, admin: Client, api_client: Client) -> None:
    base = tenant.read("/v1/base")
    assert (base["name"], base["digest"], base["licence"]) == (BASE.name, BASE.digest, BASE.licence)
    assert (base["image_sizes"], base["class_names"]) == ([32, 64], ["circle", "square", "star"])
    drawing, training = base["generation_settings"], base["finetune_settings"]
    assert drawing["steps"] == {"default": 20, "minimum": 1, "maximum": 1000, "choices": None}
    assert (drawing["sampler"]["default"], drawing["sampler"]["choices"]) == ("dpmpp_2m", ["ddim", "ddpm", "dpmpp_2m"])
    interval = {"default": [200, 800], "minimum": 0, "maximum": 999, "choices": None}
    assert (drawing["guidance_interval"], drawing["seed"]["default"]) == (interval, None)
    assert training["steps"] == {"default": 400, "minimum": 1, "maximum": 100_000, "choices": None}
    assert training["method"]["choices"] == ["difffit", "bitfit"]
    assert training["auto_promote"] == {"default": False, "minimum": None, "maximum": None, "choices": None}
    assert not {"class_name", "class_id", "adapter_id"} & set(drawing)
    assert not {"dataset_id", "from_adapter_id", "image_size", "dry_run"} & set(training)
    assert admin.read("/v1/base") == base
    problem(api_client.get("/v1/base"), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("noun", "body"),
    [("generations", {"class_id": 0, "adapter_id": "base"}), ("finetunes", {"dataset_id": "ds_none"})],
)
def test_values_beyond_the_limits_are_rejected(tenant: Client, domain: str, noun: str, body: dict[str, object]) -> None:
    settings = tenant.read("/v1/base")[f"{noun.removesuffix('s')}_settings"]
    limited = {name: setting for name, setting in settings.items() if setting["maximum"] is not None}
    assert {"steps", "seed"} <= set(limited)
    for name, setting in limited.items():
        beyond = setting["maximum"] + 1
        value = [0, beyond] if isinstance(setting["default"], list) else beyond
        refused = problem(tenant.post(f"/v1/domains/{domain}/{noun}", body | {name: value}), 422, "invalid_request")
        assert refused["errors"][0]["field"].startswith(f"body.{name}")


def test_base_is_unknown_until_a_worker_has_loaded_it(tmp_path: Path) -> None:
    with running(make_settings(tmp_path)) as api:
        problem(api.tenant("early").get("/v1/base"), 503, "base_not_loaded")
