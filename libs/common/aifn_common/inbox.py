"""Receive each event once: the row that says so is written in the transaction of the effect."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aifn_events.base import Event

from aifn_common import clock, event_log, outbox, telemetry
from aifn_common.database import Database, Transaction, transaction

E = TypeVar("E", bound=Event)

_REMEMBER = "INSERT INTO inbox (consumer, source, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
_REMEMBER_ALL = """
INSERT INTO inbox (consumer, source, event_id)
SELECT $1, s, i FROM unnest($2::text[], $3::text[]) AS t(s, i) ORDER BY s, i
ON CONFLICT DO NOTHING RETURNING source, event_id"""
_FORGET = "DELETE FROM inbox WHERE received_at < now() - make_interval(days => $1)"
KEEP_DAYS = 35
"""Longer than any topic that is not compacted keeps a message; a compacted one repeats only what is still true."""


async def deliver_once(db: Database, event: E, action: Callable[[Transaction, E], Awaitable[None]]) -> bool:
    """Run `action(tx, event)` in one transaction with the inbox row; False if this event was here before.

    An event is known by consumer, source and id. The consumer is the package of the action (one database has one
    service), followed by the topic, so that a service may hear one event on two topics.
    """
    consumer = f"{action.__module__.split('.')[0]}:{event.topic}"
    with clock.held():
        async with transaction(db) as tx:
            if await tx.execute(_REMEMBER, consumer, event.source, event.id) == "INSERT 0 0":
                telemetry.metrics.repeated.add(1, {"topic": event.topic})
                return False
            await action(tx, event)
            await event_log.keep_arriving(tx)
    outbox.nudge()
    return True


async def first_heard(tx: Transaction, consumer: str, events: Sequence[E]) -> list[E]:
    """Of a batch that is handled in this transaction, the events that were not here before: each once, in order."""
    if not events:
        return []
    rows = await tx.fetch(_REMEMBER_ALL, consumer, [one.source for one in events], [one.id for one in events])
    new = {(row["source"], row["event_id"]) for row in rows}
    found = []
    for event in events:
        if (event.source, event.id) in new:
            new.discard((event.source, event.id))
            found.append(event)
    if len(found) < len(events):
        telemetry.metrics.repeated.add(len(events) - len(found), {"topic": events[0].topic})
    return found


async def forget_old(db: Database) -> None:
    """Drop rows that no redelivery can meet any more."""
    await db.execute(_FORGET, KEEP_DAYS)
