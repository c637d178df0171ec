"""Rows for exports, read through a cursor of the database so that none is ever whole in memory; and hour values."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from aifn_common.database import Row, Transaction
from aifn_events.vocabulary import MachineId, ResourceId, Subject

from aifn_accounting.exports.focus import DayUse
from aifn_accounting.exports.ondemand import UserBalance
from aifn_accounting.exports.usage_record import RunSegment
from aifn_accounting.store.reports import Reach

ROWS_AT_ONCE = 2000

_SEEN = "($1 OR a.project_id = ANY($2::text[]) OR p.factory_id = ANY($3::text[]))"
_CHARGES = f"""
SELECT u.number, u.machine_id, u.local_job_id, u.submitted_at, u.segment, u.revision, u.job_id, a.project_id,
    p.factory_id, a.id AS allocation_id, a.award_id, w.mode, a.pool, c.resource, c.amount, c.rate_card, u.state,
    u.nodes, u.started_at, u.ended_at, u.pseudonym AS user, u.recorded_at, r.units_per_node, r.gpus_per_node
FROM current_usage u
JOIN usage_charge c ON c.usage_number = u.number
JOIN allocation a ON a.number = c.allocation_number
JOIN project p ON p.id = a.project_id
LEFT JOIN award w ON w.id = a.award_id
LEFT JOIN resource r ON r.id = c.resource
WHERE {_SEEN} AND u.ended_at >= $4 AND u.ended_at < $5
ORDER BY u.number, c.allocation_number LIMIT $6"""

_DAYS = f"""
WITH used AS (
    SELECT c.allocation_number, c.resource, day,
        sum(usage_part(c.amount, u.started_at, u.ended_at, day, day + interval '1 day'))::bigint AS amount
    FROM current_usage u
    JOIN usage_charge c ON c.usage_number = u.number
    JOIN allocation a ON a.number = c.allocation_number
    JOIN project p ON p.id = a.project_id
    CROSS JOIN LATERAL generate_series(
        greatest(date_trunc('day', u.started_at, 'UTC'), $4::timestamptz),
        least(date_trunc('day', u.ended_at, 'UTC'), $5::timestamptz - interval '1 day'), interval '1 day'
    ) AS day
    WHERE {_SEEN} AND u.ended_at >= $4 AND u.started_at < $5
    GROUP BY 1, 2, 3
)
SELECT used.day::date AS day, p.factory_id, p.id AS project_id, p.title AS project_title, a.id AS allocation_id,
    used.resource, used.amount, r.units_per_node, r.gpus_per_node, v.unit AS value_unit, v.amount AS value, v.currency,
    jsonb_strip_nulls(jsonb_build_object('pool', a.pool, 'mode', w.mode, 'country', w.country, 'award', w.id,
        'actor', w.applicant_kind))::text AS tags
FROM used
JOIN allocation a ON a.number = used.allocation_number
JOIN project p ON p.id = a.project_id
LEFT JOIN award w ON w.id = a.award_id
LEFT JOIN resource r ON r.id = used.resource
LEFT JOIN LATERAL (
    SELECT * FROM hour_value h WHERE h.resource = used.resource AND h.valid_from <= used.day
    ORDER BY h.valid_from DESC LIMIT 1
) v ON true
WHERE used.amount > 0 ORDER BY 1, 2, 3, 5, 6 LIMIT $6"""

_BALANCES = """
SELECT DISTINCT u.local_user AS user, a.project_id, a.available, r.units_per_node, r.gpus_per_node, a.number
FROM allocation a
JOIN project p ON p.id = a.project_id
JOIN resource r ON r.id = a.resource AND r.machine_id = $1
JOIN (SELECT DISTINCT project_id, local_user FROM usage_record WHERE machine_id = $1) u ON u.project_id = a.project_id
WHERE p.factory_id = $2 AND a.starts_at <= $3 AND a.ends_at > $3 AND NOT p.closed
  AND ($4 = 'node-hours' OR r.gpus_per_node > 0 AND a.resource LIKE '%/gpu-time')
ORDER BY 1, 2, 6"""

_VALUES = """
SELECT resource, unit, valid_from, amount, currency, source, entered_by, entered_at FROM hour_value
WHERE $1::text IS NULL OR (resource, valid_from) > ($1, $2::timestamptz) ORDER BY resource, valid_from LIMIT $3"""
_ADD_VALUE = """
INSERT INTO hour_value (resource, unit, valid_from, amount, currency, source, entered_by, entered_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (resource, valid_from) DO NOTHING"""
_COUNTED = "SELECT gpus_per_node FROM resource WHERE id = $1 AND $2 = ANY(factory_ids)"


@dataclass(frozen=True)
class ChargedRun(RunSegment):
    """A row of the usage export: a run segment with where its money came from, and how its hours are counted."""

    number: int
    award_id: str | None
    mode: str | None
    pool: str
    units_per_node: int | None
    gpus_per_node: int | None


@dataclass(frozen=True)
class HourValue:
    """What an hour would cost from a moment on, who says so, and from where they know."""

    resource: ResourceId
    unit: str
    valid_from: datetime
    amount: Decimal
    currency: str
    source: str
    entered_by: Subject
    entered_at: datetime


async def stream_runs(
    tx: Transaction, reach: Reach, since: datetime, until: datetime, *, limit: int
) -> AsyncIterator[list[ChargedRun]]:
    """What was charged for runs that ended between two moments, the present revision of each, a batch at a time."""
    async for rows in _batches(tx, _CHARGES, reach, since, until, limit):
        yield [ChargedRun(**row) for row in rows]


async def stream_days(
    tx: Transaction, reach: Reach, since: datetime, until: datetime, *, limit: int
) -> AsyncIterator[list[DayUse]]:
    """What each allocation used on each UTC day, with the value of an hour on that day, a batch at a time."""
    async for rows in _batches(tx, _DAYS, reach, since, until, limit):
        yield [DayUse(**row) for row in rows]


async def _batches(
    tx: Transaction, statement: str, reach: Reach, since: datetime, until: datetime, limit: int
) -> AsyncIterator[Sequence[Row]]:
    """In a transaction of its own that sees one moment."""
    async with tx.transaction(isolation="repeatable_read", readonly=True):
        cursor = await tx.cursor(
            statement, reach.everything, list(reach.projects), list(reach.factories), since, until, limit
        )
        while rows := await cursor.fetch(ROWS_AT_ONCE):
            yield rows


async def user_balances(
    tx: Transaction, machine_id: MachineId, factory_id: str, at: datetime, unit: str
) -> Iterable[UserBalance]:
    """What the projects of everybody who has run something on a machine have left there."""
    rows = await tx.fetch(_BALANCES, machine_id, factory_id, at, unit)
    return [
        UserBalance(row["user"], row["project_id"], row["available"], row["units_per_node"], row["gpus_per_node"])
        for row in rows
    ]


async def list_values(tx: Transaction, *, after: tuple[ResourceId, datetime] | None, limit: int) -> list[HourValue]:
    """All values, by resource and then by the moment from which they hold."""
    resource, moment = after or (None, None)
    return [HourValue(**row) for row in await tx.fetch(_VALUES, resource, moment, limit)]


async def counted_gpus(tx: Transaction, resource: ResourceId, factory_id: str) -> int | None:
    """How many GPUs a node has that a factory's resource is of, 0 for none; None if it is no resource of its own."""
    row = await tx.fetchrow(_COUNTED, resource, factory_id)
    return None if row is None else int(row["gpus_per_node"] or 0)


async def add_value(tx: Transaction, value: HourValue) -> bool:
    """Keep a value; False if there is one from that moment on."""
    done = await tx.execute(
        _ADD_VALUE,
        value.resource,
        value.unit,
        value.valid_from,
        value.amount,
        value.currency,
        value.source,
        value.entered_by,
        value.entered_at,
    )
    return done == "INSERT 0 1"
