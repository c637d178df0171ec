"""The list of all metrics of our own: name, kind, labels, meaning. A name here is a promise to dashboards and alerts.

docs/metrics.md and the dashboards are made from this list; a test holds the alert rules against it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from opentelemetry import metrics as otel_metrics
from opentelemetry.metrics import CallbackOptions, Observation

Kind = Literal["counter", "gauge", "histogram"]
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LONG_SECONDS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


@dataclass(frozen=True)
class Metric:
    """One metric. `told_by` says which processes have it, `unit` is as in its name, "" for plain numbers."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    told_by: str = "workers"
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> str:
        """The name under which Prometheus knows it; of a histogram, without `_bucket`, `_sum`, `_count`."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


CATALOGUE: tuple[Metric, ...] = (
    Metric("aifn_events_received", "counter", "messages taken from Kafka", ("topic",)),
    Metric("aifn_events_repeated", "counter", "events that were here before and changed nothing", ("topic",)),
    Metric("aifn_event_retries", "counter", "attempts after a fault or a lost connection", ("topic",)),
    Metric("aifn_dead_letters", "counter", "messages set aside", ("topic", "code")),
    Metric(
        "aifn_dead_letters_waiting",
        "gauge",
        "messages set aside and not sent again yet, in the leading worker",
        ("topic",),
    ),
    Metric(
        "aifn_event_handling_seconds",
        "histogram",
        "from receipt to commit, of one message or one batch; `outcome` is handled, set_aside or left",
        ("topic", "outcome"),
        "s",
        buckets=SECONDS,
    ),
    Metric(
        "aifn_event_delay_seconds",
        "histogram",
        "from `ce_time` to commit, by the process's clock (simulated where that is)",
        ("topic",),
        "s",
        buckets=LONG_SECONDS,
    ),
    Metric("aifn_consumer_lag", "gauge", "messages that wait in the partitions of this worker", ("group",)),
    Metric("aifn_consumer_lag_seconds", "gauge", "how long the oldest of these has waited, at least", ("group",), "s"),
    Metric("aifn_consumer_joined", "gauge", "1 while this worker is a member of the group", ("group",)),
    Metric("aifn_consumer_stopped", "gauge", "1 after too many dead letters in a row", ("group",)),
    Metric("aifn_consumer_stalled", "gauge", "1 while messages wait and nothing moves", ("group",)),
    Metric("aifn_leading", "gauge", "1 in the worker that sends the outbox and keeps the timers"),
    Metric("aifn_outbox_sent", "counter", "messages sent from the outbox"),
    Metric("aifn_outbox_waiting", "gauge", "messages in the outbox, counted up to 100,000, in the leading worker"),
    Metric("aifn_outbox_age_seconds", "gauge", "how long the oldest of these has waited", unit="s"),
    Metric(
        "aifn_database_connections",
        "gauge",
        "connections of the pool, by `state` idle or used",
        ("state",),
        told_by="all",
    ),
    Metric("aifn_http_answers", "counter", "HTTP answers", ("route", "method", "status"), told_by="apis"),
    Metric("aifn_http_seconds", "histogram", "how long HTTP answers took", ("route",), "s", "apis", SECONDS),
    Metric(
        "aifn_plan_seconds", "histogram", "how long one plan took, with its transaction", (), "s", "scheduler", SECONDS
    ),
    Metric("aifn_jobs_placed", "counter", "jobs that a plan has placed", told_by="scheduler"),
    Metric(
        "aifn_ledger_drift", "gauge", "balances that are not the sum of their postings; always 0", told_by="accounting"
    ),
    Metric(
        "aifn_usage_days_incomplete",
        "gauge",
        "days of which a machine has stated more or other usage than has come here",
        ("machine",),
        told_by="accounting",
    ),
    Metric(
        "aifn_federation_alarms",
        "gauge",
        "alarms that are open, by whose log they are about: gaps, silence, another past, and the like",
        ("origin", "alarm"),
        told_by="fedgate",
    ),
    Metric(
        "aifn_federation_gap_seconds",
        "gauge",
        "how long the oldest gap in a member's logs has been open",
        ("origin",),
        "s",
        told_by="fedgate",
    ),
    Metric(
        "aifn_federation_quarantined",
        "gauge",
        "messages of a member that were not believed, in the last 24 hours",
        ("origin",),
        told_by="fedgate",
    ),
    Metric(
        "aifn_federation_throttled_seconds",
        "counter",
        "how long a member's topics were not read, because it said more than the directory allows",
        ("origin",),
        "s",
        told_by="fedgate",
    ),
)
BY_NAME = {one.name: one for one in CATALOGUE}


class Gauge:
    """Values that are asked for when somebody reads the metrics; one that is dropped is told no more."""

    def __init__(self, meter: otel_metrics.Meter, metric: Metric) -> None:
        self._labels = metric.labels
        self._values: dict[tuple[str, ...], float] = {}
        meter.create_observable_gauge(metric.name, [self._observe], unit=metric.unit, description=metric.meaning)

    def set(self, value: float, **labels: str) -> None:
        """Say what it is now."""
        self._values[tuple(labels[name] for name in self._labels)] = value

    def drop(self) -> None:
        """This process knows it no longer."""
        self._values.clear()

    def values(self) -> dict[tuple[str, ...], float]:
        """What is told now, by the labels' values."""
        return dict(self._values)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(value, dict(zip(self._labels, key, strict=True))) for key, value in self.values().items()]


class Tally:
    """A counter that is added up here and asked for when somebody reads the metrics: for what is counted very often."""

    def __init__(self, meter: otel_metrics.Meter, metric: Metric) -> None:
        self._labels = metric.labels
        self._counts: dict[tuple[str | int, ...], int] = {}
        meter.create_observable_counter(metric.name, [self._observe], description=metric.meaning)

    def add(self, *values: str | int) -> None:
        """Count one more under these values of the labels, in the catalogue's order."""
        self._counts[values] = self._counts.get(values, 0) + 1

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        counts = dict(self._counts).items()
        return [Observation(count, dict(zip(self._labels, key, strict=True))) for key, count in counts]


class Metrics:
    """The instruments, one for each line of the catalogue that the plumbing or a service counts with."""

    def __init__(self, meter: otel_metrics.Meter | None = None) -> None:
        self._meter = meter or otel_metrics.get_meter("aifn")
        self.received = self._counter("aifn_events_received")
        self.repeated = self._counter("aifn_events_repeated")
        self.retried = self._counter("aifn_event_retries")
        self.dead = self._counter("aifn_dead_letters")
        self.dead_waiting = self._gauge("aifn_dead_letters_waiting")
        self.handling = self._histogram("aifn_event_handling_seconds")
        self.delay = self._histogram("aifn_event_delay_seconds")
        self.lag = self._gauge("aifn_consumer_lag")
        self.lag_seconds = self._gauge("aifn_consumer_lag_seconds")
        self.joined = self._gauge("aifn_consumer_joined")
        self.stopped = self._gauge("aifn_consumer_stopped")
        self.stalled = self._gauge("aifn_consumer_stalled")
        self.leading = self._gauge("aifn_leading")
        self.sent = self._counter("aifn_outbox_sent")
        self.outbox_waiting = self._gauge("aifn_outbox_waiting")
        self.outbox_age = self._gauge("aifn_outbox_age_seconds")
        self.connections = self._gauge("aifn_database_connections")
        self.answers = self._tally("aifn_http_answers")
        self.answering = self._histogram("aifn_http_seconds")
        self.planning = self._histogram("aifn_plan_seconds")
        self.placed = self._counter("aifn_jobs_placed")
        self.ledger_drift = self._gauge("aifn_ledger_drift")
        self.days_incomplete = self._gauge("aifn_usage_days_incomplete")

        self.federation_alarms = self._gauge("aifn_federation_alarms")
        self.federation_gaps = self._gauge("aifn_federation_gap_seconds")
        self.federation_quarantined = self._gauge("aifn_federation_quarantined")
        self.federation_throttled = self._counter("aifn_federation_throttled_seconds")

    def drop_leading(self) -> None:
        """This process leads no longer: what only a leading worker tells is told by another."""
        for gauge in (
            self.outbox_waiting,
            self.outbox_age,
            self.dead_waiting,
            self.ledger_drift,
            self.days_incomplete,
            self.federation_alarms,
            self.federation_gaps,
            self.federation_quarantined,
        ):
            gauge.drop()

    def _counter(self, name: str) -> otel_metrics.Counter:
        return self._meter.create_counter(name, description=BY_NAME[name].meaning)

    def _tally(self, name: str) -> Tally:
        return Tally(self._meter, BY_NAME[name])

    def _gauge(self, name: str) -> Gauge:
        return Gauge(self._meter, BY_NAME[name])

    def _histogram(self, name: str) -> otel_metrics.Histogram:
        one = BY_NAME[name]
        more: dict[str, Any] = {"explicit_bucket_boundaries_advisory": one.buckets}
        return self._meter.create_histogram(name, unit=one.unit, description=one.meaning, **more)
