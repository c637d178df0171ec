"""Announce an event: a row in the transaction that makes it true, a message once that has been committed.

One relay per service sends in order of `seq`. Two events about one thing keep their order because their
transactions hold that thing's row lock when they announce. A crash between sending and deleting sends twice, with
the same id: receivers drop the copy.
"""

import asyncio
import json
import logging
import weakref
from collections.abc import Iterable, Sequence

from aifn_events.base import Event
from aifn_events.catalog import BY_NAME
from aifn_events.cloudevents import attributes_of
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from aifn_common import clock, telemetry
from aifn_common.database import CONNECTION_FAULTS, Database, Row, Transaction

log = logging.getLogger(__name__)

_INSERT = "INSERT INTO outbox (event_id, topic, key, value, time, traceparent) VALUES ($1, $2, $3, $4, $5, $6)"
_INSERT_RAW = """
INSERT INTO outbox (event_id, topic, key, value, time, raw_headers) VALUES ('', $1, $2, $3, $4, $5)"""
_COLUMNS = ("event_id", "topic", "key", "value", "time", "traceparent")
_NEXT = "SELECT seq, event_id, topic, key, value, time, traceparent, raw_headers FROM outbox ORDER BY seq LIMIT $1"
_SENT = "DELETE FROM outbox WHERE seq = ANY($1::bigint[])"
_AGE = "SELECT count(*) AS waiting FROM outbox"

BATCH = 1000
RawHeaders = Sequence[tuple[str, bytes | None]]
_relays: "weakref.WeakSet[Relay]" = weakref.WeakSet()


async def announce(tx: Transaction, event: Event) -> None:
    """Tell the others, once this transaction is committed."""
    await tx.execute(_INSERT, *_row(event))


async def announce_all(tx: Transaction, events: Iterable[Event]) -> None:
    """Tell the others many things at once, in this order: the path for busy streams."""
    rows = [_row(event) for event in events]
    if rows:
        await tx.copy_records_to_table("outbox", records=rows, columns=_COLUMNS)


def _row(event: Event) -> tuple[object, ...]:
    return (
        event.id,
        event.topic,
        event.key.encode(),
        event.model_dump_json().encode(),
        clock.now(),
        telemetry.current_traceparent(),
    )


async def pass_on(tx: Transaction, topic: str, key: bytes | None, value: bytes | None, headers: str) -> None:
    """Send a message on as it came, e.g. to the dead letters; `headers` as made by `pack_headers`."""
    await tx.execute(_INSERT_RAW, topic, key, value, clock.now(), headers)


def pack_headers(headers: RawHeaders) -> str:
    r"""Keep headers exactly, whatever bytes they hold.

    >>> unpack_headers(pack_headers([("a", b"\xff\x00"), ("b", None)]))
    [('a', b'\xff\x00'), ('b', None)]
    """
    return json.dumps([[name, None if value is None else value.decode("latin-1")] for name, value in headers])


def unpack_headers(packed: str) -> list[tuple[str, bytes | None]]:
    """The headers as they came."""
    return [(name, None if value is None else value.encode("latin-1")) for name, value in json.loads(packed)]


def nudge() -> None:
    """Something was committed in this process: do not wait for the next look at the outbox."""
    for relay in _relays:
        relay.wake.set()


async def waiting(db: Database) -> int:
    """How many messages have not been sent yet."""
    return int(await db.fetchval(_AGE))


class Relay:
    """Sends what the outbox holds, in order. Only one per database may run: the caller holds the service's lock."""

    def __init__(self, db: Database, *, kafka: str, source: str, poll_seconds: float) -> None:
        self._db = db
        self._kafka = kafka
        self._source = source
        self._poll_seconds = poll_seconds
        self.wake = asyncio.Event()
        _relays.add(self)

    async def run(self) -> None:
        """Send for ever. A broker or database that is away is waited for; ends by cancellation."""
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._kafka,
                enable_idempotence=True,
                acks="all",
                compression_type="lz4",
                max_batch_size=262_144,
                request_timeout_ms=15_000,
            )
            try:
                await producer.start()
                while True:
                    await self._send_all(producer)
                    await self._pause()
            except (KafkaError, *CONNECTION_FAULTS) as fault:
                log.warning("the outbox waits: %s", fault or type(fault).__name__)
                await asyncio.sleep(1)
            finally:
                await _stop(producer)

    async def _pause(self) -> None:
        self.wake.clear()
        try:
            await asyncio.wait_for(self.wake.wait(), self._poll_seconds)
        except TimeoutError:
            return

    async def _send_all(self, producer: AIOKafkaProducer) -> None:
        while rows := await self._db.fetch(_NEXT, BATCH):
            sent = [
                await producer.send(row["topic"], row["value"], row["key"], headers=self._headers(row)) for row in rows
            ]
            async with asyncio.timeout(30):
                await asyncio.gather(*sent)
            await self._db.execute(_SENT, [row["seq"] for row in rows])
            telemetry.metrics.sent.add(len(rows))

    def _headers(self, row: Row) -> list[tuple[str, bytes | None]]:
        if row["raw_headers"] is not None:
            return unpack_headers(row["raw_headers"])
        kind = BY_NAME[row["topic"]].event
        key = row["key"].decode()
        headers = attributes_of(kind, row["event_id"], key, source=self._source, time=row["time"])
        if row["traceparent"]:
            headers["traceparent"] = row["traceparent"]
        return [(name, value.encode()) for name, value in headers.items()]


async def _stop(producer: AIOKafkaProducer) -> None:
    # An idempotent producer whose broker is gone would flush for ever; what it holds is still in the outbox.
    try:
        async with asyncio.timeout(5):
            await producer.stop()
    except Exception as fault:
        log.debug("a producer did not stop in time: %r", fault)
