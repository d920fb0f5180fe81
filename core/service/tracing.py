"""Tracing: connects jobs with the HTTP request that caused them, in logs and in OpenTelemetry spans. Spans are sent to
the collector at the setting `traces_endpoint`; without this setting, or without the extra `traces`, none are sent."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from sqlalchemy import Engine

from core.service.config import Settings
from core.service.extras import is_installed, log_missing

_TRACEPARENT = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()


def configure_traces(settings: Settings, service: str, engine: Engine) -> None:
    """Sets up the export of OpenTelemetry spans under the service name `service`, and spans of the SQL statements of
    `engine`. Does nothing if no collector is configured. Call it once per process."""
    if not settings.traces_endpoint:
        return
    if not is_installed("traces"):
        log_missing("traces")
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.traces_share)),
        resource=Resource.create({SERVICE_NAME: service}),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.traces_endpoint)))
    trace.set_tracer_provider(provider)  # sends the remaining spans when the process ends
    SQLAlchemyInstrumentor().instrument(engine=engine, skip_dep_check=True)  # it declares support only up to 2.0


def current_request_id() -> str | None:
    """Returns the id of the current HTTP request, or of the request that caused the current job; None outside of
    both."""
    request_id: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return request_id


def current_address() -> str | None:
    """Returns the client address of the current HTTP request; None outside of requests."""
    address: str | None = structlog.contextvars.get_contextvars().get("address")
    return address


def current_traceparent() -> str | None:
    """Returns the current span as a `traceparent` header of W3C Trace Context; None if there is no span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(_TRACEPARENT)


@contextmanager
def caused_by(request_id: str | None, traceparent: str | None, work: str, **details: Any) -> Iterator[None]:
    """Adds `request_id` and `details` to all log lines inside the `with` block, and opens a span named `work` there. If
    `traceparent` is given, the span continues the trace of the request that caused the job."""
    context = _PROPAGATOR.extract({_TRACEPARENT: traceparent} if traceparent else {})
    cause = {"request_id": request_id} if request_id else {}
    spans = trace.get_tracer(__name__).start_as_current_span(work, context, attributes=details)
    with structlog.contextvars.bound_contextvars(**cause, **details), spans:
        yield
