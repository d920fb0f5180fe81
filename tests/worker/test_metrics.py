"""Metrics of a real engine on the bundled base, scraped over HTTP."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from core.artifact.sampling import SamplingSettings
from core.ml.serving.request import ImageRequest
from core.service.config import Settings
from worker import metrics
from worker.gpu import Gpu


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Settings(_env_file=None, data_dir=tmp_path, device="cpu", metrics_port=port)  # type: ignore[call-arg]


@pytest.fixture
def gpu(settings: Settings) -> Iterator[Gpu]:
    gpu = Gpu(settings)
    yield gpu
    gpu.engine.stop()


def test_engine_metrics_can_be_scraped(settings: Settings, gpu: Gpu) -> None:
    server, thread = metrics.serve(settings, gpu.engine)
    try:
        before = samples(settings)
        sampling = SamplingSettings(steps=3)
        request = ImageRequest(id="a", tenant="a", adapter=None, class_id=0, seeds=(1, 2), sampling=sampling)
        drawn = gpu.engine.submit(request).result(timeout=60)
        metrics.ended("succeeded", drawn.timings)
        after = samples(settings)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert before["difffit_engine_steps_total"] == 0
    assert after["difffit_engine_steps_total"] == 3
    assert after["difffit_engine_rows_total"] == 6
    assert after["difffit_engine_model_evaluations_total"] == 12
    assert after["difffit_engine_padded_rows_total"] == 12  # four rows in a batch of eight
    assert after["difffit_engine_adapters_total"] == 3
    assert after["difffit_engine_queue_wait_seconds_count"] == 1
    assert after["difffit_engine_waiting_images"] == 0
    assert after["difffit_engine_failed_steps_total"] == after["difffit_engine_out_of_memory_total"] == 0
    assert 0 <= after["difffit_engine_turn_age_seconds"] < 60
    # Counted per process, which may have generated other images before.
    for name in (
        'difffit_generations_total{result="succeeded"}',
        'difffit_generation_stage_seconds_count{stage="total"}',
    ):
        assert after[name] - before.get(name, 0) == 1


def samples(settings: Settings) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{settings.metrics_port}/metrics").text
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            values[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return values
