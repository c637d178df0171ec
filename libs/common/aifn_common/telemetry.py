"""Traces, metrics and logs, and the list of all metric names with their meaning."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from opentelemetry import metrics as otel_metrics
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, Span, SpanKind

from aifn_common.settings import ServiceSettings

tracer = trace.get_tracer("aifn")


class Metrics:
    """All metrics of our own. A name here is a promise to dashboards and alerts."""

    def __init__(self) -> None:
        meter = otel_metrics.get_meter("aifn")
        self.received = meter.create_counter("aifn_events_received", description="events taken from Kafka, by topic")
        self.repeated = meter.create_counter(
            "aifn_events_repeated", description="events that were here before, by topic"
        )
        self.dead = meter.create_counter("aifn_dead_letters", description="messages set aside, by topic and code")
        self.retried = meter.create_counter("aifn_event_retries", description="attempts after a fault, by topic")
        self.sent = meter.create_counter("aifn_outbox_sent", description="events sent from the outbox")
        self.handling = meter.create_histogram(
            "aifn_event_handling_seconds", unit="s", description="from receipt to commit, by topic"
        )
        self.delay = meter.create_histogram(
            "aifn_event_delay_seconds",
            unit="s",
            description="from ce_time to commit, by the process's clock",
        )
        self.answers = meter.create_counter(
            "aifn_http_answers", description="HTTP answers, by route, method and status"
        )
        self.answering = meter.create_histogram("aifn_http_seconds", unit="s", description="HTTP answers, by route")


metrics = Metrics()


class JsonLines(logging.Formatter):
    """One JSON object a line, with the trace it belongs to."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as JSON; `extra` values that are plain go along."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("ce_id", "ce_type", "topic", "partition", "offset", "code"):
            if hasattr(record, name):
                line[name] = getattr(record, name)
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
            line["span_id"] = f"{context.span_id:016x}"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(service: str, settings: ServiceSettings) -> None:
    """Send logs to standard error, metrics to /metrics and, if a collector is named, traces to it. Once a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for noisy in ("aiokafka", "uvicorn.access", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    resource = Resource.create({"service.name": f"aifn-{service}", "service.namespace": settings.factory})
    otel_metrics.set_meter_provider(MeterProvider(metric_readers=[PrometheusMetricReader()], resource=resource))
    provider = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(settings.trace_ratio))
    if settings.otlp_endpoint:
        exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_endpoint.rstrip('/')}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def current_traceparent() -> str | None:
    """The W3C trace context of the present span, to travel with a message."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def handling(name: str, traceparent: str | None) -> Iterator[Span]:
    """A span for an event's handling, child of the span that announced it."""
    context = propagate.extract({"traceparent": traceparent}) if traceparent else None
    with tracer.start_as_current_span(name, context=context, kind=SpanKind.CONSUMER) as span:
        yield span


@contextmanager
def answering(name: str, traceparent: str | None) -> Iterator[Span]:
    """A span for an HTTP request, child of the caller's."""
    context = propagate.extract({"traceparent": traceparent}) if traceparent else None
    with tracer.start_as_current_span(name, context=context, kind=SpanKind.SERVER) as span:
        yield span


@contextmanager
def handling_batch(name: str, traceparents: list[str]) -> Iterator[Span]:
    """A span for a whole batch, linked to at most 64 of the spans that announced its events."""
    links = []
    for traceparent in traceparents[:64]:
        context = trace.get_current_span(propagate.extract({"traceparent": traceparent})).get_span_context()
        if context.is_valid:
            links.append(Link(context))
    with tracer.start_as_current_span(name, links=links, kind=SpanKind.CONSUMER) as span:
        yield span
