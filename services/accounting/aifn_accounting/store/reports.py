"""Sums over what was charged, and the way from a sum to its jobs and back. No person is in any of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from aifn_common.database import Transaction
from aifn_events.vocabulary import AllocationId, JobId, ProjectId, ResourceId

Dimension = Literal[
    "factory", "machine", "partition", "resource", "pool", "authority", "mode", "country", "actor", "project",
    "allocation", "award", "job",
]  # fmt: skip
_WITHOUT = "'without award'"
_EXPRESSIONS: Mapping[Dimension, str] = {
    "factory": "p.factory_id",
    "machine": "u.machine_id",
    "partition": "split_part(c.resource, '/', 2)",
    "resource": "c.resource",
    "pool": "a.pool",
    "authority": f"coalesce(w.deciding_authority, {_WITHOUT})",
    "mode": f"coalesce(w.mode, {_WITHOUT})",
    "country": f"coalesce(w.country, {_WITHOUT})",
    "actor": f"coalesce(w.applicant_kind, {_WITHOUT})",
    "project": "a.project_id",
    "allocation": "a.id",
    "award": f"coalesce(w.id, {_WITHOUT})",
    "job": "u.job_id",
}

# Of each record its latest revision. A run that crosses a border is divided by seconds: parts sum to the whole.
_COSTS = """
FROM current_usage u
JOIN usage_charge c ON c.usage_number = u.number
JOIN allocation a ON a.number = c.allocation_number
JOIN project p ON p.id = a.project_id
LEFT JOIN award w ON w.id = a.award_id
WHERE ($1 OR a.project_id = ANY($2::text[]) OR p.factory_id = ANY($3::text[]))
  AND u.ended_at >= $4 AND u.started_at < $5"""
_PART = "usage_part(c.amount, u.started_at, u.ended_at, $4, $5)"
_RESOURCES = "SELECT id, units_per_node, gpus_per_node FROM resource WHERE id = ANY($1::text[])"

_DAYS = """
SELECT day::date, sum(usage_part(c.amount, u.started_at, u.ended_at, day, day + interval '1 day'))::bigint AS amount
FROM current_usage u
JOIN usage_charge c ON c.usage_number = u.number AND c.allocation_number = $1
CROSS JOIN LATERAL generate_series(
    date_trunc('day', u.started_at, 'UTC'), date_trunc('day', u.ended_at, 'UTC'), interval '1 day'
) AS day
GROUP BY 1 ORDER BY 1"""

_MONTH = """
WITH line AS (
    SELECT t.kind, t.recorded_at, t.id, t.source AS account_id, -t.amount AS amount
    FROM ledger_transfer t WHERE t.allocation_number = $1 AND t.recorded_at < $3
    UNION ALL
    SELECT t.kind, t.recorded_at, t.id, t.target, t.amount
    FROM ledger_transfer t WHERE t.allocation_number = $1 AND t.recorded_at < $3
)
SELECT s.role, l.kind, coalesce(sum(l.amount) FILTER (WHERE l.recorded_at < $2), 0)::bigint AS before,
    coalesce(sum(l.amount) FILTER (WHERE l.recorded_at >= $2), 0)::bigint AS change,
    count(*) FILTER (WHERE l.recorded_at >= $2) AS lines
FROM line l JOIN allocation a ON a.number = $1
CROSS JOIN LATERAL (VALUES
    (a.available_account, 'available'), (a.held_account, 'held'), (a.consumed_account, 'charged'),
    (a.overrun_account, 'overrun')
) AS s (account_id, role)
WHERE s.account_id = l.account_id GROUP BY s.role, l.kind ORDER BY l.kind, s.role"""

_TRACE = """
SELECT c.usage_number, u.machine_id, u.local_job_id, u.submitted_at, u.segment, u.revision,
    NOT EXISTS (SELECT FROM current_usage n WHERE n.number = u.number) AS superseded,
    c.resource, c.amount, c.rate_card, a.id AS allocation_id, a.project_id, p.factory_id, a.pool, a.award_id,
    w.application_id, w.mode, w.policy_version, w.deciding_authority, w.country, w.applicant_kind,
    (SELECT coalesce(array_agg(t.id ORDER BY t.id), '{}') FROM ledger_transfer t
     WHERE t.allocation_number = a.number AND t.usage_number = u.number) AS transfers,
    (SELECT coalesce(array_agg(t.id ORDER BY t.id), '{}') FROM ledger_transfer t
     WHERE t.allocation_number = a.number AND t.kind IN ('grant', 'sub_grant')) AS grants
FROM usage_record u
JOIN usage_charge c ON c.usage_number = u.number
JOIN allocation a ON a.number = c.allocation_number
JOIN project p ON p.id = a.project_id
LEFT JOIN award w ON w.id = a.award_id
WHERE u.job_id = $1 ORDER BY c.usage_number, c.allocation_number LIMIT 1000"""

_REGISTER = """
SELECT w.id AS award_id, w.project_id, p.title, p.factory_id, w.mode, w.policy_version, w.deciding_authority, w.country,
    w.applicant_kind, w.starts_at, w.ends_at
FROM award w JOIN project p ON p.id = w.project_id
WHERE $1::text IS NULL OR w.id > $1 ORDER BY w.id LIMIT $2"""
_AWARDED = """
SELECT award_id, resource, granted, charged FROM allocation WHERE award_id = ANY($1::text[])
ORDER BY award_id, resource"""
_ACTORS = """
SELECT w.applicant_kind AS actor, a.resource, count(DISTINCT w.id) AS awards, sum(a.granted)::bigint AS granted,
    sum(a.charged)::bigint AS charged
FROM allocation a JOIN award w ON w.id = a.award_id GROUP BY 1, 2 ORDER BY 1, 2"""


@dataclass(frozen=True)
class Reach:
    """What of all charges somebody may sum."""

    everything: bool
    projects: Iterable[ProjectId]
    factories: Iterable[str]


@dataclass(frozen=True)
class Sum:
    """What one thing has used of one resource; `key` is empty for the whole."""

    key: str
    resource: ResourceId
    amount: int
    records: int
    jobs: int


@dataclass(frozen=True)
class Counting:
    """How amounts of a resource become hours."""

    id: ResourceId
    units_per_node: int
    gpus_per_node: int | None


@dataclass(frozen=True)
class Movement:
    """What transfers of one kind did to one balance of an allocation: before a month, and in it."""

    role: str
    kind: str
    before: int
    change: int
    lines: int


@dataclass(frozen=True)
class TracedCharge:
    """One charge of a job, with everything it comes from and the lines of the ledger it stands in."""

    usage_number: int
    machine_id: str
    local_job_id: str
    submitted_at: datetime
    segment: int
    revision: int
    superseded: bool
    resource: ResourceId
    amount: int
    rate_card: str
    allocation_id: AllocationId
    project_id: ProjectId
    factory_id: str
    pool: str
    award_id: str | None
    application_id: str | None
    mode: str | None
    policy_version: str | None
    deciding_authority: str | None
    country: str | None
    applicant_kind: str | None
    transfers: list[int]
    grants: list[int]


@dataclass(frozen=True)
class RegisteredAward:
    """An award as the public register shows it."""

    award_id: str
    project_id: ProjectId
    title: str
    factory_id: str
    mode: str
    policy_version: str
    deciding_authority: str
    country: str
    applicant_kind: str
    starts_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class AwardedAmount:
    """What an award gave of one resource, and what of it was used."""

    award_id: str
    resource: ResourceId
    granted: int
    charged: int


@dataclass(frozen=True)
class ActorSum:
    """What one kind of actor was given of one resource, and has used."""

    actor: str
    resource: ResourceId
    awards: int
    granted: int
    charged: int


async def sum_usage(
    tx: Transaction,
    reach: Reach,
    *,
    by: Dimension | None,
    only: Mapping[Dimension, str],
    since: datetime,
    until: datetime,
    after: tuple[str, str] | None = None,
    limit: int = 1000,
) -> list[Sum]:
    """Sum what was used between two moments, by one dimension and resource, or (`by` None) by resource alone."""
    key = f"({_EXPRESSIONS[by]})" if by else "''"
    values: list[object] = [reach.everything, list(reach.projects), list(reach.factories), since, until, limit]
    conditions = ""
    for dimension, value in only.items():
        values.append(value)
        conditions += f" AND {_EXPRESSIONS[dimension]} = ${len(values)}"
    outside = ""
    if after is not None:
        values += after
        outside = f'WHERE (key COLLATE "C", resource COLLATE "C") > (${len(values) - 1}, ${len(values)})'
    statement = f"""
SELECT * FROM (
    SELECT {key}::text AS key, c.resource, sum({_PART})::bigint AS amount, count(DISTINCT u.number) AS records,
        count(DISTINCT u.job_id) AS jobs
    {_COSTS}{conditions} GROUP BY 1, 2
) found {outside} ORDER BY key COLLATE "C", resource COLLATE "C" LIMIT $6"""
    return [Sum(**row) for row in await tx.fetch(statement, *values)]


async def countings(tx: Transaction, resources: Sequence[ResourceId]) -> dict[ResourceId, Counting]:
    """How each of these resources is counted, as far as its machine is known."""
    return {row["id"]: Counting(**row) for row in await tx.fetch(_RESOURCES, list(resources))}


async def daily_use(tx: Transaction, allocation: int) -> dict[date, int]:
    """What an allocation was charged for each UTC day on which something ran."""
    return {row["day"]: row["amount"] for row in await tx.fetch(_DAYS, allocation)}


async def movements(tx: Transaction, allocation: int, since: datetime, until: datetime) -> list[Movement]:
    """What every kind of transfer did to every balance, before `since` and from then until `until`."""
    return [Movement(**row) for row in await tx.fetch(_MONTH, allocation, since, until)]


async def trace(tx: Transaction, job_id: JobId) -> list[TracedCharge]:
    """Where the charges of a job come from: all revisions, oldest first."""
    return [TracedCharge(**row) for row in await tx.fetch(_TRACE, job_id)]


async def registered_awards(tx: Transaction, *, after: str | None, limit: int) -> list[RegisteredAward]:
    """All awards, by id."""
    return [RegisteredAward(**row) for row in await tx.fetch(_REGISTER, after, limit)]


async def awarded(tx: Transaction, awards: Sequence[str]) -> list[AwardedAmount]:
    """What these awards gave."""
    return [AwardedAmount(**row) for row in await tx.fetch(_AWARDED, list(awards))]


async def sum_by_actor(tx: Transaction) -> list[ActorSum]:
    """What each kind of actor was given and has used."""
    return [ActorSum(**row) for row in await tx.fetch(_ACTORS)]
