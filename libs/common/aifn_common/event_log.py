"""The event log: what a service heard and was ordered to do, as it came, in the transaction of what followed from it.

A service that keeps one has the table `event_log` and says so (`Subscriptions(..., keeps_log=True)`). Each message gets
an arrival number. They are given at the end of a transaction, when it holds every lock it needs: of two that touch the
same thing, the one that came first has the lower number, so the log can be carried out again in the order of numbers.
A row holds many messages, compressed, for a busy stream brings tens of thousands a second.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Literal

import msgspec
from cramjam import lz4

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.dead_letters import Record

Kind = Literal["heard", "set_aside", "order"]
Headers = Sequence[tuple[str, bytes | None]]

CHUNK = 1000
"""Messages in one row: small enough to be read back without much memory, large enough to compress well."""
_COLUMNS = ("first", "last", "transaction", "kind", "received_at", "seed", "body")
_TAKE = "SELECT take_arrival_numbers($1)"
_ONE = """
INSERT INTO event_log (first, last, transaction, kind, received_at, seed, body)
SELECT first, first + $1 - 1, first, $2, $3, $4, $5 FROM take_arrival_numbers($1) AS first"""
_READ = """
SELECT first, last, transaction, kind, received_at, seed, body FROM event_log WHERE first > $1 ORDER BY first"""
_CHANGED = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"

_fields = attrgetter("partition", "offset", "timestamp", "key", "headers", "value")
_encode = msgspec.msgpack.Encoder().encode


class Message(msgspec.Struct, array_like=True):
    """A message as it was heard; it can stand wherever a `Record` of the Kafka client can."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    headers: Headers
    value: bytes | None
    topic: str = ""


class Order(msgspec.Struct, frozen=True):
    """What a person asked for or the clock brought about, with all that it depends on beside the database.

    `name` is the method and path of a request, or the name of a timer's step; `settings` those that decide.
    """

    name: str
    words: dict[str, Any]
    by: str = ""
    entitlements: list[str] = []
    headers: dict[str, str] = {}
    body: bytes = b""
    settings: dict[str, Any] = {}


@dataclass(frozen=True)
class Entry:
    """One transaction: its messages with the arrival number of the first, or its order."""

    number: int
    kind: Kind
    at: datetime
    seed: bytes | None
    messages: list[Message] = field(default_factory=list)
    order: Order | None = None


_decode_messages = msgspec.msgpack.Decoder(tuple[str, list[Message]]).decode
_decode_order = msgspec.msgpack.Decoder(Order).decode
_arriving: ContextVar[Record | None] = ContextVar("aifn_arriving", default=None)
_repeating: ContextVar[bool] = ContextVar("aifn_repeating", default=False)


# Writing


async def keep(tx: Transaction, records: Sequence[Record], at: datetime, *, kind: Kind = "heard") -> None:
    """Keep messages that this transaction has handled, in the order in which it did; called at its end.

    Args:
        at: when they were handled, as everything that followed from them says: `clock.now()` in a `clock.held()`
            that spans the transaction.
    """
    if _repeating.get():
        return
    chunks = [
        (len(some), lz4.compress_block(_encode((topic, [*map(_fields, some)]))))
        for topic, all_of_it in groupby(records, attrgetter("topic"))
        for some in _parts(list(all_of_it))
    ]
    if len(chunks) == 1:
        await tx.execute(_ONE, chunks[0][0], kind, at, clock.seed(), bytes(chunks[0][1]))
    elif chunks:
        first = transaction = await tx.fetchval(_TAKE, len(records))
        rows = []
        for count, body in chunks:
            rows.append((first, first + count - 1, transaction, kind, at, clock.seed(), bytes(body)))
            first += count
        await tx.copy_records_to_table("event_log", records=rows, columns=_COLUMNS)


def _parts(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    return (records[start : start + CHUNK] for start in range(0, len(records), CHUNK))


@contextmanager
def arriving(record: Record | None) -> Iterator[None]:
    """While one message is handled: the message itself, for the transaction that follows from it."""
    token = _arriving.set(record)
    try:
        yield
    finally:
        _arriving.reset(token)


async def keep_arriving(tx: Transaction, *, kind: Kind = "heard") -> None:
    """Keep the message that is being handled, if its service keeps a log."""
    record = _arriving.get()
    if record is not None:
        await keep(tx, [record], clock.now(), kind=kind)


async def keep_order(tx: Transaction, order: Order) -> None:
    """Keep what was ordered, at the end of the transaction that carried it out, unless that has changed nothing."""
    if not _repeating.get() and await tx.fetchval(_CHANGED):
        await tx.execute(_ONE, 1, "order", clock.now(), clock.seed(), bytes(lz4.compress_block(_encode(order))))


# Reading


@contextmanager
def repeating() -> Iterator[None]:
    """While a log is carried out again: what that does is in the log already, and is not kept a second time."""
    token = _repeating.set(True)
    try:
        yield
    finally:
        _repeating.reset(token)


async def read(tx: Transaction, *, after: int = 0) -> AsyncIterator[Entry]:
    """Transaction after transaction in the order of their numbers; a cursor, so in a transaction of the caller's."""
    pending: Entry | None = None
    async for row in tx.cursor(_READ, after, prefetch=16):
        body = bytes(lz4.decompress_block(row["body"]))
        if pending is not None and row["transaction"] == pending.number:
            pending.messages.extend(_messages(body))
            continue
        if pending is not None:
            yield pending
        is_order = row["kind"] == "order"
        pending = Entry(
            row["transaction"],
            row["kind"],
            row["received_at"],
            row["seed"],
            [] if is_order else _messages(body),
            _decode_order(body) if is_order else None,
        )
    if pending is not None:
        yield pending


def _messages(body: bytes) -> list[Message]:
    topic, found = _decode_messages(body)
    return [msgspec.structs.replace(one, topic=topic) for one in found]
