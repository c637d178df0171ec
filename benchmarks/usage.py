"""The path of usage: from the real broker to records, postings, balances and outbox, exactly once, in one process.

Every record is of a job that holds budget, over 2,000 allocations. References, in the same run and in batches of the
same size: COPY of the same records into a table with the same columns and indexes, and aiokafka alone reading the same
messages. Sending what waits in the outbox is another measurement: the relay does not run meanwhile.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit

import uvloop
from aifn_accounting import subscribers
from aifn_accounting.actions import grants
from aifn_accounting.actions.usage import Pseudonyms
from aifn_accounting.app import service
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import ledger, reads
from aifn_accounting.store import usage as usage_store
from aifn_common.batches import BatchReader
from aifn_common.copying import copy_rows, moment
from aifn_common.database import Database, connect, transaction
from aifn_common.kafka import Hearing
from aifn_common.migrations import migrate
from aifn_common.service import calm_garbage_collection
from aifn_common.topics import create_topics
from aifn_events.cloudevents import headers_of
from aifn_events.usage import UsageReported
from aifn_local import stack
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import SecretStr

from benchmarks.figures import Figure, compare

RECORDS = int(os.environ.get("AIFN_BENCH_RECORDS", "200000"))
ALLOCATIONS = 2_000
BATCH = 20_000
KEY = "a key for the benchmark only"
GPU = "lumi/lumi-g/gpu-time"
START = datetime(2026, 1, 1, tzinfo=UTC)
HELD = 230_400
AMOUNT = 192_000

_HOLDS = """
INSERT INTO job_budget (job_id, project_id, revision, allocation_number, amount)
SELECT 'bench-' || i, a.project_id, 0, a.number, $3
FROM generate_series(0, $1 - 1) i JOIN allocation a ON a.project_id = 'p' || (i * 7919::bigint % $2)"""
_BALANCES = """
UPDATE allocation a SET held = b.amount, available = a.available - b.amount
FROM (SELECT allocation_number, sum(amount) AS amount FROM job_budget GROUP BY 1) b
WHERE a.number = b.allocation_number"""
_HOLD_ENTRIES = """
INSERT INTO ledger_transfer (allocation_number, kind, source, target, resource, amount, job_id, recorded_at)
SELECT a.number, 'hold', a.available_account, a.held_account, a.resource, b.amount, b.job_id, $1
FROM job_budget b JOIN allocation a ON a.number = b.allocation_number"""


def run() -> list[Figure]:
    """Records a second, beside COPY and beside aiokafka."""
    calm_garbage_collection()  # as every worker does
    with stack.running() as state:
        return uvloop.run(_measure(state.kafka_bootstrap, state.postgres_url))


async def _measure(kafka: str, postgres: str) -> list[Figure]:
    await create_topics(kafka)
    db = await new_database(postgres)
    try:
        await prepare(db)
        await produce(kafka, records())
        ours = await _ingest(kafka, db)
        copied = await copy(db)
        read = await _only_read(kafka)
    finally:
        db.terminate()
    return [
        compare("usage ingest", ours, "records/s", "raw COPY into the same indexed table", copied),
        compare("usage ingest, beside Kafka", ours, "records/s", "raw aiokafka getmany", read),
    ]


async def new_database(postgres: str, name: str = "bench_usage", *, connections: int = 4) -> Database:
    """A fresh database with accounting's schema."""
    admin = await connect(postgres, connections=2)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    db = await connect(url_of(postgres, name), connections=connections)
    await migrate(db, *service.packages)
    return db


def url_of(postgres: str, name: str) -> str:
    """The address of one database of a server."""
    return urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))


async def prepare(db: Database) -> None:
    """Projects, allocations, and a hold for the job of every record."""
    async with transaction(db) as tx:
        for number in range(ALLOCATIONS):
            await ledger.add_project(tx, f"p{number}", "A project", "lumi-aif", by="bench", at=START)
            await grants.open_allocation(
                tx,
                f"p{number}",
                GPU,
                amount=10**12,
                pool="union",
                starts_at=START,
                ends_at=START + timedelta(days=1000),
                award_id=None,
                reason="benchmark",
                by="bench",
            )
        await tx.execute(_HOLDS, RECORDS, ALLOCATIONS, HELD)
        await tx.execute(_BALANCES)
        await tx.execute(_HOLD_ENTRIES, START)
        await tx.execute("DELETE FROM outbox")
    await db.execute("VACUUM ANALYZE")


def records() -> Iterator[UsageReported]:
    """The records of a run."""
    for number in range(RECORDS):
        submitted = START + timedelta(seconds=number)
        yield UsageReported(
            machine_id="lumi",
            local_job_id=str(number),
            submitted_at=submitted,
            segment=0,
            revision=0,
            job_id=f"bench-{number}",
            project_id=f"p{number * 7919 % ALLOCATIONS}",
            partition_id="lumi-g",
            local_user=f"user{number % 500}",
            state="COMPLETED",
            started_at=submitted + timedelta(seconds=10),
            ended_at=submitted + timedelta(seconds=3010),
            nodes=1,
            amounts={GPU: AMOUNT},
            collector="benchmark/1",
        )


async def produce(kafka: str, events: Iterable[UsageReported]) -> None:
    """Send records to the broker, as a site does."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=20, max_batch_size=262_144, compression_type="lz4")
    await producer.start()
    now = datetime.now(UTC)
    try:
        for event in events:
            headers = headers_of(event, source="urn:aifn:lumi-aif:siteagent", time=now)
            raw = [(name, text.encode()) for name, text in headers.items()]
            await producer.send(event.topic, event.model_dump_json().encode(), event.key.encode(), headers=raw)
    finally:
        await producer.stop()


async def _ingest(kafka: str, db: Database) -> float:
    settings = AccountingSettings(
        factory="lumi-aif", database_url=SecretStr("postgresql://unused"), kafka=kafka, pseudonym_key=SecretStr(KEY)
    )
    hearing = Hearing(db, settings)
    [subscription] = subscribers.hears.batches
    reader = BatchReader(subscription, hearing)
    running = asyncio.create_task(reader.run())
    # The clock starts with the first batch that is committed, so that joining the group is not part of the figure.
    first = await _handled(hearing, reader.group, 1)
    began = time.perf_counter()
    await _handled(hearing, reader.group, RECORDS)
    took = time.perf_counter() - began
    hearing.stopping.set()
    await running
    await check(db)
    return (RECORDS - first) / took


async def _handled(hearing: Hearing, group: str, count: int) -> int:
    while hearing.handled.get(group, 0) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return hearing.handled[group]


async def check(db: Database, *, unsent: int = RECORDS) -> None:
    """The figure counts only if every record was charged once and the books are right.

    Raises: RuntimeError.
    """
    counts = await db.fetchrow(
        "SELECT (SELECT count(*) FROM usage_record) AS records,"
        " (SELECT coalesce(sum(last - first + 1), 0) FROM outbox) AS unsent,"
        " (SELECT sum(charged) FROM allocation) AS charged, (SELECT sum(held) FROM allocation) AS held"
    )
    assert counts is not None
    expected = (RECORDS, unsent, RECORDS * AMOUNT, RECORDS * (HELD - AMOUNT))
    if tuple(counts.values()) != expected:
        raise RuntimeError(f"{tuple(counts.values())} is not {expected}: records, unsent events, charged, held")
    async with db.acquire() as tx:
        broken = [one for one in await reads.verify(tx) if one.differing]
    if broken:
        raise RuntimeError(f"the ledger does not hold: {broken}")


async def copy(db: Database) -> float:
    """COPY of the same rows into the same indexed table: records a second."""
    names = Pseudonyms(KEY)
    await db.execute("CREATE TABLE copied (LIKE usage_record INCLUDING ALL)")
    at = moment(START)
    rows = [
        usage_store.record_row(number, event, None, names.of(event.local_user), at)
        for number, event in enumerate(records())
    ]
    began = time.perf_counter()
    for start in range(0, RECORDS, BATCH):
        async with transaction(db) as tx:
            some = rows[start : start + BATCH]
            await copy_rows(tx, "copied", some, columns=usage_store.RECORD_COLUMNS)
    return RECORDS / (time.perf_counter() - began)


async def _only_read(kafka: str) -> float:
    consumer = AIOKafkaConsumer(
        UsageReported.topic,
        bootstrap_servers=kafka,
        group_id="bench-only-read",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4_194_304,
    )
    await consumer.start()
    try:
        seen, began = 0, 0.0
        while seen < RECORDS:
            polled = await consumer.getmany(timeout_ms=200, max_records=BATCH)
            began = began or time.perf_counter()
            seen += sum(len(some) for some in polled.values())
            if polled:
                await consumer.commit({tp: some[-1].offset + 1 for tp, some in polled.items()})
        return RECORDS / (time.perf_counter() - began)
    finally:
        await consumer.stop()
