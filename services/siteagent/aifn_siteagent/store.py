"""All SQL of the site agent. Rows in, domain values out; it decides nothing."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime

from aifn_common.database import Row, Transaction

from aifn_siteagent.domain import Ended, Job, Machine, Partition, SegmentEnded, UsageRecord, day_of

_MACHINE = "SELECT machine_id, revision, advanced_until FROM machine WHERE machine_id = $1 FOR UPDATE"
_PUT_MACHINE = """
INSERT INTO machine (machine_id, revision, advanced_until) VALUES ($1, $2, $3)
ON CONFLICT (machine_id) DO UPDATE SET revision = EXCLUDED.revision"""
_ADVANCED = "UPDATE machine SET advanced_until = $2 WHERE machine_id = $1"


async def lock_machine(tx: Transaction, machine_id: str) -> Machine | None:
    """Read our machine and hold it until the end: jobs come and go in one order. None before it was described."""
    row = await tx.fetchrow(_MACHINE, machine_id)
    return Machine(**row) if row else None


async def put_machine(tx: Transaction, machine: Machine) -> None:
    """Keep a new machine, or the newer revision of a known one."""
    await tx.execute(_PUT_MACHINE, machine.machine_id, machine.revision, machine.advanced_until)


async def set_advanced(tx: Transaction, machine_id: str, until: datetime) -> None:
    """Everything up to this instant has been recorded."""
    await tx.execute(_ADVANCED, machine_id, until)


_PARTITION_COLUMNS = "partition_id, resource, units_per_node, described_nodes, withdrawn, nodes_in_service, reported_at"
_PARTITION = f"SELECT {_PARTITION_COLUMNS} FROM partition WHERE partition_id = $1"
_PARTITIONS = f"""
SELECT {_PARTITION_COLUMNS}, EXISTS (
    SELECT FROM job
    WHERE job.partition_id = partition.partition_id AND outcome IS NULL
    AND (ends_at <= $2 OR cancel_at <= $2
         OR (started_at IS NULL AND submitted_at <= $2 AND (submitted_at > $1 OR withdrawn)))
) AS due
FROM partition ORDER BY partition_id"""
_DESCRIBE = """
INSERT INTO partition (partition_id, resource, units_per_node, described_nodes, nodes_in_service)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (partition_id) DO UPDATE
SET resource = EXCLUDED.resource, units_per_node = EXCLUDED.units_per_node,
    described_nodes = EXCLUDED.described_nodes, withdrawn = false"""
_WITHDRAW = "UPDATE partition SET withdrawn = true WHERE partition_id <> ALL($1::text[]) AND NOT withdrawn"
_SET_SERVICE = "UPDATE partition SET nodes_in_service = $2 WHERE partition_id = $1"
_SET_REPORTED = "UPDATE partition SET reported_at = $2 WHERE partition_id = $1"


async def get_partition(tx: Transaction, partition_id: str) -> Partition | None:
    """One partition, None if the passport never had it."""
    row = await tx.fetchrow(_PARTITION, partition_id)
    return Partition(**row) if row else None


async def list_partitions(tx: Transaction, since: datetime, until: datetime) -> list[tuple[Partition, bool]]:
    """All partitions, each with whether anything happens to its jobs after `since` and up to `until`.

    To a job that waits in a withdrawn partition something always does: it is turned away.
    """
    found = []
    for row in await tx.fetch(_PARTITIONS, since, until):
        values = dict(row)
        due = bool(values.pop("due"))
        found.append((Partition(**values), due))
    return found


async def describe_partitions(tx: Transaction, partitions: Iterable[Partition]) -> None:
    """Keep what the passport says; a partition that is no longer in it stays known, as withdrawn.

    `nodes_in_service` is taken from new partitions only: a known one has been followed with its own.
    """
    rows = [
        (one.partition_id, one.resource, one.units_per_node, one.described_nodes, one.nodes_in_service)
        for one in partitions
    ]
    await tx.executemany(_DESCRIBE, rows)
    await tx.execute(_WITHDRAW, [row[0] for row in rows])


async def set_nodes_in_service(tx: Transaction, partition_id: str, nodes: int) -> None:
    """The partition has been followed with this number of nodes."""
    await tx.execute(_SET_SERVICE, partition_id, nodes)


async def set_reported(tx: Transaction, partition_id: str, moment: datetime) -> None:
    """The partition's capacity was reported as of this moment."""
    await tx.execute(_SET_REPORTED, partition_id, moment)


_JOB_COLUMNS = """local_job_id, job_id, project_id, partition_id, resource, local_user, nodes, slices,
walltime_seconds, run_seconds, exit_code, requeue_after_seconds, segment, submitted_at, cancel_at, cancel_reason,
started_at, ends_at, on_nodes"""
_LIVE_JOBS = f"SELECT {_JOB_COLUMNS} FROM job WHERE partition_id = $1 AND outcome IS NULL"
_LIVE_IN = "SELECT EXISTS (SELECT FROM job WHERE partition_id = $1 AND outcome IS NULL)"
_ADD_JOB = """
INSERT INTO job (job_id, project_id, partition_id, resource, local_user, nodes, slices, walltime_seconds, run_seconds,
                 exit_code, requeue_after_seconds, submitted_at, cancel_at, cancel_reason, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (job_id) DO NOTHING RETURNING local_job_id"""
_CHANGE_JOB = """
UPDATE job SET segment = $2, submitted_at = $3, started_at = $4, ends_at = $5, on_nodes = $6 WHERE local_job_id = $1"""
_END_JOB = """
UPDATE job SET outcome = $2, ended_at = $3, segments = $4, segment = $5, submitted_at = $6, started_at = $7,
    ends_at = $8, on_nodes = $9
WHERE local_job_id = $1"""
_CANCEL = """
UPDATE job SET cancel_at = $2, cancel_reason = $3 WHERE job_id = $1 AND outcome IS NULL AND cancel_at IS NULL"""
_TRACES = "SELECT job_id, traceparent FROM job WHERE job_id = ANY($1::text[]) AND traceparent IS NOT NULL"
_KNOWN = "SELECT EXISTS (SELECT FROM job WHERE job_id = $1)"
_REMEMBER_CANCEL = "INSERT INTO early_cancel (job_id, reason) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_TAKE_CANCEL = "DELETE FROM early_cancel WHERE job_id = $1 RETURNING reason"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as it enters the batch system."""

    job_id: str
    project_id: str
    partition_id: str
    resource: str
    local_user: str
    nodes: int
    slices: int
    walltime_seconds: int
    run_seconds: int
    exit_code: int
    requeue_after_seconds: int | None
    submitted_at: datetime
    cancel_at: datetime | None
    cancel_reason: str


async def list_live_jobs(tx: Transaction, partition_id: str) -> list[Job]:
    """All jobs of a partition that wait or run."""
    return [_job(row) for row in await tx.fetch(_LIVE_JOBS, partition_id)]


async def has_live_jobs(tx: Transaction, partition_id: str) -> bool:
    """Whether any job waits or runs in a partition."""
    return bool(await tx.fetchval(_LIVE_IN, partition_id))


async def add_job(tx: Transaction, job: NewJob, traceparent: str | None) -> int | None:
    """Queue a job, with the trace it came in, and return its local number.

    Returns: None, and nothing is changed, if a job of that name is known.
    """
    number: int | None = await tx.fetchval(
        _ADD_JOB,
        job.job_id,
        job.project_id,
        job.partition_id,
        job.resource,
        job.local_user,
        job.nodes,
        job.slices,
        job.walltime_seconds,
        job.run_seconds,
        job.exit_code,
        job.requeue_after_seconds,
        job.submitted_at,
        job.cancel_at,
        job.cancel_reason,
        traceparent,
    )
    return number


async def traces_of(tx: Transaction, job_ids: Collection[str]) -> dict[str, str]:
    """The traces in which jobs came here, by job."""
    return {row["job_id"]: row["traceparent"] for row in await tx.fetch(_TRACES, list(job_ids))} if job_ids else {}


async def change_jobs(tx: Transaction, jobs: Iterable[Job]) -> None:
    """Write where living jobs stand now."""
    rows = [
        (one.local_job_id, one.segment, one.submitted_at, one.started_at, one.ends_at, one.on_nodes) for one in jobs
    ]
    if rows:
        await tx.executemany(_CHANGE_JOB, rows)


async def end_jobs(tx: Transaction, ended: Iterable[Ended]) -> None:
    """Write how jobs ended, and their last run."""
    rows = [
        (
            one.job.local_job_id,
            one.outcome,
            one.ended_at,
            one.segments,
            one.job.segment,
            one.job.submitted_at,
            one.job.started_at,
            one.job.ends_at,
            one.job.on_nodes,
        )
        for one in ended
    ]
    if rows:
        await tx.executemany(_END_JOB, rows)


async def refuse_job(tx: Transaction, local_job_id: int, moment: datetime) -> None:
    """Write that a job will never run here."""
    await tx.execute(_END_JOB, local_job_id, "refused", moment, 0, 0, moment, None, None, [])


async def is_known(tx: Transaction, job_id: str) -> bool:
    """Whether a job of that name was ever here."""
    return bool(await tx.fetchval(_KNOWN, job_id))


async def cancel_job(tx: Transaction, job_id: str, moment: datetime, reason: str) -> None:
    """Mark a living job to be stopped at an instant to come; the first such wish counts."""
    await tx.execute(_CANCEL, job_id, moment, reason)


async def remember_cancel(tx: Transaction, job_id: str, reason: str) -> None:
    """Keep a wish to cancel a job that is not here yet."""
    await tx.execute(_REMEMBER_CANCEL, job_id, reason)


async def take_cancel(tx: Transaction, job_id: str) -> str | None:
    """Take out the reason of a wish that came before its job, None if there was none."""
    reason: str | None = await tx.fetchval(_TAKE_CANCEL, job_id)
    return reason


_RECORD_COLUMNS = ("local_job_id", "submitted_at", "segment", "revision", "resource", "amount", "day")
_RECORDS = """
SELECT local_job_id::text AS local_job_id, submitted_at, segment, revision, resource, amount
FROM usage_record WHERE day = $1"""
_TOUCH_DAYS = """
INSERT INTO usage_day (day, changed) SELECT unnest($1::date[]), true
ON CONFLICT (day) DO UPDATE SET changed = true"""
_OPEN_DAYS = """
INSERT INTO usage_day (day, changed)
SELECT day::date, true FROM generate_series($1::date::timestamp, $2::date::timestamp - interval '1 day', '1 day') AS day
ON CONFLICT DO NOTHING"""
_DAYS_TO_STATE = """
SELECT day, coalesce(revision + 1, 0) AS revision FROM usage_day
WHERE changed AND (day < $1 OR stated_at IS NULL OR stated_at <= $2) ORDER BY day LIMIT $3"""
_SET_STATED = "UPDATE usage_day SET changed = false, revision = $2, stated_at = $3 WHERE day = $1"


async def add_usage(tx: Transaction, ended: Iterable[SegmentEnded]) -> None:
    """Keep what run segments used, and note that their days have changed."""
    rows = [
        (
            one.job.local_job_id,
            one.job.submitted_at,
            one.job.segment,
            0,
            one.job.resource,
            one.amount,
            day_of(one.ended_at),
        )
        for one in ended
    ]
    if rows:
        await tx.copy_records_to_table("usage_record", records=rows, columns=_RECORD_COLUMNS)
        await tx.execute(_TOUCH_DAYS, sorted({row[-1] for row in rows}))


async def open_days(tx: Transaction, first: date, until: date) -> None:
    """See that every day from `first` up to, not including, `until` will be stated, even if nothing ended on it."""
    await tx.execute(_OPEN_DAYS, first, until)


async def days_to_state(tx: Transaction, today: date, stated_before: datetime, limit: int) -> list[tuple[date, int]]:
    """Days that changed since their last statement, oldest first, each with the revision of the next one.

    A day that is not over is left out if its last statement is younger than `stated_before`.
    """
    rows = await tx.fetch(_DAYS_TO_STATE, today, stated_before, limit)
    return [(row["day"], row["revision"]) for row in rows]


async def list_usage(tx: Transaction, day: date) -> list[UsageRecord]:
    """All records of the segments that ended on a day."""
    return [UsageRecord(**row) for row in await tx.fetch(_RECORDS, day)]


async def set_stated(tx: Transaction, day: date, revision: int, moment: datetime) -> None:
    """A day was stated as it is now."""
    await tx.execute(_SET_STATED, day, revision, moment)


def _job(row: Row) -> Job:
    return Job(**dict(row) | {"on_nodes": tuple(row["on_nodes"])})
