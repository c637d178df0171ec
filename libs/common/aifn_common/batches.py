"""The path for busy streams: many messages, one transaction, then the offsets.

Raw aiokafka, because one call of a framework for each message costs more than all the rest together.
"""

import asyncio
import gc
import inspect
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from aifn_events.cloudevents import MalformedEvent
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from aifn_common import clock, event_log, outbox, telemetry
from aifn_common.broker import check_group, connection_of, start_or_say_why
from aifn_common.database import transaction
from aifn_common.dead_letters import Record
from aifn_common.hearing import Hearing, Membership, Stopping
from aifn_common.kafka import (
    ATTEMPTS,
    METADATA_MS,
    PAUSES_SECONDS,
    BatchSubscription,
    Rejected,
    patience_of,
    set_aside_in_batch,
)

log = logging.getLogger(__name__)
READ_AT_ONCE = 100
MOST_CONTINUED = 64
"""A span costs a fifth of a millisecond: of a full batch only so many sampled traces go on, of a small one all."""
OBJECTS_OF_A_MESSAGE = 25
"""So many, about, that a look for garbage has to visit: the message, its headers, the event, what is made of it."""
Hopeless = list[tuple[Record, Exception]]


@dataclass
class _Batch:
    """What one look at Kafka brought: events with their records, what cannot be read, and the offsets after it."""

    ends: dict[Any, int] = field(default_factory=dict)
    newest: int = 0
    events: list[tuple[Any, Record]] = field(default_factory=list)
    hopeless: Hopeless = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.events) + len(self.hopeless)


class BatchReader:
    """Reads one topic in batches until told to stop."""

    def __init__(self, one: BatchSubscription[Any], hearing: Hearing) -> None:
        self._one = one
        self._hearing = hearing
        takes_settings = "settings" in inspect.signature(one.handler).parameters
        self._more: dict[str, Any] = {"settings": hearing.settings} if takes_settings else {}
        self.consumer: AIOKafkaConsumer | None = None

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._one.group

    async def run(self) -> None:
        """Read for ever. A broker that is away is waited for; ends when the process stops."""
        make_room_for(self._one.max_records)
        while not self._hearing.stopping.is_set():
            consumer = None
            try:
                consumer = self._make_consumer()
                await start_or_say_why(consumer.start(), self._hearing.settings)
                self._hearing.waits.pop(self.group, None)
                self.consumer = consumer
                await self._read(consumer)
            except Stopping:
                return
            except (KafkaError, OSError, TimeoutError) as fault:
                self._hearing.waits[self.group] = str(fault) or repr(fault)
                log.warning("%s waits for the broker: %s", self.group, self._hearing.waits[self.group])
                await asyncio.sleep(1)
            except Exception:
                log.exception("%s failed and starts again", self._one.group)
                await asyncio.sleep(1)
            finally:
                self.consumer = None
                self._hearing.joined.discard(self._one.group)
                if consumer is not None:
                    await _stop(consumer)

    def _make_consumer(self) -> AIOKafkaConsumer:
        settings = self._hearing.settings
        consumer = AIOKafkaConsumer(
            **connection_of(settings),
            **patience_of(settings),
            group_id=self._one.group,
            group_instance_id=f"{settings.instance}-{self._one.group}" if settings.instance else None,
            client_id=f"aifn-{self._one.group}",
            metadata_max_age_ms=METADATA_MS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4_194_304,
        )
        consumer.subscribe([self._one.kind.topic], listener=Membership(self._one.group, self._hearing))
        return consumer

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Handle batch after batch; while the database works on one, the next is fetched and read."""
        coming = asyncio.create_task(self._next(consumer))
        try:
            while not self._hearing.stopping.is_set():
                batch = await coming
                check_group(consumer, self.group)
                coming = asyncio.create_task(self._next(consumer))
                if batch.size:
                    await self._handle_and_commit(consumer, batch)
        finally:
            coming.cancel()
            await asyncio.wait([coming])

    async def _next(self, consumer: AIOKafkaConsumer) -> "_Batch":
        batch = _Batch()
        while (room := self._one.max_records - batch.size) > 0:
            # In small bites, so that the database's answers for the batch before come in between.
            polled = await consumer.getmany(timeout_ms=0 if batch.size else 200, max_records=min(room, READ_AT_ONCE))
            if not polled:
                break
            for tp, some in polled.items():
                batch.ends[tp] = some[-1].offset + 1
                batch.newest = max(batch.newest, some[-1].timestamp)
                events, hopeless = read_events(self._one.read, some)
                batch.events += events
                batch.hopeless += hopeless
            await asyncio.sleep(0)
        return batch

    async def _handle_and_commit(self, consumer: AIOKafkaConsumer, batch: "_Batch") -> None:
        await self._hearing.wait_if_stopped(self._one.group)
        self._hearing.busy_since[self._one.group] = time.monotonic()
        try:
            await self._handle(batch)
        finally:
            self._hearing.busy_since.pop(self._one.group, None)
        try:
            await consumer.commit(batch.ends)
        except (CommitFailedError, IllegalStateError):
            # Partitions moved to another member meanwhile: it reads these again, and they change nothing.
            log.info("%s lost partitions while it worked", self._one.group)

    async def _handle(self, batch: "_Batch") -> None:
        began = time.perf_counter()
        self._hearing.newest[self._one.group] = batch.newest
        before = self._hearing.dead_in_a_row.get(self._one.group, 0)
        topic = {"topic": self._one.kind.topic}
        telemetry.metrics.received.add(batch.size, topic)
        with telemetry.handling_batch(f"{self._one.group} handle batch", _traceparents(batch.events)):
            rejected = await self._patiently(batch.events, batch.hopeless)
            _continue_traces(f"{self._one.group} handle", batch.events)
        outbox.nudge()
        dead = len(batch.hopeless) + rejected
        outcome = {"outcome": "handled" if dead < batch.size else "set_aside"}
        telemetry.metrics.handling.record(time.perf_counter() - began, topic | outcome)
        if dead < batch.size:
            self._hearing.succeeded(self._one.group, batch.size - dead)
        else:
            self._hearing.dead_in_a_row[self._one.group] = before + dead

    async def _patiently(self, events: list[tuple[Any, Record]], hopeless: Hopeless) -> int:
        rejected = 0

        async def once() -> None:
            nonlocal rejected
            rejected = await self._in_one_transaction(events, hopeless)

        for attempt in range(ATTEMPTS):
            try:
                await self._hearing.patiently(once, self._one.group)
                return rejected
            except Stopping:
                raise
            except Exception:
                log.exception("%s: a batch of %d failed", self._one.group, len(events))
                if attempt < ATTEMPTS - 1:
                    await self._hearing.pause(PAUSES_SECONDS[attempt])
        return await self._in_halves(events, hopeless)

    async def _in_halves(self, events: list[tuple[Any, Record]], hopeless: Hopeless) -> int:
        """Find what makes a batch fail: the half without it goes through, the rest is halved again."""
        rejected = 0
        waiting = [events]
        while waiting:
            some = waiting.pop()

            async def once(some: list[tuple[Any, Record]] = some) -> None:
                nonlocal rejected
                rejected += await self._in_one_transaction(some, hopeless if some is events else [])

            try:
                await self._hearing.patiently(once, self._one.group)
            except Stopping:
                raise
            except Exception as fault:
                if len(some) > 1:
                    middle = len(some) // 2
                    waiting += [some[middle:], some[:middle]]
                else:
                    culprits: Hopeless = [(record, fault) for _, record in some]
                    await self._hearing.patiently(lambda culprits=culprits: self._only_aside(culprits), self._one.group)  # type: ignore[misc]
                    rejected += len(some)
                    # Before the offsets: what is left of this batch is read again once somebody has looked.
                    self._hearing.dead(self._one.group, len(some))
                    await self._hearing.wait_if_stopped(self._one.group)
            else:
                self._hearing.succeeded(self._one.group, 0)
        await self._hearing.patiently(lambda: self._only_aside(hopeless), self._one.group)
        return rejected

    async def _only_aside(self, hopeless: Hopeless) -> None:
        if not hopeless:
            return
        with clock.held():
            async with transaction(self._hearing.db) as tx:
                await set_aside_in_batch(tx, self._one.group, hopeless)
                if self._one.keeps_log:
                    await event_log.keep(tx, [record for record, _ in hopeless], clock.now(), kind="set_aside")

    async def _in_one_transaction(self, events: list[tuple[Any, Record]], hopeless: Hopeless) -> int:
        with clock.held():
            return await self._at_one_moment(events, hopeless)

    async def _at_one_moment(self, events: list[tuple[Any, Record]], hopeless: Hopeless) -> int:
        async with transaction(self._hearing.db) as tx:
            rejected: Sequence[Rejected] = ()
            if events:
                rejected = await self._one.handler([event for event, _ in events], tx, **self._more)
            refused: Hopeless = []
            if rejected:
                record_of = {id(event): record for event, record in events}
                refused = [(record_of[id(one.event)], one.refusal) for one in rejected]
            await set_aside_in_batch(tx, self._one.group, hopeless + refused)
            if self._one.keeps_log:
                heard = [record for _, record in events] + [record for record, _ in hopeless]
                await event_log.keep(tx, heard, clock.now(), kind="heard" if events else "set_aside")
        return len(rejected)


def make_room_for(records: int) -> None:
    """Let this process look for garbage only when there are more new objects than in two batches of so many records.

    The one at work and the next are no garbage, and looking at them again and again is a tenth of the work on them.
    """
    young, *older = gc.get_threshold()
    gc.set_threshold(max(young, 2 * OBJECTS_OF_A_MESSAGE * records), *older)


def read_events(read: Callable[[Record], Any], records: Sequence[Record]) -> tuple[list[tuple[Any, Record]], Hopeless]:
    """Read records; what cannot be read is returned apart, with the reason."""
    events: list[tuple[Any, Record]] = []
    hopeless: Hopeless = []
    for record in records:
        try:
            events.append((read(record), record))
        except MalformedEvent as wrong:
            hopeless.append((record, wrong))
    return events, hopeless


def _traceparents(events: Sequence[tuple[Any, Record]]) -> list[str]:
    """The trace contexts that the first of these records carry."""
    found = [value for _, record in events[:64] for name, value in record.headers if name == "traceparent" and value]
    return [value.decode("ascii", "replace") for value in found]


def _continue_traces(name: str, events: Sequence[tuple[Any, Record]]) -> None:
    """Give each sampled event of a batch a span in its own trace, at most so many."""
    sampled = (
        value.decode("ascii", "replace")
        for _, record in events
        for header, value in record.headers
        if header == "traceparent" and value and value[-2:] == b"01"
    )
    for traceparent in islice(sampled, MOST_CONTINUED):
        telemetry.part_of(name, traceparent)


async def _stop(consumer: AIOKafkaConsumer) -> None:
    try:
        async with asyncio.timeout(10):
            await consumer.stop()
    except Exception as fault:
        log.debug("a consumer did not stop in time: %r", fault)
