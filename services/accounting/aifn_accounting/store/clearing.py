"""What stands between this factory and others, month by month."""

from dataclasses import dataclass
from datetime import date, datetime

from aifn_common.database import Transaction
from aifn_events.vocabulary import JobId, ResourceId, Subject

# Above zero is due to this factory: it gave. Below zero is owed: its allocation paid for what another one gave.
_SIGNED = "CASE side WHEN 'home' THEN -amount ELSE amount END"
_LINES = f"""
WITH moved AS (
    SELECT resource, coalesce(sum({_SIGNED}) FILTER (WHERE settled_at < $2), 0)::bigint AS before,
        coalesce(sum(amount) FILTER (WHERE side = 'receiver' AND settled_at >= $2), 0)::bigint AS gave,
        coalesce(sum(amount) FILTER (WHERE side = 'home' AND settled_at >= $2), 0)::bigint AS took,
        count(*) FILTER (WHERE settled_at >= $2)::int AS jobs
    FROM settlement WHERE clearing = $1 AND settled_at < $3 GROUP BY resource
), paid AS (
    SELECT resource, coalesce(sum(amount) FILTER (WHERE month < $4), 0)::bigint AS before,
        coalesce(sum(amount) FILTER (WHERE month = $4), 0)::bigint AS now, min(month) FILTER (WHERE month > $4) AS later
    FROM clearing_month WHERE clearing = $1 GROUP BY resource
)
SELECT resource, m.before - coalesce(p.before, 0) AS opening, gave, took, jobs, coalesce(p.now, 0) AS settled,
    p.later AS settled_with
FROM moved m LEFT JOIN paid p USING (resource) ORDER BY resource"""
_ENTRIES = """
SELECT number, id, side, agreement, job_id, resource, amount, other_resource, other_amount, settled_at AS booked_at
FROM settlement WHERE clearing = $1 AND settled_at >= $2 AND settled_at < $3 AND number > $4 ORDER BY number LIMIT $5"""
_ADD = """
INSERT INTO clearing_month (clearing, month, resource, amount, reason, settled_by, settled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 2))"


@dataclass(frozen=True)
class Line:
    """One resource in one month: what stood at its beginning, what this factory gave and took, what was settled.

    `settled_with`: a later month, with which the rest of this one was settled.
    """

    resource: ResourceId
    opening: int
    gave: int
    took: int
    jobs: int
    settled: int
    settled_with: date | None

    @property
    def closing(self) -> int:
        """What stood at the end of the month; above zero is due to this factory, below zero is owed by it."""
        return self.opening + self.gave - self.took

    @property
    def left(self) -> int:
        """What of that is not settled, neither then nor with a later month."""
        return 0 if self.settled_with else self.closing - self.settled


@dataclass(frozen=True)
class Entry:
    """A job that ran at the other factory, or that the other one's project ran here."""

    number: int
    id: str
    side: str
    agreement: str
    job_id: JobId
    resource: ResourceId
    amount: int
    other_resource: ResourceId
    other_amount: int
    booked_at: datetime


async def lock(tx: Transaction, clearing: str) -> None:
    """Let one at a time settle with a factory."""
    await tx.execute(_LOCK, clearing)


async def lines(tx: Transaction, clearing: str, month: date, *, begins: datetime, ends: datetime) -> list[Line]:
    """A month's statement, one line for each resource that ever moved."""
    return [Line(**row) for row in await tx.fetch(_LINES, clearing, begins, ends, month)]


async def entries(
    tx: Transaction, clearing: str, *, begins: datetime, ends: datetime, after: int, limit: int
) -> list[Entry]:
    """The jobs behind a month's statement, in the order in which they were booked."""
    return [Entry(**row) for row in await tx.fetch(_ENTRIES, clearing, begins, ends, after, limit)]


async def add_month(
    tx: Transaction, clearing: str, month: date, line: Line, *, reason: str, by: Subject, at: datetime
) -> None:
    """Keep that what was left of a month was settled."""
    await tx.execute(_ADD, clearing, month, line.resource, line.left, reason, by, at)
