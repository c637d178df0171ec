"""Talks to the real broker as another system would: sends events, reads topics, starts from empty topics."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from aifn_common.topics import create_topics
from aifn_events.base import Event
from aifn_events.cloudevents import headers_of
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

SOURCE = "urn:aifn:lumi-aif:test"


def message(event: Event, *, source: str = SOURCE) -> dict[str, Any]:
    """An event as the arguments of a producer or of a test broker."""
    headers = headers_of(event, source=source, time=datetime.now(UTC))
    return {
        "topic": event.topic,
        "value": event.model_dump_json().encode(),
        "key": event.key.encode(),
        "headers": [(name, value.encode()) for name, value in headers.items()],
    }


@asynccontextmanager
async def producer(kafka: str) -> AsyncIterator[AIOKafkaProducer]:
    """A producer that is stopped afterwards."""
    made = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def send(kafka: str, *events: Event, source: str = SOURCE) -> None:
    """Send events and wait until the broker has them."""
    async with producer(kafka) as made:
        sent = [await made.send(**message(event, source=source)) for event in events]
        await asyncio.gather(*sent)


async def read_all(kafka: str, topic: str) -> list[Any]:
    """Every record of a topic, from its beginning to its present end."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        from aiokafka import TopicPartition

        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        if not partitions:
            await consumer._client.force_metadata_update()
            partitions = [TopicPartition(topic, number) for number in await _partitions(consumer, topic)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning()
        found: list[Any] = []
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
        return found
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> Sequence[int]:
    await consumer.topics()
    return sorted(consumer.partitions_for_topic(topic) or ())


async def empty_topics(kafka: str) -> None:
    """Have every topic of the catalogue, empty; what was there before is deleted, and the groups' offsets with it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        ours = [name for name in await admin.list_topics() if name.startswith("aifn-")]
        if ours:
            await admin.delete_topics(ours)
        deadline = time.monotonic() + 20
        while [name for name in await admin.list_topics() if name.startswith("aifn-")]:
            assert time.monotonic() < deadline, "topics were not deleted"
            await asyncio.sleep(0.1)
    finally:
        await admin.close()
    await create_topics(kafka)
