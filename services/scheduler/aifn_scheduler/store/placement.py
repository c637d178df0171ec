"""Remembers jobs: what waits, what holds slices, what was decided and why."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound

from aifn_scheduler.domain.admission import JobWish, Size
from aifn_scheduler.domain.lifecycle import Job, Life

_PLAN_LOCK = 0x706C_616E  # "plan": one plan at a time, or two would take the same slices

_LIFE = (
    "state", "revision", "machine_id", "partition_id", "outcome", "reason", "segments", "runs", "cancel_asked_at",
    "cancel_reason", "placed_at", "held_at", "dispatched_at", "started_at", "last_started_at", "ended_at", "closed_at",
)  # fmt: skip
_COLUMNS = f"""job_id, place, project_id, name, submitted_by, wanted_partition, size_kind, size_count,
       walltime_seconds, script, software_stack, workload, resource, nodes, slices, amount, planned_start, planned_on,
       explanation, submitted_at, {", ".join(_LIFE)}"""
_SELECT = f"SELECT {_COLUMNS} FROM job"

_ADD = """
INSERT INTO job (job_id, project_id, name, submitted_by, wanted_partition, size_kind, size_count, walltime_seconds,
                 script, software_stack, submitted_at, traceparent, workload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING place"""
_LIST = f"""
{_SELECT}
WHERE place > $1 AND ($2::text[] IS NULL OR project_id = ANY($2)) AND ($3::text IS NULL OR project_id = $3)
  AND ($4::text IS NULL OR state = $4) AND ($5::text IS NULL OR outcome = $5)
ORDER BY place LIMIT $6"""
# Columns that say where and what are written by the plan alone; this writes the rest of a life.
_SAVE = """
UPDATE job SET state = $2, outcome = $3, reason = $4, segments = $5, runs = $6, cancel_asked_at = $7,
               cancel_reason = $8, dispatched_at = $9, started_at = $10, last_started_at = $11, ended_at = $12,
               closed_at = $13, held_at = $14
WHERE job_id = $1"""

# Every project's wish for a partition gets its share of the plan: jobs that cannot start must not hide all others.
_WAITING = """
WITH ranked AS (
    SELECT job_id, place, row_number() OVER (PARTITION BY project_id, wanted_partition ORDER BY place) AS rank
    FROM job WHERE state = 'queued'
), chosen AS (SELECT job_id FROM ranked ORDER BY rank, place LIMIT $1)
SELECT job_id, project_id, wanted_partition, size_kind, size_count, walltime_seconds, software_stack, workload,
       planned_start, planned_on, explanation->>'verdicts' AS verdicts
FROM job JOIN chosen USING (job_id) WHERE state = 'queued' ORDER BY place"""
_HOLDING = """
SELECT job_id, partition_id, slices, walltime_seconds, planned_start, last_started_at
FROM job WHERE state IN ('placed', 'dispatched', 'running')"""
_PLACE = """
UPDATE job SET state = 'placed', placed_at = $1, machine_id = new.machine_id, partition_id = new.partition_id,
               resource = new.resource, nodes = new.nodes, slices = new.slices, amount = new.amount,
               planned_start = $1, planned_on = new.partition_id, explanation = new.explanation::jsonb
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[], $8::bigint[], $9::text[])
     AS new (job_id, machine_id, partition_id, resource, nodes, slices, amount, explanation)
WHERE job.job_id = new.job_id AND job.state = 'queued'
RETURNING job.job_id, job.revision"""
_EXPLAIN = """
UPDATE job SET planned_start = new.planned_start, planned_on = new.planned_on, explanation = new.explanation::jsonb
FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[])
     AS new (job_id, planned_start, planned_on, explanation)
WHERE job.job_id = new.job_id AND job.state = 'queued'"""
_OCCUPANCY = """
SELECT partition.partition_id, partition.machine_id, partition.resource, partition.units_per_node,
       partition.stage = 'operating' AND NOT partition.retired AS operating,
       capacity.observed_at, capacity.nodes_in_service,
       coalesce(holding.jobs, 0) AS jobs_holding, coalesce(holding.slices, 0) AS slices_held,
       coalesce(waiting.jobs, 0) AS jobs_planned
FROM partition
LEFT JOIN capacity ON capacity.partition_id = partition.partition_id AND capacity.machine_id = partition.machine_id
LEFT JOIN (SELECT partition_id, count(*) AS jobs, sum(slices) AS slices FROM job
           WHERE state IN ('placed', 'dispatched', 'running') GROUP BY partition_id) AS holding
       ON holding.partition_id = partition.partition_id
LEFT JOIN (SELECT planned_on, count(*) AS jobs FROM job WHERE state = 'queued' GROUP BY planned_on) AS waiting
       ON waiting.planned_on = partition.partition_id
WHERE partition.partition_id > $1 ORDER BY partition.partition_id LIMIT $2"""
_TRACES = "SELECT job_id, traceparent FROM job WHERE job_id = ANY($1::text[]) AND traceparent IS NOT NULL"
_BEFORE = "SELECT count(*) FROM job WHERE state = 'queued' AND place < $1"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The part of a queued job that a plan needs, and what the last one said of it."""

    job_id: str
    wish: JobWish
    planned_start: datetime | None
    planned_on: str | None
    verdicts: str | None


@dataclass(frozen=True, slots=True)
class Holding:
    """The part of a placed job that a plan needs."""

    job_id: str
    partition_id: str
    slices: int
    walltime_seconds: int
    planned_start: datetime
    last_started_at: datetime | None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a job starts now, what it takes there (`amount` in slice-seconds), and why."""

    job_id: str
    machine_id: str
    partition_id: str
    resource: str
    nodes: int
    slices: int
    amount: int
    explanation: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a job that waits may start, and why not now."""

    job_id: str
    planned_start: datetime | None
    planned_on: str | None
    explanation: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What a partition has in service (None: not reported) and what is planned, placed and running there."""

    partition_id: str
    machine_id: str
    resource: str
    units_per_node: int
    operating: bool
    observed_at: datetime | None
    nodes_in_service: int | None
    jobs_holding: int
    slices_held: int
    jobs_planned: int


async def add_job(
    tx: Transaction, job_id: str, wish: JobWish, *, submitted_by: str, now: datetime, traceparent: str | None
) -> int:
    """Put a job at the end of the queue, with the trace it came in; returns its place."""
    place: int = await tx.fetchval(
        _ADD,
        job_id,
        wish.project_id,
        wish.name,
        submitted_by,
        wish.partition_id,
        wish.size.kind,
        wish.size.count,
        wish.walltime_seconds,
        wish.script,
        wish.software_stack,
        now,
        traceparent,
        wish.workload,
    )
    return place


async def get_job(tx: Transaction, job_id: str, *, lock: bool = False) -> Job:
    """One job; `lock` holds the row until the end. Raises NotFound."""
    row = await tx.fetchrow(_SELECT + " WHERE job_id = $1" + (" FOR UPDATE" if lock else ""), job_id)
    if row is None:
        raise NotFound(f"no job {job_id}")
    return _job(row)


async def list_jobs(
    tx: Transaction,
    *,
    projects: Sequence[str] | None,
    project: str | None,
    state: str | None,
    outcome: str | None,
    after: int,
    limit: int,
) -> Sequence[Job]:
    """Jobs in the order of submission; None does not filter. `projects` is what the reader may see."""
    return [_job(row) for row in await tx.fetch(_LIST, after, projects, project, state, outcome, limit)]


async def save_life(tx: Transaction, life: Life) -> None:
    """Write what changed in a job's life since it was read with a lock."""
    await tx.execute(
        _SAVE,
        life.job_id,
        life.state,
        life.outcome,
        life.reason,
        life.segments,
        life.runs,
        life.cancel_asked_at,
        life.cancel_reason,
        life.dispatched_at,
        life.started_at,
        life.last_started_at,
        life.ended_at,
        life.closed_at,
        life.held_at,
    )


async def try_lock_plan(tx: Transaction) -> bool:
    """Take the right to plan until the end of the transaction; False if somebody else has it."""
    taken: bool = await tx.fetchval("SELECT pg_try_advisory_xact_lock($1)", _PLAN_LOCK)
    return taken


async def list_waiting(tx: Transaction, limit: int) -> Sequence[Waiting]:
    """Jobs that wait, in the order of the queue; of more than `limit`, the first of every project and partition."""
    return [
        Waiting(row["job_id"], _wish(row, "", ""), row["planned_start"], row["planned_on"], row["verdicts"])
        for row in await tx.fetch(_WAITING, limit)
    ]


async def list_holding(tx: Transaction) -> Sequence[Holding]:
    """Jobs that take slices: placed, sent or running."""
    return [Holding(**row) for row in await tx.fetch(_HOLDING)]


async def place_jobs(tx: Transaction, placements: Sequence[Placement], now: datetime) -> dict[str, int]:
    """Write placements; returns the jobs that still waited, with the revision: the others were cancelled meanwhile."""
    if not placements:
        return {}
    rows = await tx.fetch(
        _PLACE,
        now,
        [one.job_id for one in placements],
        [one.machine_id for one in placements],
        [one.partition_id for one in placements],
        [one.resource for one in placements],
        [one.nodes for one in placements],
        [one.slices for one in placements],
        [one.amount for one in placements],
        [json.dumps(one.explanation) for one in placements],
    )
    return {row["job_id"]: row["revision"] for row in rows}


async def traces_of(tx: Transaction, job_ids: Collection[str]) -> dict[str, str]:
    """The traces in which jobs were submitted, by job."""
    return {row["job_id"]: row["traceparent"] for row in await tx.fetch(_TRACES, list(job_ids))} if job_ids else {}


async def explain_jobs(tx: Transaction, estimates: Sequence[Estimate]) -> None:
    """Write what a plan said of jobs that still wait."""
    if estimates:
        await tx.execute(
            _EXPLAIN,
            [one.job_id for one in estimates],
            [one.planned_start for one in estimates],
            [one.planned_on for one in estimates],
            [json.dumps(one.explanation) for one in estimates],
        )


async def count_before(tx: Transaction, place: int) -> int:
    """How many jobs wait that came before this place."""
    count: int = await tx.fetchval(_BEFORE, place)
    return count


async def list_occupancy(tx: Transaction, after: str, limit: int) -> Sequence[Occupancy]:
    """Partitions by name, those after `after`."""
    return [Occupancy(**row) for row in await tx.fetch(_OCCUPANCY, after, limit)]


def _wish(row: Row, name: str, script: str) -> JobWish:
    return JobWish(
        project_id=row["project_id"],
        name=name,
        partition_id=row["wanted_partition"],
        size=Size(row["size_kind"], row["size_count"]),
        walltime_seconds=row["walltime_seconds"],
        script=script,
        software_stack=row["software_stack"],
        workload=row["workload"],
    )


def _job(row: Row) -> Job:
    return Job(
        job_id=row["job_id"],
        place=row["place"],
        wish=_wish(row, row["name"], row["script"]),
        submitted_by=row["submitted_by"],
        submitted_at=row["submitted_at"],
        life=Life(job_id=row["job_id"], **{name: row[name] for name in _LIFE}),
        resource=row["resource"],
        nodes=row["nodes"],
        slices=row["slices"],
        amount=row["amount"],
        planned_start=row["planned_start"],
        planned_on=row["planned_on"],
        explanation=row["explanation"],
    )
