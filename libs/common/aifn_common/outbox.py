"""Announce an event: a row in the transaction that makes it true, a message once that has been committed.

One relay per service sends in order of `seq`. Two events about one thing keep their order because their
transactions hold that thing's row lock when they announce. A crash between sending and deleting sends twice, with
the same id: receivers drop the copy.
"""

import asyncio
import itertools
import json
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence

from aifn_events.base import Event
from aifn_events.catalog import BY_NAME
from aifn_events.cloudevents import attributes_of
from aifn_events.vocabulary import new_id
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from aifn_common import clock, telemetry
from aifn_common.broker import connection_of, start_or_say_why
from aifn_common.database import CONNECTION_FAULTS, Database, Row, Transaction
from aifn_common.errors import Refusal
from aifn_common.settings import ServiceSettings

log = logging.getLogger(__name__)

_INSERT = "INSERT INTO outbox (event_id, topic, key, value, time, traceparent) VALUES ($1, $2, $3, $4, $5, $6)"
_INSERT_RAW = """
INSERT INTO outbox (event_id, topic, key, value, time, raw_headers) VALUES ('', $1, $2, $3, $4, $5)"""
_INSERT_SERIES = """
INSERT INTO outbox (event_id, topic, time, traceparent, first, last) VALUES ($1, $2, $3, $4, $5, $6)"""
_COLUMNS = ("event_id", "topic", "key", "value", "time", "traceparent")
_RAW_COLUMNS = ("event_id", "topic", "key", "value", "time", "raw_headers")
_NEXT = """
SELECT seq, event_id, topic, key, value, time, traceparent, raw_headers, first, last FROM outbox
ORDER BY seq LIMIT $1"""
_SENT = "DELETE FROM outbox WHERE seq = ANY($1::bigint[])"
_SENT_UNTIL = "UPDATE outbox SET first = $2 WHERE seq = $1"
_WAITING = "SELECT coalesce(sum(coalesce(last - first + 1, 1)), 0)::bigint FROM outbox"
_STATE = """
SELECT (SELECT coalesce(sum(coalesce(last - first + 1, 1)), 0)::bigint
        FROM (SELECT first, last FROM outbox LIMIT 100000) AS counted) AS waiting,
       (SELECT time FROM outbox ORDER BY seq LIMIT 1) AS oldest"""

BATCH = 1000
MOST_BYTES = 1_000_000
"""Key, value and headers of one message: a broker's usual limit (1,048,588) with room for its own framing."""
RawHeaders = Sequence[tuple[str, bytes | None]]
Message = tuple[str, bytes, bytes]
"""One message of a series: what is added to the series' event id, key, value."""
_Reader = Callable[[Database, int, int], Awaitable[Sequence[Message]]]
_readers: dict[str, _Reader] = {}
_relays: "weakref.WeakSet[Relay]" = weakref.WeakSet()


class MessageTooLarge(Refusal):
    """No broker would take this message; in the outbox it would stop all that come after it."""

    code = "message_too_large"
    status = 422

    def __init__(self, topic: str, size: int) -> None:
        super().__init__(f"a message of {size} bytes is too large for {topic}: at most {MOST_BYTES}")
        self.size = size


async def announce(tx: Transaction, event: Event) -> None:
    """Tell the others, once this transaction is committed; in the trace the event names, else the present one.

    Raises: MessageTooLarge.
    """
    await tx.execute(_INSERT, *_row(event))


async def announce_all(tx: Transaction, events: Iterable[Event]) -> None:
    """Tell the others many things at once, in this order: the path for busy streams. Raises MessageTooLarge."""
    rows = [_row(event) for event in events]
    if rows:
        await tx.copy_records_to_table("outbox", records=rows, columns=_COLUMNS)


def _row(event: Event) -> tuple[object, ...]:
    value = event.model_dump_json().encode()
    if len(value) > MOST_BYTES - 2000:
        raise MessageTooLarge(event.topic, len(value))
    return (
        event.id,
        event.topic,
        event.key.encode(),
        value,
        clock.now(),
        event.traceparent or telemetry.current_traceparent(),
    )


def series(kind: type[Event]) -> Callable[[_Reader], _Reader]:
    """Register who makes the messages of a series: given the first and the last number, in the order of numbers."""

    def keep(reader: _Reader) -> _Reader:
        _readers[kind.topic] = reader
        return reader

    return keep


async def announce_series(tx: Transaction, kind: type[Event], first: int, last: int) -> None:
    """Tell the others about rows that are numbered from `first` to `last` and never change: one row here for all.

    For the busiest streams: their messages are made when they are sent, from what is stored anyway.
    """
    await tx.execute(_INSERT_SERIES, new_id(), kind.topic, clock.now(), telemetry.current_traceparent(), first, last)


async def pass_on(tx: Transaction, topic: str, key: bytes | None, value: bytes | None, headers: str) -> None:
    """Send a message on as it came, e.g. to the dead letters; `headers` as made by `pack_headers`.

    Raises MessageTooLarge.
    """
    size = size_of(key, value, unpack_headers(headers))
    if size > MOST_BYTES:
        raise MessageTooLarge(topic, size)
    await tx.execute(_INSERT_RAW, topic, key, value, clock.now(), headers)


async def pass_all_on(tx: Transaction, messages: Iterable[tuple[str, bytes, bytes]]) -> None:
    """Send many messages without headers, each a topic, a key and a value, in this order. Raises MessageTooLarge."""
    now = clock.now()
    rows = []
    for topic, key, value in messages:
        if size_of(key, value, ()) > MOST_BYTES:
            raise MessageTooLarge(topic, size_of(key, value, ()))
        rows.append(("", topic, key, value, now, "[]"))
    if rows:
        await tx.copy_records_to_table("outbox", records=rows, columns=_RAW_COLUMNS)


def size_of(key: bytes | None, value: bytes | None, headers: RawHeaders) -> int:
    """Bytes of a message before the client adds its framing (a few for each header).

    >>> size_of(b"key", None, [("a", b"12")])
    22
    """
    return len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(raw or b"") + 16 for name, raw in headers)


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
    return int(await db.fetchval(_WAITING))


async def measure(db: Database, *, clock_factor: int) -> None:
    """Put into the metrics how many messages wait and for how long, in real seconds."""
    row = await db.fetchrow(_STATE)
    assert row is not None
    age = (clock.now() - row["oldest"]).total_seconds() / clock_factor if row["oldest"] else 0.0
    telemetry.metrics.outbox_waiting.set(row["waiting"])
    telemetry.metrics.outbox_age.set(max(0.0, age))


class Relay:
    """Sends what the outbox holds, in order. Only one per database may run: the caller holds the service's lock."""

    def __init__(self, db: Database, settings: ServiceSettings, *, source: str) -> None:
        self._db = db
        self._settings = settings
        self._source = source
        self.wake = asyncio.Event()
        _relays.add(self)

    async def run(self) -> None:
        """Send for ever. A broker or database that is away is waited for; ends by cancellation."""
        while True:
            producer = AIOKafkaProducer(
                **connection_of(self._settings),
                enable_idempotence=True,
                acks="all",
                compression_type="lz4",
                max_batch_size=262_144,
                request_timeout_ms=15_000,
            )
            try:
                await start_or_say_why(producer.start(), self._settings)
                while True:
                    await self._send_all(producer)
                    await self._pause()
            except (KafkaError, *CONNECTION_FAULTS) as fault:
                log.warning("the outbox waits: %s", str(fault) or repr(fault))
                await asyncio.sleep(1)
            finally:
                await _stop(producer)

    async def _pause(self) -> None:
        self.wake.clear()
        try:
            await asyncio.wait_for(self.wake.wait(), self._settings.relay_poll_seconds)
        except TimeoutError:
            return

    async def _send_all(self, producer: AIOKafkaProducer) -> None:
        while rows := await self._db.fetch(_NEXT, BATCH):
            for is_series, some in itertools.groupby(rows, lambda row: row["first"] is not None):
                if is_series:
                    for row in some:
                        await self._send_series(producer, row)
                else:
                    await self._send_single(producer, list(some))

    async def _send_single(self, producer: AIOKafkaProducer, rows: Sequence[Row]) -> None:
        await _send(producer, [(row["topic"], _value(row), row["key"], self._headers(row)) for row in rows])
        await self._db.execute(_SENT, [row["seq"] for row in rows])

    async def _send_series(self, producer: AIOKafkaProducer, row: Row) -> None:
        """Send a series a part at a time, and remember how far it went: a crash repeats one part at most."""
        kind = BY_NAME[row["topic"]].event
        for first in range(row["first"], row["last"] + 1, BATCH):
            last = min(first + BATCH - 1, row["last"])
            messages = await _readers[row["topic"]](self._db, first, last)
            await _send(
                producer,
                [
                    (row["topic"], value, key, self._event_headers(kind, f"{row['event_id']}-{suffix}", key, row))
                    for suffix, key, value in messages
                ],
            )
            await self._db.execute(_SENT_UNTIL, row["seq"], last + 1)
        await self._db.execute(_SENT, [row["seq"]])

    def _headers(self, row: Row) -> list[tuple[str, bytes | None]]:
        if row["raw_headers"] is not None:
            return unpack_headers(row["raw_headers"])
        return self._event_headers(BY_NAME[row["topic"]].event, row["event_id"], row["key"], row)

    def _event_headers(self, kind: type[Event], event_id: str, key: bytes, row: Row) -> list[tuple[str, bytes | None]]:
        headers = attributes_of(kind, event_id, key.decode(), source=self._source, time=row["time"])
        if row["traceparent"]:
            headers["traceparent"] = row["traceparent"]
        return [(name, value.encode()) for name, value in headers.items()]


async def _send(
    producer: AIOKafkaProducer,
    messages: Sequence[tuple[str, bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
) -> None:
    """Send messages in order, and wait until the broker has them all."""
    sent = [await producer.send(topic, value, key, headers=headers) for topic, value, key, headers in messages]
    async with asyncio.timeout(30):
        await asyncio.gather(*sent)
    telemetry.metrics.sent.add(len(messages))


def _value(row: Row) -> bytes | None:
    # Somebody else's client may send neither key nor value; ours cannot, and the row would stop all that come after.
    value: bytes | None = row["value"]
    return b"" if value is None and row["key"] is None else value


async def _stop(producer: AIOKafkaProducer) -> None:
    # An idempotent producer whose broker is gone would flush for ever; what it holds is still in the outbox.
    try:
        async with asyncio.timeout(5):
            await producer.stop()
    except Exception as fault:
        log.debug("a producer did not stop in time: %r", fault)
        await _abandon(producer)


async def _abandon(producer: AIOKafkaProducer) -> None:
    # Left alone, its sender would go on, and say old things after newer ones as soon as the broker is back.
    for close in (producer.client.close, producer._sender.close):
        try:
            async with asyncio.timeout(2):
                await close()
        except Exception as fault:
            log.debug("a part of a producer did not stop: %r", fault)
