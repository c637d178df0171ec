"""Usage into the ledger: one worker process, then two, then the same records shuffled, corrected and doubled.

The rate is that between a quarter of the records and the last of them, so that starting and joining the group is no
part of it. What a record costs in CPU is steadier than the rate where other programs run beside it. These processes run
the path of usage alone; one more turn is of the worker as it is deployed, until the charge of each record is on Kafka.
"""

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import uvloop
from aifn_accounting import subscribers
from aifn_common.database import Database
from aifn_common.topics import create_topics
from aifn_events.usage import UsageCharged, UsageReported
from aifn_local.stack_state import StackState
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks import usage
from benchmarks.accounting.programs import Program, burnt, program, worker
from benchmarks.figures import Figure, compare

RECORDS = usage.RECORDS
CORRECTED_EVERY = 20
DOUBLED_PERCENT = 20
SEED = 5
# A row for each batch. To ask the records themselves would visit all that are not committed yet, each time.
_CHARGED = "SELECT coalesce(max(last), 0) FROM outbox"
_BALANCES = "SELECT project_id, resource, granted, available, held, charged, overrun FROM allocation ORDER BY 1, 2"


@dataclass(frozen=True)
class Turn:
    """One turn of ingesting: records a second, CPU in microseconds for a record, memory of the first worker in MiB."""

    rate: float
    worker: float
    server: float
    early: float
    late: float


def measure(state: StackState) -> list[Figure]:
    """Rates, costs and memory. Raises RuntimeError if the books are not right, or depend on the order."""
    return uvloop.run(_measure(state))


async def _measure(state: StackState) -> list[Figure]:
    kafka = state.kafka_bootstrap
    await create_topics(kafka)
    await usage.produce(kafka, usage.records())
    first = await _database(state, "bench_one")
    one = await _take(state, first, "bench_one", workers=1, sent=RECORDS)
    _say("one worker", one)
    await usage.check(first)
    copied = await usage.copy(first)
    await first.close()

    await _rewind(kafka)
    told = await _charge_and_tell(state)
    print(f"ingest, a whole worker: {told:,.0f} records/s, each charged and its event sent")

    await _rewind(kafka)
    second = await _database(state, "bench_two")
    two = await _take(state, second, "bench_two", workers=2, sent=RECORDS)
    _say("two workers", two)
    await usage.check(second)

    await usage.produce(kafka, corrections())
    await _take(state, second, "bench_two", workers=1, sent=RECORDS + RECORDS // CORRECTED_EVERY)
    in_order = await balances(second)
    await second.close()
    third = await _database(state, "bench_shuffled")
    mixed = await _produce_shuffled(kafka)
    shuffled = await _take(state, third, "bench_shuffled", workers=1, sent=mixed.new, messages=mixed.messages)
    _say("shuffled, corrected, doubled", shuffled)
    in_disorder = await balances(third)
    await third.close()
    differing = len(in_order ^ in_disorder)
    if differing:
        raise RuntimeError(f"balances depend on the order in which the records came: {differing} differ")
    return [
        compare("ledger ingest, one worker", one.rate, "records/s", "raw COPY into the same indexed table", copied),
        compare("ledger ingest and events, whole worker", told, "records/s", "ledger ingest alone", one.rate),
        compare("ledger ingest, two workers", two.rate, "records/s", "one worker", one.rate),
        compare("ledger ingest, CPU of the worker for a record", one.worker, "µs", "PostgreSQL's", one.server),
        compare("memory of the worker at the end", one.late, "MiB", "at a fifth of the records", one.early),
        compare("ledger ingest, shuffled, corrected, doubled", shuffled.rate, "records/s", "in order", one.rate),
        compare("balances that depend on the order", differing, "allocations", "allocations", len(in_order)),
    ]


def _say(what: str, turn: Turn) -> None:
    print(
        f"ingest, {what}: {turn.rate:,.0f} records/s; CPU for a record: workers {turn.worker:.1f} µs, PostgreSQL"
        f" {turn.server:.1f} µs; memory {turn.early:.0f} MiB at a fifth, {turn.late:.0f} MiB at the end"
    )


async def _database(state: StackState, name: str) -> Database:
    db = await usage.new_database(state.postgres_url, name, connections=3)
    await usage.prepare(db)
    return db


async def balances(db: Database) -> set[tuple[object, ...]]:
    """Of every allocation its project, resource and balances."""
    return {tuple(row) for row in await db.fetch(_BALANCES)}


# Records


def correction(event: UsageReported) -> UsageReported:
    """A later word on a record: it used half as much."""
    return event.model_copy(update={"revision": 1, "amounts": {usage.GPU: usage.AMOUNT // 2}})


def corrections() -> Iterator[UsageReported]:
    """One in so many records, corrected."""
    return (correction(event) for number, event in enumerate(usage.records()) if number % CORRECTED_EVERY == 0)


@dataclass(frozen=True)
class Told:
    """How many records were sent, and how many messages with the doubled ones."""

    new: int
    messages: int


async def _produce_shuffled(kafka: str) -> Told:
    """All records and corrections in one random order, a fifth of them twice: the seed says which."""
    dice = random.Random(SEED)
    every = list(usage.records())
    every += [correction(event) for number, event in enumerate(every) if number % CORRECTED_EVERY == 0]
    new = len(every)
    every += dice.sample(every, new * DOUBLED_PERCENT // 100)
    dice.shuffle(every)
    await usage.produce(kafka, every)
    return Told(new, len(every))


# Workers


@contextlib.contextmanager
def _reader(state: StackState, url: str, number: int) -> Iterator[Program]:
    words = [sys.executable, "-m", "benchmarks.accounting.reader", state.kafka_bootstrap, url]
    with program(words, name=f"reader-{number}", probe=None, environment={}) as one:
        yield one


async def _take(
    state: StackState, db: Database, name: str, *, workers: int, sent: int, messages: int | None = None
) -> Turn:
    """Have workers take all that waits until so many records are in the books; `messages`: those of this turn."""
    url = usage.url_of(state.postgres_url, name)
    before = await _known(db)
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_reader(state, url, number)) for number in range(workers)]
        server = state.postgres.pid
        early = 0.0
        await _until(db, before + 1, running)
        cost, cost_of_server, since = _burnt(running, server, await _known(db))
        quarter, at = 0, 0.0
        while (known := await _known(db)) < sent:
            done = (known - before) / (sent - before)
            early = early or (running[0].mib() if done >= 0.2 else 0.0)
            if not at and done >= 0.25:
                quarter, at = known, time.perf_counter()
            _alive(running)
            await asyncio.sleep(0.01)
        ended = time.perf_counter()
        worker, of_server, until = _burnt(running, server, known)
        late = running[0].mib()
        await _drained(state.kafka_bootstrap, running)
    records = until - since
    if messages is not None:  # those that change nothing are work too
        quarter, known = round(quarter * messages / sent), messages
        records = round(records * messages / sent)
    # So few that they were one batch have no rate.
    return Turn(
        (known - quarter) / (ended - at) if at else 0.0,
        (worker - cost) / records * 1e6 if records else 0.0,
        (of_server - cost_of_server) / records * 1e6 if records else 0.0,
        early or late,
        late,
    )


async def _charge_and_tell(state: StackState) -> float:
    """Records a second that the worker as it is deployed charges, and tells subscribers of."""
    db = await _database(state, "bench_told")
    consumer = _consumer(state.kafka_bootstrap)
    await consumer.start()
    try:
        partitions = await _partitions(consumer, UsageCharged.topic)
        quarter, at, known = 0, 0.0, 0
        with worker(state.kafka_bootstrap, usage.url_of(state.postgres_url, "bench_told")) as one:
            while known < RECORDS:
                known = sum((await consumer.end_offsets(partitions)).values())
                if not at and known >= RECORDS // 4:
                    quarter, at = known, time.perf_counter()
                _alive([one])
                await asyncio.sleep(0.05)
            ended = time.perf_counter()
            await _drained(state.kafka_bootstrap, [one])
    finally:
        await consumer.stop()
    await usage.check(db, unsent=0)
    await db.close()
    return (known - quarter) / (ended - at)


def _burnt(running: list[Program], server: int | None, known: int) -> tuple[float, float, int]:
    return sum(one.seconds_of_cpu() for one in running), burnt(server) if server else 0.0, known


def _alive(running: list[Program]) -> None:
    for one in running:
        if one.process.poll() is not None:
            raise RuntimeError(f"a worker ended with {one.process.returncode}: see build/bench/logs")


async def _known(db: Database) -> int:
    return int(await db.fetchval(_CHARGED))


async def _until(db: Database, count: int, running: list[Program]) -> None:
    while await _known(db) < count:
        _alive(running)
        await asyncio.sleep(0.01)


# Offsets


def _consumer(kafka: str) -> AIOKafkaConsumer:
    [subscription] = subscribers.hears.batches
    return AIOKafkaConsumer(bootstrap_servers=kafka, group_id=subscription.group, enable_auto_commit=False)


async def _partitions(consumer: AIOKafkaConsumer, topic: str = UsageReported.topic) -> list[TopicPartition]:
    await consumer._client.force_metadata_update()
    found = consumer._client.cluster.partitions_for_topic(topic) or set()
    return [TopicPartition(topic, number) for number in sorted(found)]


async def _rewind(kafka: str) -> None:
    """Let the group, which nobody is in now, begin again with the first message."""
    consumer = _consumer(kafka)
    await consumer.start()
    try:
        partitions = await _partitions(consumer)
        consumer.assign(partitions)
        await consumer.commit(dict.fromkeys(partitions, 0))
    finally:
        await consumer.stop()


async def _drained(kafka: str, running: list[Program]) -> None:
    """Wait until the group has taken every message, those that change nothing too."""
    consumer = _consumer(kafka)
    await consumer.start()
    try:
        partitions = await _partitions(consumer)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        while [one for one in partitions if (await consumer.committed(one) or 0) < ends[one]]:
            _alive(running)
            await asyncio.sleep(0.2)
    finally:
        await consumer.stop()
