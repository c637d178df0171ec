"""Traces, metrics and logs of a process; the list of all metrics is in `metrics.py`."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType

from opentelemetry import metrics as otel_metrics
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from aifn_common.metrics import Metrics
from aifn_common.settings import ServiceSettings

tracer = trace.get_tracer("aifn")
MOST_LINKS = 64
_MOST_REMEMBERED = 1000


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


class Seldom(logging.Filter):
    """Lets a library say the same thing once in so many seconds.

    The Kafka client says with each attempt, of each of its connections, that a broker is away.
    """

    def __init__(self, library: str, *, seconds: float) -> None:
        super().__init__(library)
        self._seconds = seconds
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this is to be written; what others say always is."""
        if not super().filter(record):
            return True
        words = (record.name, record.getMessage())
        if record.created < self._said.get(words, 0) + self._seconds:
            return False
        if len(self._said) > _MOST_REMEMBERED:
            self._said.clear()
        self._said[words] = record.created
        return True


def set_up(service: str, settings: ServiceSettings) -> None:
    """Send logs to standard error, metrics to /metrics and, if a collector is named, traces to it. Once a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    handler.addFilter(Seldom("aiokafka", seconds=30))
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


class Answering:
    """A span for an HTTP request, child of the caller's.

    By hand, because most are not sampled: what the library's own context manager costs is half of such a span.
    """

    def __init__(self, name: str, traceparent: str | None) -> None:
        context = propagate.extract({"traceparent": traceparent}) if traceparent else None
        self._span = tracer.start_span(name, context=context, kind=SpanKind.SERVER)

    def __enter__(self) -> Span:
        self._token = attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(self, _: type[BaseException] | None, fault: BaseException | None, __: TracebackType | None) -> None:
        detach(self._token)
        if isinstance(fault, Exception) and self._span.is_recording():
            self._span.record_exception(fault)
            self._span.set_status(Status(StatusCode.ERROR, f"{type(fault).__name__}: {fault}"))
        self._span.end()


@contextmanager
def handling_batch(name: str, traceparents: Iterable[str]) -> Iterator[Span]:
    """A span for a whole batch, linked to at most 64 of the spans that announced its events."""
    links = [Link(context) for context in map(_context_of, islice(traceparents, MOST_LINKS)) if context is not None]
    with tracer.start_as_current_span(name, links=links, kind=SpanKind.CONSUMER) as span:
        yield span


def part_of(name: str, traceparent: str | None) -> str | None:
    """Continue the trace of one thing that the present work does among many: a span of its own, linked to this work.

    Returns: the context to keep or to send with that thing. Without a trace there is none to continue: that of the
    present work, as everywhere else.
    """
    context = _context_of(traceparent) if traceparent else None
    if context is None:
        return current_traceparent()
    if not context.trace_flags.sampled:
        return traceparent
    here = trace.get_current_span().get_span_context()
    links = [Link(here)] if here.is_valid else []
    parent = trace.set_span_in_context(trace.NonRecordingSpan(context))
    span = tracer.start_span(name, context=parent, links=links, kind=SpanKind.INTERNAL)
    span.end()
    made = span.get_span_context()
    return f"00-{made.trace_id:032x}-{made.span_id:016x}-{int(made.trace_flags):02x}"


def _context_of(traceparent: str) -> SpanContext | None:
    context = trace.get_current_span(propagate.extract({"traceparent": traceparent}, Context())).get_span_context()
    return context if context.is_valid else None
