"""One event at a time, from end to end: a site agent's report on Kafka until the registry's API shows it.

200 events a second for forty seconds; every fortieth is watched until its effect is visible:
asking for all of them would be another load altogether. The reference is the way
to a bare Kafka consumer, measured on the same events in the same run.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import httpx
from aifn_events.cloudevents import headers_of
from aifn_events.registry import CapacityReported
from aifn_local import stack
from aifn_local.factory import Factory
from aifn_local.fleet import Fleet
from aifn_local.people import Person, sign_in
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.figures import Figure, compare

RATE = 200
SECONDS = 40
WATCHED = 40
PARTITIONS = (("lumi", "lumi-g"), ("lumi", "lumi-c"), ("leonardo", "leonardo-booster"), ("marenostrum5", "mn5-acc"))


def run() -> list[Figure]:
    """Latency from the producer's call to the effect, median and 99th percentile, in milliseconds."""
    with stack.running() as state, TemporaryDirectory() as logs:
        seen, bare = asyncio.run(_measure(state, Path(logs)))
    p50, p99 = _percentiles(seen)
    bare50, bare99 = _percentiles(bare)
    return [
        compare(f"event to API, p50 at {RATE}/s", p50, "ms", "bare consumer, p50", bare50),
        compare(f"event to API, p99 at {RATE}/s", p99, "ms", "bare consumer, p99", bare99),
    ]


def _percentiles(values: list[float]) -> tuple[float, float]:
    cuts = quantiles([value * 1000 for value in values], n=100, method="inclusive")
    return cuts[49], cuts[98]


async def _measure(state: stack.StackState, logs: Path) -> tuple[list[float], list[float]]:
    factory = Factory.on(state, "lumi-aif", [])
    await factory.prepare()
    fleet = Fleet(logs)
    try:
        for program in factory.programs():
            if program.name.startswith(("registry", "issuer")):
                fleet.start(program)
        await fleet.wait_ready()
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            reader = await sign_in(http, factory, "operator")
            return await _send_and_watch(state.kafka_bootstrap, reader)
    finally:
        await asyncio.to_thread(fleet.stop)


async def _send_and_watch(kafka: str, reader: Person) -> tuple[list[float], list[float]]:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    consumer = AIOKafkaConsumer(CapacityReported.topic, bootstrap_servers=kafka, auto_offset_reset="latest")
    await producer.start()
    await consumer.start()
    sent: dict[str, float] = {}
    bare: list[float] = []
    seen: list[float] = []

    async def consume() -> None:
        async for record in consumer:
            event_id = dict(record.headers)["ce_id"].decode()
            bare.append(time.perf_counter() - sent[event_id])

    async def watch(event: CapacityReported, began: float) -> None:
        while True:
            answer = await reader.get("registry", f"/v1/partitions/{event.partition_id}")
            shown = answer["capacity"] and datetime.fromisoformat(answer["capacity"]["observed_at"])
            if shown and shown >= event.observed_at:
                seen.append(time.perf_counter() - began)
                return
            await asyncio.sleep(0.01)

    consuming = asyncio.create_task(consume())
    try:
        async with asyncio.TaskGroup() as group:
            began = time.perf_counter()
            for number in range(RATE * SECONDS):
                await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
                event = _event(number)
                now = sent[event.id] = time.perf_counter()
                headers = headers_of(event, source="urn:aifn:lumi-aif:siteagent", time=datetime.now(UTC))
                raw = [(name, text.encode()) for name, text in headers.items()]
                await producer.send(event.topic, event.model_dump_json().encode(), event.key.encode(), headers=raw)
                if number % WATCHED == 0:
                    group.create_task(watch(event, now))
        await asyncio.sleep(1)
    finally:
        consuming.cancel()
        await consumer.stop()
        await producer.stop()
    return seen, bare


def _event(number: int) -> CapacityReported:
    machine, partition = PARTITIONS[number % len(PARTITIONS)]
    return CapacityReported.example(
        machine_id=machine,
        partition_id=partition,
        observed_at=(datetime.now(UTC) - timedelta(seconds=1)).isoformat(),
        nodes_in_service=100,
        nodes_idle=10,
        slices_idle=100 * 32,
    )
