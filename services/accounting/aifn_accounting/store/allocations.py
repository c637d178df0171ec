"""What is kept of an allocation beside its balances: its terms, its use month by month, what has become of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from aifn_common.database import Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import AllocationId, FactoryId, JobId, ProjectId, ResourceId

_TERMS = """
SELECT a.number, a.id, a.project_id, p.factory_id, p.closed AS project_closed, a.award_id, a.resource, a.pool,
    a.pool_id, a.mode, a.policy_version, a.earmark, a.use_or_lose, a.inference_cap_pct, a.first_granted,
    a.first_ends_at, a.granted, a.expired, a.returned, a.corrected, a.extensions, a.revision, a.starts_at, a.ends_at
FROM allocation a JOIN project p ON p.id = a.project_id"""
_TERMS_BY_ID = f"{_TERMS} WHERE a.id = $1"
_TERMS_BY_NUMBER = f"{_TERMS} WHERE a.number = $1"
_CHANGE = """
UPDATE allocation SET ends_at = $2, extensions = $3, expired = expired + $4, returned = returned + $5,
    revision = revision + 1
WHERE number = $1 RETURNING revision"""
_NUMBER = "SELECT number FROM allocation WHERE id = $1"

# By month of the allocation; net of corrections, which are posted under the record that brought them.
_USED = """
SELECT m.month, coalesce(sum(CASE t.kind WHEN 'charge' THEN t.amount WHEN 'refund' THEN -t.amount END), 0)::bigint
    AS used
FROM ledger_transfer t
JOIN usage_record u ON u.number = t.usage_number
JOIN LATERAL (
    SELECT count(*)::int - 1 AS month FROM unnest($2::timestamptz[]) AS starts WHERE starts <= u.ended_at
) m ON true
WHERE t.allocation_number = $1 AND t.kind IN ('charge', 'refund') GROUP BY m.month"""
_STEPS = "SELECT step FROM policy_step WHERE allocation_number = $1"
_ADD_STEP = "INSERT INTO policy_step (allocation_number, step, amount, taken_at) VALUES ($1, $2, $3, $4)"
_OVER = """
SELECT number FROM allocation WHERE ends_at <= $1 AND (available > 0 OR (overrun > 0 AND expired > 0))
ORDER BY ends_at, number LIMIT $2"""
_UNDER_POLICY = """
SELECT number FROM allocation WHERE use_or_lose IS NOT NULL AND starts_at <= $1 AND ends_at > $1 - interval '62 days'
  AND number > $2 ORDER BY number LIMIT $3"""
# A job that is not over counts with what it holds, one that is over with what it used.
_INFERENCE = """
SELECT coalesce(sum(
    CASE WHEN b.released_at IS NULL THEN greatest(b.amount, coalesce(d.used, 0)) ELSE coalesce(d.used, 0) END
), 0)::bigint
FROM job_budget b LEFT JOIN LATERAL (
    SELECT sum(c.amount) AS used FROM current_usage u JOIN usage_charge c ON c.usage_number = u.number
    WHERE u.job_id = b.job_id AND c.allocation_number = b.allocation_number
) d ON true
WHERE b.allocation_number = $1 AND b.workload = 'inference' AND b.job_id <> $2"""
_RELEASE = "UPDATE job_budget SET released_at = $2 WHERE job_id = $1 AND released_at IS NULL"
_PUT_WORKLOAD = "UPDATE job_budget SET workload = $2 WHERE job_id = $1"
_BY_HAND = """
SELECT coalesce(sum(granted - corrected), 0)::bigint FROM allocation
WHERE project_id = $1 AND resource = $2 AND award_id IS NULL"""
_LIST = """
SELECT a.number FROM allocation a JOIN project p ON p.id = a.project_id
WHERE ($1 OR a.project_id = ANY($2::text[]) OR p.factory_id = ANY($3::text[]))
  AND ($4::text IS NULL OR a.resource = $4) AND ($5::text IS NULL OR a.pool_id = $5)
  AND ($6::text IS NULL OR a.mode = $6) AND ($7::timestamptz IS NULL OR (a.starts_at <= $7 AND $7 < a.ends_at))
  AND ($8::timestamptz IS NULL OR a.ends_at < $8) AND (NOT $9 OR a.overrun > 0) AND a.number > $10
ORDER BY a.number LIMIT $11"""


@dataclass(frozen=True)
class Terms:
    """Under what an allocation stands, and what has become of it."""

    number: int
    id: AllocationId
    project_id: ProjectId
    factory_id: FactoryId
    project_closed: bool
    award_id: str | None
    resource: ResourceId
    pool: str
    pool_id: str | None
    mode: str | None
    policy_version: str | None
    earmark: str | None
    use_or_lose: str | None
    inference_cap_pct: int | None
    first_granted: int
    first_ends_at: datetime
    granted: int
    expired: int
    returned: int
    corrected: int
    extensions: int
    revision: int
    starts_at: datetime
    ends_at: datetime

    @property
    def given(self) -> int:
        """All that it was ever given, whatever was taken away again; what was corrected by hand is no gift."""
        return self.granted + self.expired + self.returned - self.corrected


async def get_terms(tx: Transaction, allocation_id: AllocationId) -> Terms:
    """Read an allocation's terms. Raises NotFound."""
    row = await tx.fetchrow(_TERMS_BY_ID, allocation_id)
    if row is None:
        raise NotFound(f"there is no allocation {allocation_id}")
    return Terms(**row)


async def terms_of(tx: Transaction, number: int) -> Terms:
    """The same for one that is known by its number."""
    row = await tx.fetchrow(_TERMS_BY_NUMBER, number)
    if row is None:
        raise NotFound(f"there is no allocation number {number}")
    return Terms(**row)


async def number_of(tx: Transaction, allocation_id: AllocationId) -> int:
    """An allocation's number. Raises NotFound."""
    number: int | None = await tx.fetchval(_NUMBER, allocation_id)
    if number is None:
        raise NotFound(f"there is no allocation {allocation_id}")
    return number


async def list_numbers(
    tx: Transaction,
    *,
    everything: bool,
    projects: Iterable[ProjectId],
    factories: Iterable[FactoryId],
    resource: ResourceId | None,
    pool_id: str | None,
    mode: str | None,
    active_at: datetime | None,
    ends_before: datetime | None,
    overrun: bool,
    after: int,
    limit: int,
) -> list[int]:
    """Allocations that fit, by number, in the order in which they were opened."""
    rows = await tx.fetch(
        _LIST,
        everything,
        list(projects),
        list(factories),
        resource,
        pool_id,
        mode,
        active_at,
        ends_before,
        overrun,
        after,
        limit,
    )
    return [row["number"] for row in rows]


async def change(
    tx: Transaction, number: int, *, ends_at: datetime, extensions: int, expired: int = 0, returned: int = 0
) -> int:
    """Keep what was decided of an allocation; `expired` and `returned` are added. Returns its new revision."""
    return int(await tx.fetchval(_CHANGE, number, ends_at, extensions, expired, returned))


async def used_by_month(tx: Transaction, number: int, starts: Sequence[datetime]) -> dict[int, int]:
    """What was charged, by month of the allocation, of which `starts` are the beginnings; -1 is before the first."""
    return {row["month"]: row["used"] for row in await tx.fetch(_USED, number, list(starts))}


async def steps_taken(tx: Transaction, number: int) -> frozenset[str]:
    """Which steps of its policy an allocation has had."""
    return frozenset(row["step"] for row in await tx.fetch(_STEPS, number))


async def add_step(tx: Transaction, number: int, step: str, amount: int, at: datetime) -> None:
    """Remember a step, so that it is taken once."""
    await tx.execute(_ADD_STEP, number, step, amount, at)


async def over(tx: Transaction, *, ended_before: datetime, limit: int) -> list[int]:
    """Allocations that ended and have something left, or were charged late after what was left had expired."""
    return [row["number"] for row in await tx.fetch(_OVER, ended_before, limit)]


async def under_policy(tx: Transaction, now: datetime, *, after: int, limit: int) -> list[int]:
    """Allocations under a use-or-lose policy that have begun, and have not ended long ago."""
    return [row["number"] for row in await tx.fetch(_UNDER_POLICY, now, after, limit)]


async def inference_used(tx: Transaction, number: int, *, but: JobId = "") -> int:
    """What inference jobs have used of an allocation or hold of it, without one job."""
    return int(await tx.fetchval(_INFERENCE, number, but))


async def put_workload(tx: Transaction, job_id: JobId, workload: str) -> None:
    """Remember what kind of work a job is."""
    await tx.execute(_PUT_WORKLOAD, job_id, workload)


async def release_hold(tx: Transaction, job_id: JobId, at: datetime) -> None:
    """Remember that what a job held went back."""
    await tx.execute(_RELEASE, job_id, at)


async def granted_by_hand(tx: Transaction, project_id: ProjectId, resource: ResourceId) -> int:
    """What people have granted a project of a resource, awards left aside."""
    return int(await tx.fetchval(_BY_HAND, project_id, resource))
