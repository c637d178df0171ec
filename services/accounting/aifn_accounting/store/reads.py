"""What is only read: balances, statements, charges, completeness, and whether the ledger holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from aifn_common.database import Database, Row, Transaction, reading
from aifn_common.errors import NotFound
from aifn_common.together import Together
from aifn_events.vocabulary import AllocationId, JobId, MachineId, ProjectId, ResourceId

from aifn_accounting.store import journal

# In the order of Standing's fields: a row becomes one by position.
_COLUMNS = """
    a.number, a.id, a.project_id, p.factory_id, a.award_id, a.resource, a.pool, a.starts_at, a.ends_at, a.reason,
    a.granted_by, a.granted_at, a.granted, a.available, a.held, a.charged, a.overrun,
    coalesce(r.unit, o.unit) AS unit, r.units_per_node,
    r.devices_per_node, r.gpus_per_node, a.pool_id, a.mode, a.policy_version, a.use_or_lose, a.expired, a.returned,
    a.corrected, a.revision"""
_BESIDE = """
JOIN project p ON p.id = a.project_id LEFT JOIN resource r ON r.id = a.resource
LEFT JOIN other_resource o ON o.id = a.resource"""
_STANDING = f"SELECT {_COLUMNS} FROM allocation a {_BESIDE}"
# Who asks is looked up in the same statement: a second one would cost as much as this.
_STANDINGS_OF = f"""
SELECT q.place, {_COLUMNS},
    (SELECT role FROM membership WHERE subject = q.asker AND project_id = q.project_id) AS asker_role
FROM unnest($1::text[], $2::bigint[], $3::int[], $4::text[])
    WITH ORDINALITY AS q (project_id, after, most, asker, place)
CROSS JOIN LATERAL (
    SELECT * FROM allocation
    WHERE project_id = q.project_id AND number > q.after ORDER BY number LIMIT q.most
) a {_BESIDE} ORDER BY q.place, a.number"""
_STANDING_BY_ID = f"{_STANDING} WHERE a.id = $1"
_STANDINGS_BY_NUMBER = f"{_STANDING} WHERE a.number = ANY($1::bigint[]) ORDER BY a.number"

_TRANSFERS = """
SELECT t.id, t.kind, s.role AS source, d.role AS target, t.resource, t.amount, t.job_id, t.recorded_at,
    u.machine_id, u.local_job_id, u.submitted_at, u.segment, u.revision
FROM ledger_transfer t
JOIN account s ON s.id = t.source
JOIN account d ON d.id = t.target
LEFT JOIN usage_record u ON u.number = t.usage_number
WHERE t.allocation_number = $1 AND t.id > $2 ORDER BY t.id LIMIT $3"""

_CHARGED = """
SELECT c.position AS usage_number, c.allocation_number, u.machine_id, u.local_job_id, u.submitted_at, u.segment,
    u.revision, u.job_id, a.project_id, a.id AS allocation_id, a.resource, c.amount, c.rate_card, u.started_at,
    u.ended_at, u.pseudonym AS user, u.recorded_at
FROM {charge} c
JOIN usage_record u ON u.number = c.usage_number
JOIN allocation a ON a.number = c.allocation_number"""
_MAY_SEE = """
  AND EXISTS (
    SELECT FROM allocation a JOIN project p ON p.id = a.project_id
    WHERE a.number = allocation_number AND ($3 OR a.project_id = ANY($4::text[]) OR p.factory_id = ANY($5::text[]))
      AND ($6::text IS NULL OR a.project_id = $6))"""
# Two tables in one order: each gives as many as are asked for, by its own index.
_CHARGES_AFTER = f"""
WITH page AS (
    (SELECT number AS usage_number, allocation_number, charged AS amount, rate_card, number AS position
     FROM usage_record
     WHERE number >= $1 AND (number > $1 OR allocation_number > $2) AND allocation_number IS NOT NULL {_MAY_SEE}
     ORDER BY number LIMIT $7)
    UNION ALL
    (SELECT usage_number, allocation_number, amount, rate_card, position FROM further_charge
     WHERE (position, allocation_number) > ($1, $2) {_MAY_SEE} ORDER BY position, allocation_number LIMIT $7)
)
{_CHARGED.format(charge="page")} ORDER BY c.position, c.allocation_number LIMIT $7"""
_CHARGES_OF_JOB = f"""
{_CHARGED.format(charge="usage_charge")}
WHERE u.job_id = $1 AND u.number IN (SELECT number FROM current_usage WHERE job_id = $1) AND a.project_id = $2
ORDER BY c.position, c.allocation_number"""
_JOB = """
SELECT b.job_id, b.project_id, a.id AS allocation_id, b.amount,
    coalesce((SELECT sum(c.amount)::bigint FROM current_usage u JOIN usage_charge c ON c.usage_number = u.number
        WHERE u.job_id = b.job_id AND c.allocation_number = b.allocation_number), 0) AS drawn,
    b.segments_expected, b.outcome, b.closed_at,
    b.released_at
FROM job_budget b LEFT JOIN allocation a ON a.number = b.allocation_number WHERE b.job_id = $1"""
_PROJECT_OF_USAGE = "SELECT project_id FROM current_usage WHERE job_id = $1 ORDER BY number LIMIT 1"

# A line of the digest is built as the contract says, in byte order whatever the collation of the database.
_DAYS = """
SELECT d.machine_id, d.day, d.revision, d.records AS stated_records, d.digest AS stated_digest,
    d.totals AS stated_totals, d.stated_at, f.records, f.digest, f.totals
FROM usage_day d CROSS JOIN LATERAL (
    WITH seen AS (
        SELECT * FROM current_usage u
        WHERE u.machine_id = d.machine_id AND u.ended_at >= d.day::timestamp AT TIME ZONE 'UTC'
          AND u.ended_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
    ), line AS (
        SELECT local_job_id || '|' || to_char(submitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
            || CASE WHEN to_char(submitted_at, 'US') = '000000' THEN '' ELSE to_char(submitted_at, '.US') END
            || 'Z|' || segment || '|' || revision || E'\\n' AS text
        FROM seen
    ), total AS (
        SELECT key AS resource, count(*) AS records, sum(value::bigint)::text AS amount
        FROM seen, json_each_text(amounts) GROUP BY key
    )
    SELECT (SELECT count(*)::int FROM seen) AS records,
        (SELECT encode(sha256(convert_to(coalesce(string_agg(text, '' ORDER BY text COLLATE "C"), ''), 'UTF8')), 'hex')
         FROM line) AS digest,
        (SELECT coalesce(jsonb_object_agg(resource, jsonb_build_array(records, amount)), '{}') FROM total) AS totals
) f
WHERE d.machine_id = $1 AND ($2::date IS NULL OR d.day > $2) ORDER BY d.day LIMIT $3"""

# Each check compares two ways to know one thing, allocation by allocation; the sums are there to be looked at.
_CHECKS = """
WITH standing AS (
    SELECT a.number, a.resource, a.granted, a.available, a.held, a.charged, a.overrun, a.corrected,
        a.available_account, a.held_account, a.consumed_account, a.overrun_account
    FROM allocation a
), posted AS (
    SELECT account_id, sum(amount) AS amount FROM posting GROUP BY account_id
), granted AS (
    SELECT t.allocation_number AS number,
        sum(CASE WHEN t.target = a.available_account THEN amount ELSE -amount END) AS amount
    FROM ledger_transfer t JOIN allocation a ON a.number = t.allocation_number
    WHERE t.kind IN ('grant', 'correction', 'expiry') GROUP BY 1
), used AS (
    SELECT c.allocation_number AS number, sum(c.amount) AS amount
    FROM (
        SELECT c.allocation_number, c.amount FROM current_usage u JOIN usage_charge c ON c.usage_number = u.number
        UNION ALL SELECT allocation_number, amount FROM settlement WHERE side = 'home'
    ) c GROUP BY 1
), drawn AS (
    SELECT u.job_id, c.allocation_number, sum(c.amount) AS amount
    FROM current_usage u JOIN usage_charge c ON c.usage_number = u.number GROUP BY 1, 2
), set_aside AS (
    SELECT b.allocation_number AS number, sum(greatest(b.amount - coalesce(d.amount, 0), 0)) AS amount
    FROM job_budget b LEFT JOIN drawn d USING (job_id, allocation_number)
    WHERE b.released_at IS NULL AND b.allocation_number IS NOT NULL GROUP BY 1
), compared AS (
    SELECT 'postings of all accounts sum to zero' AS name, a.resource, 0 AS expected, sum(p.amount) AS found,
        (sum(p.amount) <> 0)::int AS differing
    FROM posting p JOIN account a ON a.id = p.account_id GROUP BY a.resource
    UNION ALL
    SELECT role || ' is the sum of its postings', resource, sum(expected), sum(found),
        count(*) FILTER (WHERE expected <> found)
    FROM (
        SELECT s.resource, v.role, v.expected, coalesce(p.amount, 0) AS found
        FROM standing s CROSS JOIN LATERAL (VALUES
            ('available', s.available, s.available_account), ('held', s.held, s.held_account),
            ('charged', s.charged, s.consumed_account), ('overrun', -s.overrun, s.overrun_account)
        ) AS v (role, expected, account_id)
        LEFT JOIN posted p ON p.account_id = v.account_id
    ) balances GROUP BY role, resource
    UNION ALL
    SELECT 'granted is the sum of grants, less what expired', s.resource, sum(s.granted), sum(coalesce(g.amount, 0)),
        count(*) FILTER (WHERE s.granted <> coalesce(g.amount, 0))
    FROM standing s LEFT JOIN granted g USING (number) GROUP BY s.resource
    UNION ALL
    SELECT 'corrected is the sum of corrections by hand', s.resource, sum(s.corrected), sum(coalesce(c.amount, 0)),
        count(*) FILTER (WHERE s.corrected <> coalesce(c.amount, 0))
    FROM standing s LEFT JOIN (SELECT allocation_number AS number, sum(amount) AS amount FROM correction GROUP BY 1) c
        USING (number) GROUP BY s.resource
    UNION ALL
    SELECT 'a clearing account has what was exchanged and not settled', a.resource, sum(coalesce(e.amount, 0)),
        sum(coalesce(p.amount, 0)), count(*) FILTER (WHERE coalesce(e.amount, 0) <> coalesce(p.amount, 0))
    FROM account a LEFT JOIN posted p ON p.account_id = a.id LEFT JOIN (
        SELECT clearing, resource, sum(amount) AS amount FROM (
            SELECT clearing, resource, CASE side WHEN 'home' THEN -amount ELSE amount END AS amount FROM settlement
            UNION ALL SELECT clearing, resource, -amount FROM clearing_month
        ) both_ways GROUP BY 1, 2
    ) e ON e.clearing = a.owner AND e.resource = a.resource WHERE a.role = 'clearing' GROUP BY a.resource
    UNION ALL
    SELECT 'granted = available + held + charged - overrun', resource, sum(granted),
        sum(available + held + charged - overrun),
        count(*) FILTER (WHERE granted <> available + held + charged - overrun OR available < 0 OR held < 0)
    FROM standing GROUP BY resource
    UNION ALL
    SELECT 'charged is the sum of unique usage records', s.resource, sum(coalesce(u.amount, 0)), sum(s.charged),
        count(*) FILTER (WHERE s.charged <> coalesce(u.amount, 0))
    FROM standing s LEFT JOIN used u USING (number) GROUP BY s.resource
    UNION ALL
    SELECT 'a pool has what came in and was not passed on', w.resource, sum(w.available), sum(coalesce(p.amount, 0)),
        count(*) FILTER (WHERE w.available <> coalesce(p.amount, 0) OR w.available < 0)
    FROM pool w LEFT JOIN posted p ON p.account_id = w.account GROUP BY w.resource
    UNION ALL
    SELECT 'held is the sum of what jobs hold', s.resource, sum(coalesce(h.amount, 0)), sum(s.held),
        count(*) FILTER (WHERE s.held <> coalesce(h.amount, 0))
    FROM standing s LEFT JOIN set_aside h USING (number) GROUP BY s.resource
)
SELECT name, resource, expected, found, differing FROM compared ORDER BY name, resource"""


@dataclass(frozen=True)
class Standing:
    """An allocation as its owner sees it; its size and unit are None while the machine is not known."""

    number: int
    id: AllocationId
    project_id: ProjectId
    factory_id: str
    award_id: str | None
    resource: ResourceId
    pool: str
    starts_at: datetime
    ends_at: datetime
    reason: str
    granted_by: str
    granted_at: datetime
    granted: int
    available: int
    held: int
    charged: int
    overrun: int
    unit: str | None
    units_per_node: int | None
    devices_per_node: int | None
    gpus_per_node: int | None
    pool_id: str | None
    mode: str | None
    policy_version: str | None
    use_or_lose: str | None
    expired: int
    returned: int
    corrected: int
    revision: int


@dataclass(frozen=True)
class Transfer:
    """A line of a statement; the last five are of the usage record it is for, if any."""

    id: int
    kind: str
    source: str
    target: str
    resource: ResourceId
    amount: int
    job_id: JobId | None
    recorded_at: datetime
    machine_id: MachineId | None
    local_job_id: str | None
    submitted_at: datetime | None
    segment: int | None
    revision: int | None


@dataclass(frozen=True)
class Charged:
    """What one usage record cost one allocation; `usage_number` is the charge's place among all charges."""

    usage_number: int
    allocation_number: int
    machine_id: MachineId
    local_job_id: str
    submitted_at: datetime
    segment: int
    revision: int
    job_id: JobId
    project_id: ProjectId
    allocation_id: AllocationId
    resource: ResourceId
    amount: int
    rate_card: str
    started_at: datetime
    ended_at: datetime
    user: str
    recorded_at: datetime


@dataclass(frozen=True)
class JobMoney:
    """What a job holds, and whether it is over."""

    job_id: JobId
    project_id: ProjectId
    allocation_id: AllocationId | None
    amount: int
    drawn: int
    segments_expected: int | None
    outcome: str | None
    closed_at: datetime | None
    released_at: datetime | None


@dataclass(frozen=True)
class DayTotal:
    """Of one resource on one day: what the site says, and what is recorded here."""

    resource: ResourceId
    stated_records: int
    stated_amount: int
    records: int
    amount: int


@dataclass(frozen=True)
class SiteDay:
    """One day of one site: what it says it has sent, and what is recorded here."""

    machine_id: MachineId
    day: date
    revision: int
    stated_at: datetime
    stated_records: int
    stated_digest: str
    records: int
    digest: str
    totals: list[DayTotal]


@dataclass(frozen=True)
class Check:
    """Two ways to know one thing, summed over the allocations of a resource, and in how many of them they differ."""

    name: str
    resource: ResourceId
    expected: int
    found: int
    differing: int


class StandingsAsked(NamedTuple):
    """A part of a project's allocations: at most so many, with numbers above `after`."""

    project_id: ProjectId
    after: int
    most: int
    asker: str


async def _list_standings(db: Database, asked: Sequence[StandingsAsked]) -> list[tuple[list[Standing], str | None]]:
    found: list[tuple[list[Standing], str | None]] = [([], None)] * len(asked)
    async with reading(db) as connection:
        rows = await connection.fetch(_STANDINGS_OF, *map(list, zip(*asked, strict=True)))
    for place, some in groupby(rows, itemgetter(0)):
        of_one = list(some)
        found[place - 1] = [Standing(*row[1:-1]) for row in of_one], of_one[0]["asker_role"]
    return found


list_standings = Together(_list_standings)
"""A project's allocations in the order they were opened, and the asker's role there, which only comes with one."""


async def standings(tx: Transaction, numbers: Iterable[int]) -> list[Standing]:
    """Some allocations, in the order in which they were opened."""
    return [Standing(*row) for row in await tx.fetch(_STANDINGS_BY_NUMBER, list(numbers))]


async def get_standing(tx: Transaction, allocation_id: AllocationId) -> Standing:
    """Read one allocation. Raises NotFound."""
    row = await tx.fetchrow(_STANDING_BY_ID, allocation_id)
    if row is None:
        raise NotFound(f"there is no allocation {allocation_id}")
    return Standing(*row)


async def list_transfers(tx: Transaction, allocation: int, *, after: int, limit: int) -> list[Transfer]:
    """An allocation's statement, oldest first. Who writes holds the allocation's row, so no line comes in between."""
    return [Transfer(**row) for row in await tx.fetch(_TRANSFERS, allocation, after, limit)]


async def list_charges(
    tx: Transaction,
    *,
    everything: bool,
    projects: Iterable[ProjectId],
    factories: Iterable[str],
    project_id: ProjectId | None,
    after: tuple[int, int],
    limit: int,
) -> list[Charged]:
    """What was charged, in the order in which it became known, from (usage number, allocation number) on."""
    rows = await tx.fetch(_CHARGES_AFTER, *after, everything, list(projects), list(factories), project_id, limit)
    return [Charged(**row) for row in rows]


async def charges_of_job(tx: Transaction, job: JobMoney) -> list[Charged]:
    """What a job costs its own project: the latest revision of each of its segments."""
    return [Charged(**row) for row in await tx.fetch(_CHARGES_OF_JOB, job.job_id, job.project_id)]


async def get_job(tx: Transaction, job_id: JobId) -> JobMoney:
    """What a job holds; a job of which only usage is known holds nothing. Raises NotFound."""
    row = await tx.fetchrow(_JOB, job_id)
    if row is not None:
        return JobMoney(**row)
    project_id = await tx.fetchval(_PROJECT_OF_USAGE, job_id)
    if project_id is None:
        raise NotFound(f"nothing was ever held or charged for a job {job_id}")
    return JobMoney(job_id, project_id, None, 0, 0, None, None, None, None)


async def list_days(tx: Transaction, machine_id: MachineId, *, after: date | None, limit: int) -> list[SiteDay]:
    """The days a site has made a statement for, oldest first."""
    return [_site_day(row) for row in await tx.fetch(_DAYS, machine_id, after, limit)]


def _site_day(row: Row) -> SiteDay:
    stated = {total["resource"]: (total["records"], total["amount"]) for total in row["stated_totals"]}
    found = {resource: (records, int(amount)) for resource, (records, amount) in row["totals"].items()}
    return SiteDay(
        row["machine_id"],
        row["day"],
        row["revision"],
        row["stated_at"],
        row["stated_records"],
        row["stated_digest"],
        row["records"],
        row["digest"],
        [
            DayTotal(resource, *stated.get(resource, (0, 0)), *found.get(resource, (0, 0)))
            for resource in sorted(stated.keys() | found.keys())
        ],
    )


async def verify(tx: Transaction) -> list[Check]:
    """Look whether the ledger holds, all at one moment, and whether the journal is as it was sealed."""
    rows = await tx.fetch(_CHECKS)
    checks = [
        Check(row["name"], row["resource"], int(row["expected"]), int(row["found"]), row["differing"]) for row in rows
    ]
    return [*checks, _chained(await journal.check(tx))]


def _chained(chain: journal.Chain) -> Check:
    if chain.broken is not None:
        name = f"the journal is as it was sealed; seal {chain.broken} is the first that is not"
        return Check(name, "journal", chain.last.number, chain.broken - 1, 1)
    name = f"the journal is as it was sealed; seal {chain.last.number} is {chain.last.digest.hex() or 'none yet'}"
    return Check(name, "journal", chain.last.number, chain.seals, 0)
