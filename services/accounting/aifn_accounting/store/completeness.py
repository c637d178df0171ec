"""Which site-days are to be looked at, what arrived of them, and the gaps that were found."""

from dataclasses import dataclass
from datetime import date, datetime

from aifn_common.database import Transaction
from aifn_events.vocabulary import MachineId

from aifn_accounting.domain.completeness import SiteDay

_WATCHED = "SELECT last_number FROM usage_watch FOR UPDATE"
_SET_WATCHED = """
UPDATE usage_watch SET last_number = $1, first_started = least(
    first_started, (SELECT min(started_at) FROM usage_record u WHERE u.number > last_number AND u.number <= $1)
)"""
# A day is compared when it is over and was heard of a while ago; more records of a day that is over do not put it off,
# a new statement does.
_DUE = """
INSERT INTO usage_day_due (machine_id, day, heard_at)
SELECT machine_id, day, greatest($1::timestamptz, (day + 1)::timestamp AT TIME ZONE 'UTC')
FROM ({days}) found
ON CONFLICT (machine_id, day) DO UPDATE SET heard_at = EXCLUDED.heard_at WHERE {condition}"""
_TOUCHED_DAYS = """
    SELECT machine_id, (ended_at AT TIME ZONE 'UTC')::date AS day FROM usage_record WHERE number > $2 AND number <= $3
    UNION
    SELECT e.machine_id, (e.ended_at AT TIME ZONE 'UTC')::date FROM usage_record u JOIN usage_record e
        ON (e.local_job_id, e.machine_id, e.submitted_at, e.segment)
         = (u.local_job_id, u.machine_id, u.submitted_at, u.segment)
    WHERE u.number > $2 AND u.number <= $3 AND u.revision > 0 AND e.number <= u.number"""
_TOUCH = _DUE.format(days=_TOUCHED_DAYS, condition="false")
_TOUCH_ONE = _DUE.format(days="SELECT $2::text AS machine_id, $3::date AS day", condition="true")
# A site that has ever made a statement makes one for each of its days, even if nothing ended on it.
_SILENT = _DUE.format(
    days="""
    SELECT s.machine_id, d::date AS day
    FROM (SELECT machine_id, max(day) AS last FROM usage_day GROUP BY 1) s
    CROSS JOIN generate_series(greatest(s.last, ($1 AT TIME ZONE 'UTC')::date - $2::int) + 1,
        ($1 AT TIME ZONE 'UTC')::date - 1, interval '1 day') d
    WHERE NOT EXISTS (
        SELECT FROM usage_gap g WHERE g.machine_id = s.machine_id AND g.day = d::date AND g.closed_at IS NULL
    )""",
    condition="false",
)
_TAKE_RIPE = """
DELETE FROM usage_day_due WHERE (machine_id, day) IN (
    SELECT machine_id, day FROM usage_day_due WHERE heard_at <= $1 ORDER BY heard_at LIMIT $2 FOR UPDATE SKIP LOCKED
) RETURNING machine_id, day"""
# The digest as the contract of the statement says, in byte order whatever the collation of the database.
_DAY = """
WITH seen AS (
    SELECT * FROM current_usage u
    WHERE u.machine_id = $1 AND u.ended_at >= $2::date::timestamp AT TIME ZONE 'UTC'
      AND u.ended_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
), line AS (
    SELECT local_job_id || '|' || to_char(submitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
        || CASE WHEN to_char(submitted_at, 'US') = '000000' THEN '' ELSE to_char(submitted_at, '.US') END
        || 'Z|' || segment || '|' || revision || E'\\n' AS text
    FROM seen
), total AS (
    SELECT key AS resource, sum(value::bigint)::text AS amount FROM seen, json_each_text(amounts) GROUP BY key
)
SELECT d.revision, d.records AS stated_records, d.digest AS stated_digest, d.totals AS stated_totals,
    (SELECT count(*)::int FROM seen) AS records,
    (SELECT encode(sha256(convert_to(coalesce(string_agg(text, '' ORDER BY text COLLATE "C"), ''), 'UTF8')), 'hex')
     FROM line) AS digest,
    (SELECT coalesce(jsonb_object_agg(resource, amount), '{}') FROM total) AS amounts,
    (SELECT count(*)::int FROM seen s WHERE EXISTS (
        SELECT FROM current_usage o
        WHERE o.local_job_id = s.local_job_id AND o.machine_id = s.machine_id AND o.number <> s.number
          AND o.started_at < s.ended_at AND s.started_at < o.ended_at
    )) AS overlapping
FROM (SELECT 1) one LEFT JOIN usage_day d ON d.machine_id = $1 AND d.day = $2"""
_OPEN_GAP = """
SELECT number, machine_id, day, reason, statement_revision, stated_records, records, overlapping, opened_at, looked_at,
    closed_at
FROM usage_gap WHERE machine_id = $1 AND day = $2 AND closed_at IS NULL"""
_ADD_GAP = """
INSERT INTO usage_gap
    (machine_id, day, reason, statement_revision, stated_records, records, overlapping, opened_at, looked_at, closed_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
_SET_GAP = """
UPDATE usage_gap SET reason = $2, statement_revision = $3, stated_records = $4, records = $5, overlapping = $6,
    looked_at = $7, closed_at = $8
WHERE number = $1"""
_GAPS = """
SELECT number, machine_id, day, reason, statement_revision, stated_records, records, overlapping, opened_at, looked_at,
    closed_at
FROM usage_gap
WHERE ($1::text IS NULL OR machine_id = $1) AND (NOT $2 OR closed_at IS NULL) AND number > $3
ORDER BY number LIMIT $4"""


@dataclass(frozen=True)
class Gap:
    """A site-day that did not match, as it was when it was last looked at; closed once it did."""

    number: int
    machine_id: MachineId
    day: date
    reason: str
    statement_revision: int | None
    stated_records: int | None
    records: int
    overlapping: int
    opened_at: datetime
    looked_at: datetime
    closed_at: datetime | None


async def take_watched(tx: Transaction) -> int:
    """The last record that was looked at; nobody else looks until the end."""
    return int(await tx.fetchval(_WATCHED))


async def set_watched(tx: Transaction, number: int) -> None:
    """Remember up to which record was looked at."""
    await tx.execute(_SET_WATCHED, number)


async def touch_days(tx: Transaction, after: int, up_to: int, now: datetime) -> None:
    """See that the days of these records are compared, those of the revisions before them too."""
    await tx.execute(_TOUCH, now, after, up_to)


async def touch_day(tx: Transaction, machine_id: MachineId, day: date, now: datetime) -> None:
    """See that a day is compared."""
    await tx.execute(_TOUCH_ONE, now, machine_id, day)


async def touch_silent_days(tx: Transaction, now: datetime, most_days: int) -> None:
    """See that days are looked at for which a site should have made a statement and has not."""
    await tx.execute(_SILENT, now, most_days)


async def take_ripe(tx: Transaction, before: datetime, limit: int) -> list[tuple[MachineId, date]]:
    """Days that are over, of which nothing new was heard since a moment; they are taken off the list."""
    return [(row["machine_id"], row["day"]) for row in await tx.fetch(_TAKE_RIPE, before, limit)]


async def get_day(tx: Transaction, machine_id: MachineId, day: date) -> SiteDay:
    """What a site says of a day, and what arrived."""
    (row,) = await tx.fetch(_DAY, machine_id, day)
    return SiteDay(
        machine_id,
        day,
        row["revision"],
        row["stated_records"],
        row["stated_digest"],
        {total["resource"]: total["amount"] for total in row["stated_totals"] or ()},
        row["records"],
        row["digest"],
        {resource: int(amount) for resource, amount in row["amounts"].items()},
        row["overlapping"],
    )


async def find_open_gap(tx: Transaction, machine_id: MachineId, day: date) -> Gap | None:
    """The open gap of a day, if it has one."""
    row = await tx.fetchrow(_OPEN_GAP, machine_id, day)
    return None if row is None else Gap(**row)


async def put_gap(tx: Transaction, gap: Gap) -> None:
    """Keep a gap as it is now; one of number 0 is new."""
    if gap.number:
        await tx.execute(
            _SET_GAP,
            gap.number,
            gap.reason,
            gap.statement_revision,
            gap.stated_records,
            gap.records,
            gap.overlapping,
            gap.looked_at,
            gap.closed_at,
        )
        return
    await tx.execute(
        _ADD_GAP,
        gap.machine_id,
        gap.day,
        gap.reason,
        gap.statement_revision,
        gap.stated_records,
        gap.records,
        gap.overlapping,
        gap.opened_at,
        gap.looked_at,
        gap.closed_at,
    )


async def list_gaps(
    tx: Transaction, *, machine_id: MachineId | None, only_open: bool, after: int, limit: int
) -> list[Gap]:
    """Gaps in the order in which they were found."""
    return [Gap(**row) for row in await tx.fetch(_GAPS, machine_id, only_open, after, limit)]
