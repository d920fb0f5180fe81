"""Traces of jobs back to the request that caused them, in logs and in OpenTelemetry spans. Spans go to the collector
that `traces_endpoint` names; without one, or without the extra `traces`, they go nowhere."""

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
    """Sets up, once per process, spans of requests or jobs and of `engine`'s statements."""
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
    SQLAlchemyInstrumentor().instrument(engine=engine, skip_dep_check=True)  # it declares SQLAlchemy up to 2.0


def current_request_id() -> str | None:
    """Returns the id of the request that is being answered; None outside of requests."""
    request_id: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return request_id


def current_address() -> str | None:
    """Returns the address that the request which is being answered came from."""
    address: str | None = structlog.contextvars.get_contextvars().get("address")
    return address


def current_traceparent() -> str | None:
    """Returns the open span as a `traceparent` of W3C Trace Context; None without one."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(_TRACEPARENT)


@contextmanager
def caused_by(request_id: str | None, traceparent: str | None, work: str, **details: Any) -> Iterator[None]:
    """Runs a job's work: its log lines carry `request_id` and `about`, its span continues the request's trace."""
    context = _PROPAGATOR.extract({_TRACEPARENT: traceparent} if traceparent else {})
    cause = {"request_id": request_id} if request_id else {}
    spans = trace.get_tracer(__name__).start_as_current_span(work, context, attributes=details)
    with structlog.contextvars.bound_contextvars(**cause, **details), spans:
        yield
