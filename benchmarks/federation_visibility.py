"""A fact of one factory until another factory's API shows it: outbox, signing, two mirror hops, verification, inbox.

Twenty facts a second between two members over two relays, with mutual TLS and rules in force: thirty seconds until the
four brokers and two mirrors have compiled what they run, then forty that count. The clock starts before the owner's
transaction begins and stops when the other registry answers with the fact, so that both ends are too long rather than
too short. The reference is the two hops alone: from the owner's topic to the first copy on the other's broker, for the
same facts in the same run.
"""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from statistics import quantiles

import httpx
from aifn_common.database import Database, connect, transaction
from aifn_common.outbox import announce
from aifn_events.datalab import DatasetDescribed
from aifn_local.federation.members import name_relays, read_members
from aifn_local.federation.start import Federation, running
from aifn_local.people import Person, sign_in
from aiokafka import AIOKafkaConsumer

from benchmarks.figures import Figure, compare

RATE = 20
SECONDS = 40
WARM_UP = 30 * RATE
PATIENCE_SECONDS = 60
LOOK_SECONDS = 0.05
TOPIC = "aifn-out-catalogue-v1"


def run() -> list[Figure]:
    """Median and 99th percentile in milliseconds. Raises RuntimeError if a fact never arrives."""
    with running(read_members("lumi-aif,bsc-aif"), name_relays(2), say=print) as federation:
        seen, hops = asyncio.run(_measure(federation))
    p50, p99 = _percentiles(seen)
    hop50, hop99 = _percentiles(hops)
    return [
        compare(f"commit to the other's API, p50 at {RATE}/s", p50, "ms", "two hops alone, p50", hop50),
        compare(f"commit to the other's API, p99 at {RATE}/s", p99, "ms", "two hops alone, p99", hop99),
    ]


def _percentiles(values: list[float]) -> tuple[float, float]:
    cuts = quantiles([value * 1000 for value in values], n=100, method="inclusive")
    return cuts[49], cuts[98]


async def _measure(federation: Federation) -> tuple[list[float], list[float]]:
    home, owner = federation.instances["lumi-aif"], federation.instances["bsc-aif"]
    mirrored = [f"{relay}.{owner.member.id}.{TOPIC}" for relay in federation.transport.relays]
    db = await connect(owner.factory.databases["datalab"], connections=2)
    left = AIOKafkaConsumer(TOPIC, bootstrap_servers=owner.factory.kafka, auto_offset_reset="latest")
    arrived = AIOKafkaConsumer(*mirrored, bootstrap_servers=home.factory.kafka, auto_offset_reset="latest")
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        reader = await sign_in(http, home.factory, "pi")
        await _tell(db, "first", WARM_UP)
        await _look(reader, {f"first-{number}" for number in range(WARM_UP)})
        await left.start()
        await arrived.start()
        moments: tuple[dict[bytes, float], dict[bytes, float]] = ({}, {})
        noting = [asyncio.create_task(_note(one, into)) for one, into in zip((left, arrived), moments, strict=True)]
        try:
            wanted = {f"fact-{number}" for number in range(RATE * SECONDS)}
            looking = asyncio.create_task(_look(reader, wanted))
            began = await _tell(db, "fact", RATE * SECONDS)
            shown = await looking
            await asyncio.sleep(1)
        finally:
            for task in noting:
                task.cancel()
            await left.stop()
            await arrived.stop()
            await db.close()
    hops = [moments[1][key] - at for key, at in moments[0].items() if key in moments[1]]
    return [shown[name] - began[name] for name in began], hops


async def _tell(db: Database, prefix: str, count: int) -> dict[str, float]:
    """Announce so many datasets, each in a transaction of its own; returns when each transaction began."""
    began: dict[str, float] = {}
    start = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
        name = f"{prefix}-{number}"
        event = DatasetDescribed.example(dataset_id=name, factory_id="bsc-aif")
        began[name] = time.perf_counter()
        async with transaction(db) as tx:
            await announce(tx, event)
    return began


async def _look(reader: Person, wanted: set[str]) -> Mapping[str, float]:
    """Ask the other registry again and again; returns when each wanted dataset was first shown."""
    shown: dict[str, float] = {}
    since = datetime.now(UTC) - timedelta(minutes=1)
    deadline = time.perf_counter() + PATIENCE_SECONDS
    while wanted - shown.keys():
        facts = await reader.pages("registry", "/v1/peers/facts", stream="catalogue", since=since.isoformat())
        now = time.perf_counter()
        for fact in facts:
            name = str(fact["data"]["dataset_id"])
            if name not in shown:
                shown[name], deadline = now, now + PATIENCE_SECONDS
            since = max(since, datetime.fromisoformat(fact["heard_at"]) - timedelta(seconds=1))
        if now > deadline:
            raise RuntimeError(f"{len(wanted - shown.keys())} facts did not arrive within {PATIENCE_SECONDS} s")
        await asyncio.sleep(LOOK_SECONDS)
    return shown


async def _note(consumer: AIOKafkaConsumer, into: dict[bytes, float]) -> None:
    """Remember when each record's bytes were first seen."""
    async for record in consumer:
        into.setdefault(record.value or b"", time.perf_counter())
