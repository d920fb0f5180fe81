"""Prometheus metrics of a worker: its engine's counters, results of generations, and counts of jobs from the database.

Labels have few, fixed values, and never name tenants or adapters. The database has the usage of each tenant.
"""

from collections.abc import Iterator, Mapping
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from core.artifact.errors import CoreError
from core.ml.serving.engine import Engine
from core.service import queues
from core.service.config import Settings
from core.service.db.session import Database, database_now

GENERATIONS = Counter(
    "difffit_generations", "Generations that ended in this worker, by result; `returned` means requeued", ["result"]
)
STAGES = Histogram(
    "difffit_generation_stage_seconds",
    "Seconds from the engine's acceptance of a generation to each of its stages",
    ["stage"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)

_COUNTERS = {
    "steps": "Batched sampling steps",
    "rows": "Batch rows, summed over the steps; divided by the steps, images per step",
    "model_evaluations": "Model evaluations: forward rows, two for a guided image",
    "padded_rows": "Forward rows that only filled a batch up to its size",
    "adapters": "Distinct adapters, summed over the steps; divided by the steps, adapters per step",
    "images": "Generated images",
    "activations": "Adapters copied from the host into a slot of the device",
    "step_seconds": "Seconds that the engine's loop spent in sampling steps",
    "forward_seconds": "Seconds of the sampling steps spent in the model's forward pass",
    "training_seconds": "Seconds that the engine's loop spent in fine-tunes",
    "out_of_memory": "Times the device ran out of memory; after each, batches are smaller for a while",
    "failed_steps": "Failed steps; after each, the step is repeated separately for every request",
}


def serve(settings: Settings, engine: Engine | None = None) -> tuple[WSGIServer, Thread]:
    """Starts the HTTP server for the metrics, on `host` and `metrics_port`, without authentication. `engine` is None in
    a worker without a device. Returns the server and its thread."""
    if engine is not None:
        REGISTRY.register(EngineCollector(engine))
    return start_http_server(settings.metrics_port, settings.host)


def show_jobs(database: Database) -> None:
    REGISTRY.register(JobsCollector(database))


def ended(result: str, timings: Mapping[str, float] | None = None) -> None:
    """Counts a generation that ended with `result`: succeeded, failed, cancelled or returned (requeued). Adds
    `timings`, the seconds to each stage, to the histograms."""
    GENERATIONS.labels(result).inc()
    for stage, seconds in (timings or {}).items():
        STAGES.labels(stage).observe(seconds)


class EngineCollector(Collector):
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        stats = self.engine.stats()
        for name, meaning in _COUNTERS.items():
            yield CounterMetricFamily(f"difffit_engine_{name}", meaning, value=stats[name])
        yield GaugeMetricFamily(
            "difffit_engine_waiting_images",
            "Images that the engine has accepted and not yet delivered",
            value=stats["waiting_images"],
        )
        age = "Seconds since the engine's last turn; more than 1 s plus its longest slice means that it hangs"
        yield GaugeMetricFamily("difffit_engine_turn_age_seconds", age, value=stats["turn_age_seconds"])
        wait = "Seconds from the acceptance of a request to its first step"
        yield _summary("difffit_engine_queue_wait_seconds", wait, stats["waits"], stats["wait_seconds"])
        load = "Seconds to fetch, check and fold an adapter"
        yield _summary("difffit_adapter_load_seconds", load, stats["cache_misses"], stats["load_seconds"])
        requests = CounterMetricFamily(
            "difffit_adapter_cache_requests", "Requests to the host's adapter cache, by result", labels=["result"]
        )
        requests.add_metric(["hit"], stats["cache_hits"])
        requests.add_metric(["miss"], stats["cache_misses"])
        yield requests
        resident = GaugeMetricFamily("difffit_adapters_resident", "Adapters held", labels=["tier"])
        resident.add_metric(["device"], stats["adapters_on_device"])
        resident.add_metric(["host"], stats["adapters_on_host"])
        yield resident
        yield GaugeMetricFamily("difffit_adapter_host_bytes", "Memory of the host's cache", value=stats["host_bytes"])


class JobsCollector(Collector):
    """Metrics of the jobs, read from the database at each scrape. Every worker reports the same values, so dashboards
    should take the maximum over the workers, not the sum."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def describe(self) -> Iterator[Metric]:
        """Describes no metrics, so that registering the collector does not read the database, whose tables may not
        exist yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("difffit_jobs_waiting", "Jobs that no worker has claimed", labels=["queue"])
        running = GaugeMetricFamily("difffit_jobs_running", "Jobs that a worker holds", labels=["queue"])
        oldest = GaugeMetricFamily(
            "difffit_jobs_oldest_seconds", "Seconds that the oldest waiting job has waited", labels=["queue"]
        )
        failed = GaugeMetricFamily("difffit_jobs_failed", "Jobs that failed in the last hour", labels=["queue", "code"])
        unkept = GaugeMetricFamily(
            "difffit_finetunes_unkept_seconds", "Longest time that a running fine-tune has gone without a checkpoint"
        )
        try:
            with self.database.reading() as session:
                now = database_now(session)
                for queue in queues.read(session):
                    waiting.add_metric([queue.queue], queue.waiting)
                    running.add_metric([queue.queue], queue.running)
                    oldest.add_metric([queue.queue], queue.waited_seconds(now))
                for name, code, count in queues.recent_failures(session):
                    failed.add_metric([name, code], count)
                unkept.add_metric([], queues.unkept_seconds(session))
        except CoreError:  # other collectors' metrics are still reported
            return
        yield from (waiting, running, oldest, failed, unkept)


def _summary(name: str, meaning: str, count: float, seconds: float) -> Metric:
    return SummaryMetricFamily(name, meaning, count_value=int(count), sum_value=seconds)
