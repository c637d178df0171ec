"""What telemetry costs on the path of usage: the same stream of records, with and without, in turns.

With it, as a factory runs it: all metrics, one trace in twenty sampled (as `AIFN_TRACE_RATIO` has it), spans exported
over HTTP to a collector in a process of its own. Without: instruments and spans that do nothing, and no look at the
records' trace context. The flow is one; it changes sides every so many records, so that neither has the colder caches.
"""

import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import uvloop
from aifn_accounting import subscribers
from aifn_accounting.settings import AccountingSettings
from aifn_common import batches, telemetry
from aifn_common.batches import BatchReader
from aifn_common.database import Database
from aifn_common.hearing import Hearing
from aifn_common.metrics import Metrics
from aifn_common.service import calm_garbage_collection
from aifn_common.topics import create_topics
from aifn_events.cloudevents import headers_of
from aifn_local import stack
from aiokafka import AIOKafkaProducer
from opentelemetry.metrics import NoOpMeter
from opentelemetry.trace import NoOpTracer
from pydantic import SecretStr

from benchmarks import usage
from benchmarks.figures import Figure, compare

SAMPLED_EVERY = 20
Turn = tuple[float, float]
"""Records a second, and microseconds of CPU for each."""
TURN = int(os.environ.get("AIFN_BENCH_TURN", "20000"))


def run() -> list[Figure]:
    """Records a second with telemetry, beside the same without it in the same run."""
    calm_garbage_collection()
    ours, theirs = multiprocessing.Pipe()
    collector = multiprocessing.get_context("spawn").Process(target=_collect, args=(theirs,), daemon=True)
    collector.start()
    try:
        port = ours.recv()
        with stack.running() as state:
            return uvloop.run(_measure(state.kafka_bootstrap, state.postgres_url, port))
    finally:
        collector.kill()


def _collect(pipe: Connection) -> None:
    """Take what is exported and throw it away."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(server.server_address[1])
    server.serve_forever()


async def _measure(kafka: str, postgres: str, collector: int) -> list[Figure]:
    settings = AccountingSettings(
        factory="lumi-aif",
        database_url=SecretStr("postgresql://unused"),
        kafka=kafka,
        pseudonym_key=SecretStr(usage.KEY),
        otlp_endpoint=f"http://127.0.0.1:{collector}",
        log_level="WARNING",
    )
    telemetry.set_up("accounting", settings)
    await create_topics(kafka)
    db = await usage.new_database(postgres)
    try:
        await usage.prepare(db)
        before = await _size(db)
        await _produce(kafka)
        rates = await _ingest(settings, db)
        after = await _size(db)
    finally:
        db.terminate()
    (with_it, cpu_with), (without, cpu_without) = (_medians(rates[on]) for on in (True, False))
    return [
        compare("usage ingest with telemetry", with_it, "records/s", "the same without telemetry", without),
        # Less true, since the database's share is left out, and steadier where other programs run beside it.
        compare("CPU of the service for a record", cpu_with, "µs", "the same without telemetry", cpu_without),
        compare("database for one usage record", (after - before) / usage.RECORDS, "bytes", "one byte", 1),
    ]


def _medians(turns: list[Turn]) -> Turn:
    rates, costs = zip(*turns, strict=True)
    return statistics.median(rates), statistics.median(costs)


def _traced() -> Iterator[tuple[Any, str]]:
    """Every record with a trace context of its own, one in so many of them sampled."""
    for number, event in enumerate(usage.records()):
        sampled = "01" if number % SAMPLED_EVERY == 0 else "00"
        yield event, f"00-{number + 1:032x}-{number + 1:016x}-{sampled}"


async def _produce(kafka: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20, max_batch_size=262_144, compression_type="lz4")
    await producer.start()
    now = datetime.now(UTC)
    try:
        for event, traceparent in _traced():
            headers = headers_of(event, source="urn:aifn:lumi-aif:siteagent", time=now) | {"traceparent": traceparent}
            raw = [(name, text.encode()) for name, text in headers.items()]
            await producer.send(event.topic, event.model_dump_json().encode(), event.key.encode(), headers=raw)
    finally:
        await producer.stop()


class Sides:
    """Changes between telemetry and none."""

    def __init__(self) -> None:
        self._on = (telemetry.metrics, telemetry.tracer, batches._traceparents, batches._continue_traces)
        self._off: Any = (Metrics(NoOpMeter("off")), NoOpTracer(), lambda _: [], lambda *_: None)

    def take(self, *, on: bool) -> None:
        """From now on with or without."""
        side: Any = self._on if on else self._off
        telemetry.metrics, telemetry.tracer, batches._traceparents, batches._continue_traces = side


async def _ingest(settings: AccountingSettings, db: Database) -> dict[bool, list[Turn]]:
    hearing = Hearing(db, settings)
    [subscription] = subscribers.hears.batches
    reader = BatchReader(subscription, hearing)
    sides, on = Sides(), False
    sides.take(on=on)
    rates: dict[bool, list[Turn]] = {True: [], False: []}
    running = asyncio.create_task(reader.run())
    try:
        seen = await _handled(hearing, reader.group, 1)
        began, burnt = time.perf_counter(), time.process_time()
        while seen < usage.RECORDS:
            now = await _handled(hearing, reader.group, min(seen + TURN, usage.RECORDS))
            took, cost = time.perf_counter() - began, time.process_time() - burnt
            rates[on].append(((now - seen) / took, cost / (now - seen) * 1e6))
            seen, on = now, not on
            began, burnt = time.perf_counter(), time.process_time()
            sides.take(on=on)
    finally:
        sides.take(on=True)
        hearing.stopping.set()
        await running
    return rates


async def _handled(hearing: Hearing, group: str, count: int) -> int:
    while hearing.handled.get(group, 0) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.002)
    return hearing.handled[group]


async def _size(db: Database) -> int:
    return int(await db.fetchval("SELECT pg_database_size(current_database())"))
