"""Sets hopeless messages aside, with the reason, and sends them again when somebody has mended the cause.

A row in the service's database says what was set aside; the message itself goes to `<topic>-dead`, byte for byte,
through the outbox of the same transaction. Replaying sends it to its own topic again: who has handled it drops the
copy by its id, who has not gets another try.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aifn_events.catalog import BY_NAME
from aifn_events.cloudevents import MalformedEvent

from aifn_common import outbox, telemetry
from aifn_common.database import Database, Row, Transaction, transaction
from aifn_common.errors import NotFound, Refusal

_SET_ASIDE = """
INSERT INTO dead_letter (consumer, topic, partition, "offset", key, value, raw_headers, code, reason, details)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (consumer, topic, partition, "offset") DO NOTHING"""
_LIST = """
SELECT id, consumer, topic, partition, "offset", code, reason, details, set_aside_at, replayed_at, replayed_by
FROM dead_letter WHERE id > $1 AND ($2::text IS NULL OR topic = $2) ORDER BY id LIMIT $3"""
_TAKE = "SELECT topic, key, value, raw_headers FROM dead_letter WHERE id = $1 FOR UPDATE"
_WAITING = "SELECT topic, count(*) AS waiting FROM dead_letter WHERE replayed_at IS NULL GROUP BY topic"
_REPLAYED = "UPDATE dead_letter SET replayed_at = now(), replayed_by = $2 WHERE id = $1"


class Record(Protocol):
    """A message as the Kafka client hands it out."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Verdict:
    """Why a message was set aside: a code for machines, a sentence for people, values for both."""

    code: str
    reason: str
    details: dict[str, Any]


def verdict_of(fault: Exception) -> Verdict:
    """Put a fault into words. Anything that is neither a refusal nor malformed is a fault of ours."""
    if isinstance(fault, Refusal):
        return Verdict(fault.code, _keepable(str(fault)), fault.details)
    if isinstance(fault, MalformedEvent):
        return Verdict(fault.code, _keepable(str(fault)), {})
    return Verdict("fault", _keepable(f"{type(fault).__name__}: {fault}"), {})


def _keepable(text: str) -> str:
    """At most 2,000 characters, all of which a database can keep: no NUL, no half of a surrogate pair."""
    return text[:2000].replace("\0", "?").encode(errors="replace").decode()


async def set_aside(tx: Transaction, consumer: str, record: Record, why: Verdict) -> None:
    """Keep a message that cannot be handled, once, and copy it to its dead-letter topic."""
    headers = outbox.pack_headers(record.headers)
    done = await tx.execute(
        _SET_ASIDE,
        consumer,
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        headers,
        why.code,
        why.reason,
        _plain(why.details),
    )
    if done == "INSERT 0 0":
        return
    headers_too = list(record.headers)
    value = record.value
    origin: list[tuple[str, bytes | None]] = [
        ("aifn-dead-consumer", consumer.encode()),
        ("aifn-dead-origin", f"{record.topic}/{record.partition}/{record.offset}".encode()),
        ("aifn-dead-code", why.code.encode()),
        ("aifn-dead-reason", why.reason.encode()),
    ]
    key = record.key
    size = outbox.size_of(key, value, headers_too + origin)
    if size > outbox.MOST_BYTES:
        # Compression lets a message in that is too large to be sent again: its copy only tells where to find it.
        key, value, headers_too = None, None, [("aifn-dead-kept-in", b"database"), ("aifn-dead-size", b"%d" % size)]
    all_headers = outbox.pack_headers(headers_too + origin)
    await outbox.pass_on(tx, BY_NAME[record.topic].dead_name, key, value, all_headers)
    telemetry.metrics.dead.add(1, {"topic": record.topic, "code": why.code})


def _plain(details: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, int | bool | type(None)) else _keepable(str(value))
        for name, value in details.items()
    }


async def list_them(tx: Transaction, *, after: int, topic: str | None, limit: int) -> list[Row]:
    """Dead letters in the order they were set aside, from `after` on."""
    return await tx.fetch(_LIST, after, topic, limit)


async def replay(tx: Transaction, number: int, *, by: str) -> str:
    """Send a dead letter to its own topic again; returns the topic. Raises NotFound, MessageTooLarge."""
    row = await tx.fetchrow(_TAKE, number)
    if row is None:
        raise NotFound(f"there is no dead letter {number}")
    await outbox.pass_on(tx, row["topic"], row["key"], row["value"], row["raw_headers"])
    await tx.execute(_REPLAYED, number, by)
    return str(row["topic"])


async def measure(db: Database) -> None:
    """Put into the metrics how many messages of each topic are set aside and were not sent again."""
    telemetry.metrics.dead_waiting.drop()
    for row in await db.fetch(_WAITING):
        telemetry.metrics.dead_waiting.set(row["waiting"], topic=row["topic"])


async def set_aside_alone(
    db: Database,
    consumer: str,
    record: Record,
    why: Verdict,
    *,
    also: Callable[[Transaction], Awaitable[None]] | None = None,
) -> None:
    """The same in a transaction of its own; `also` is done in it."""
    async with transaction(db) as tx:
        await set_aside(tx, consumer, record, why)
        if also is not None:
            await also(tx)
    outbox.nudge()
