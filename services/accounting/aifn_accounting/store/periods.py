"""Accounting periods: what belongs to a month, what was frozen when it was closed, and what was entered since."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from aifn_common.database import Transaction
from aifn_events.vocabulary import AllocationId, JobId, MachineId, ProjectId, ResourceId

from aifn_accounting.domain.periods import OpenHolds, Total, bounds

_LOCK = "SELECT pg_advisory_xact_lock(7075616767)"
_PERIOD = """
SELECT month, closed_at, closed_by, reason, last_number, holds_carried, held_carried, gaps_accepted, digest
FROM period"""
_LAST_CLOSED = "SELECT max(month) FROM period"
_FIRST_USED = """
SELECT date_trunc('month', least(
    first_started, (SELECT min(started_at) FROM usage_record u WHERE u.number > last_number)
) AT TIME ZONE 'UTC')::date FROM usage_watch"""
_OPEN_HOLDS = """
SELECT count(*)::int AS count, coalesce(sum(greatest(b.amount - d.drawn, 0)), 0)::bigint AS amount,
    coalesce(min(b.job_id), '') AS first_job
FROM job_budget b CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.amount), 0) AS drawn FROM current_usage u JOIN usage_charge c ON c.usage_number = u.number
    WHERE u.job_id = b.job_id AND c.allocation_number = b.allocation_number
) d
WHERE b.released_at IS NULL AND b.allocation_number IS NOT NULL AND EXISTS (
    SELECT FROM ledger_transfer t WHERE t.kind = 'hold' AND t.job_id = b.job_id AND t.recorded_at < $1
)"""
_OPEN_GAPS = "SELECT count(*)::int FROM usage_gap WHERE closed_at IS NULL AND day >= $1 AND day < $2"
# What belonged to the month as it was known up to a number: of each record the highest revision heard by then.
_TOTALS = """
SELECT c.allocation_number, a.id AS allocation_id, c.resource,
    sum(usage_part(c.amount, u.started_at, u.ended_at, $1, $2))::bigint AS amount,
    count(*) FILTER (WHERE c.amount > 0) AS records
FROM usage_record u
JOIN usage_charge c ON c.usage_number = u.number
JOIN allocation a ON a.number = c.allocation_number
WHERE u.number <= $3 AND u.ended_at >= $1 AND u.started_at < $2 AND (u.ended_at > $1 OR u.started_at = $1)
  AND NOT EXISTS (
    SELECT FROM usage_record later
    WHERE (later.local_job_id, later.machine_id, later.submitted_at, later.segment)
        = (u.local_job_id, u.machine_id, u.submitted_at, u.segment)
      AND later.revision > u.revision AND later.number <= $3
  )
GROUP BY c.allocation_number, a.id, c.resource ORDER BY c.allocation_number"""
_ADD_PERIOD = """
INSERT INTO period
    (month, closed_at, closed_by, reason, last_number, holds_carried, held_carried, gaps_accepted, digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
_ADD_TOTALS = """
INSERT INTO period_total (month, allocation_number, resource, amount, records)
SELECT $1, n, r, a, c FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) AS t (n, r, a, c)"""
_FROZEN = """
SELECT t.allocation_number, a.id AS allocation_id, t.resource, t.amount, t.records
FROM period_total t JOIN allocation a ON a.number = t.allocation_number WHERE t.month = $1 ORDER BY 1"""
# Of records heard since: what each changes in each closed month that knows nothing of it. It takes the place of the
# highest revision below it that was heard earlier and was charged. Which allocation paid for that one does not matter:
# one that pays no more has a charge of nothing under the new number.
_ENTER = """
INSERT INTO period_entry
    (month, recorded_in, kind, usage_number, corrects, allocation_number, resource, change, posted_at)
SELECT month, recorded_in, CASE WHEN corrects IS NULL THEN 'late' ELSE 'correction' END, number, corrects,
    allocation_number, resource, change, $1
FROM (
    SELECT m.month, u.number, p.number AS corrects, c.allocation_number, c.resource,
        greatest(
            date_trunc('month', u.recorded_at AT TIME ZONE 'UTC')::date,
            ((SELECT max(month) FROM period) + interval '1 month')::date
        ) AS recorded_in,
        usage_part(c.amount, u.started_at, u.ended_at, m.since, m.until)
        - coalesce(usage_part(o.amount, p.started_at, p.ended_at, m.since, m.until), 0) AS change
    FROM usage_record u
    JOIN usage_charge c ON c.usage_number = u.number
    LEFT JOIN LATERAL (
        SELECT e.number, e.started_at, e.ended_at FROM usage_record e
        WHERE (e.local_job_id, e.machine_id, e.submitted_at, e.segment)
            = (u.local_job_id, u.machine_id, u.submitted_at, u.segment)
          AND e.revision < u.revision AND e.number < u.number
          AND EXISTS (SELECT FROM usage_charge x WHERE x.usage_number = e.number)
        ORDER BY e.revision DESC LIMIT 1
    ) p ON u.revision > 0
    LEFT JOIN usage_charge o ON o.usage_number = p.number AND o.allocation_number = c.allocation_number
    JOIN (
        SELECT month, last_number, closed_at, month::timestamp AT TIME ZONE 'UTC' AS since,
            (month + interval '1 month') AT TIME ZONE 'UTC' AS until
        FROM period
    ) m ON {unknown} AND m.until > least(u.started_at, p.started_at)
        AND m.since <= greatest(u.ended_at, p.ended_at)
    WHERE {news}
) found
WHERE change <> 0 ORDER BY number, month, allocation_number
ON CONFLICT DO NOTHING"""
_POST = _ENTER.format(
    unknown="m.last_number < u.number",
    news="u.number > $2 AND u.number <= $3 AND (u.revision > 0 OR u.started_at < $4)",
)
# What waited for an allocation gets its charge under the number it has had all the time.
_POST_SETTLED = _ENTER.format(
    unknown="m.closed_at <= w.settled_at",
    news="c.settled AND w.settled_at >= (SELECT min(closed_at) FROM period)",
).replace("    LEFT JOIN LATERAL (", "    JOIN suspense w ON w.usage_number = u.number\n    LEFT JOIN LATERAL (")
_ENTRIES = """
SELECT e.number, e.month, e.recorded_in, e.kind, e.change, e.resource, a.id AS allocation_id, a.project_id,
    u.machine_id, u.local_job_id, u.submitted_at, u.segment, u.revision, p.revision AS corrects_revision, u.job_id,
    u.recorded_at
FROM period_entry e
JOIN allocation a ON a.number = e.allocation_number
JOIN usage_record u ON u.number = e.usage_number
LEFT JOIN usage_record p ON p.number = e.corrects
WHERE (e.month = $1 OR e.recorded_in = $2) AND e.number > $3 ORDER BY e.number LIMIT $4"""
_ENTERED = """
SELECT greatest((SELECT last_number FROM usage_watch), (SELECT max(last_number) FROM period))"""
_SUMS = """
SELECT month, coalesce(sum(amount), 0)::bigint AS amount, coalesce(sum(records), 0)::bigint AS records
FROM period_total GROUP BY month"""
_ENTRY_COUNTS = "SELECT month, count(*)::int AS entries FROM period_entry GROUP BY month"
_CHANGES = """
SELECT allocation_number, sum(change)::bigint AS change FROM period_entry WHERE month = $1 GROUP BY 1"""


@dataclass(frozen=True)
class Period:
    """A month that is closed, and what was known then."""

    month: date
    closed_at: datetime
    closed_by: str
    reason: str
    last_number: int
    holds_carried: int
    held_carried: int
    gaps_accepted: int
    digest: str


@dataclass(frozen=True)
class MonthTotal:
    """What belongs to one month of one allocation."""

    allocation_number: int
    allocation_id: AllocationId
    resource: ResourceId
    amount: int
    records: int

    def as_total(self) -> Total:
        """The same without our own number."""
        return Total(self.allocation_id, self.resource, self.amount, self.records)


@dataclass(frozen=True)
class LinkedEntry:
    """What a record that came after the closing changed in a closed month; `corrects_revision` is its own before."""

    number: int
    month: date
    recorded_in: date
    kind: str
    change: int
    resource: ResourceId
    allocation_id: AllocationId
    project_id: ProjectId
    machine_id: MachineId
    local_job_id: str
    submitted_at: datetime
    segment: int
    revision: int
    corrects_revision: int | None
    job_id: JobId
    recorded_at: datetime


async def lock_periods(tx: Transaction) -> None:
    """Be the only one who closes months or posts entries until the end."""
    await tx.execute(_LOCK)


async def list_closed(tx: Transaction) -> list[Period]:
    """All closed months, oldest first."""
    return [Period(**row) for row in await tx.fetch(f"{_PERIOD} ORDER BY month")]


async def find_closed(tx: Transaction, month: date) -> Period | None:
    """A closed month; None if it is open."""
    row = await tx.fetchrow(f"{_PERIOD} WHERE month = $1", month)
    return None if row is None else Period(**row)


async def last_closed(tx: Transaction) -> date | None:
    """The last month that was closed."""
    found: date | None = await tx.fetchval(_LAST_CLOSED)
    return found


async def first_used(tx: Transaction) -> date | None:
    """The first month with usage."""
    found: date | None = await tx.fetchval(_FIRST_USED)
    return found


async def open_holds(tx: Transaction, before: datetime) -> OpenHolds:
    """Holds that were taken before a moment and are not released."""
    (row,) = await tx.fetch(_OPEN_HOLDS, before)
    return OpenHolds(**row)


async def count_open_gaps(tx: Transaction, since: date, until: date) -> int:
    """Site-days from one day up to another that do not match."""
    return int(await tx.fetchval(_OPEN_GAPS, since, until))


async def totals(tx: Transaction, month: date, last_number: int) -> list[MonthTotal]:
    """What belongs to a month, as it was known when the record of that number had been heard."""
    return [MonthTotal(**row) for row in await tx.fetch(_TOTALS, *bounds(month), last_number)]


async def frozen_totals(tx: Transaction, month: date) -> list[MonthTotal]:
    """What belonged to a closed month when it was closed."""
    return [MonthTotal(**row) for row in await tx.fetch(_FROZEN, month)]


async def changes(tx: Transaction, month: date) -> dict[int, int]:
    """What was entered into a closed month since, by the allocation's number."""
    return {row["allocation_number"]: row["change"] for row in await tx.fetch(_CHANGES, month)}


async def sums(tx: Transaction) -> dict[date, tuple[int, int]]:
    """Records and entries of closed months: how many were frozen, and how many came since."""
    entries = {row["month"]: row["entries"] for row in await tx.fetch(_ENTRY_COUNTS)}
    return {row["month"]: (row["records"], entries.get(row["month"], 0)) for row in await tx.fetch(_SUMS)}


async def add_period(tx: Transaction, period: Period, rows: Sequence[MonthTotal]) -> None:
    """Close a month with its totals."""
    await tx.execute(
        _ADD_PERIOD,
        period.month,
        period.closed_at,
        period.closed_by,
        period.reason,
        period.last_number,
        period.holds_carried,
        period.held_carried,
        period.gaps_accepted,
        period.digest,
    )
    await tx.execute(
        _ADD_TOTALS,
        period.month,
        [one.allocation_number for one in rows],
        [one.resource for one in rows],
        [one.amount for one in rows],
        [one.records for one in rows],
    )


async def post_entries(tx: Transaction, after: int, up_to: int, at: datetime) -> None:
    """Enter what records of these numbers change in closed months; those entered before are left as they are."""
    last = await last_closed(tx)
    if last is not None:
        await tx.execute(_POST, at, after, up_to, bounds(last)[1])
        await tx.execute(_POST_SETTLED, at)


async def entered_up_to(tx: Transaction) -> int:
    """The last record whose entries are posted."""
    return int(await tx.fetchval(_ENTERED))


async def list_entries(
    tx: Transaction, *, month: date | None, recorded_in: date | None, after: int, limit: int
) -> list[LinkedEntry]:
    """Entries into a closed month, or those that stand on the statement of an open one, oldest first."""
    return [LinkedEntry(**row) for row in await tx.fetch(_ENTRIES, month, recorded_in, after, limit)]
