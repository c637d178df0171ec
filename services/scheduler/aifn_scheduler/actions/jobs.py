"""The life of a job: submitted, paid for, sent, started, ended, cancelled, closed once."""

from aifn_common import clock, telemetry
from aifn_common.database import Transaction
from aifn_common.errors import NotFound
from aifn_common.outbox import announce
from aifn_events.placement import (
    BudgetHeld,
    BudgetRefused,
    JobCancelRequested,
    JobClosed,
    JobDispatched,
    JobEnded,
    JobStarted,
)
from aifn_events.vocabulary import FactoryId, JobId, Subject, short_id

from aifn_scheduler.domain import admission, lifecycle
from aifn_scheduler.domain.admission import JobWish
from aifn_scheduler.domain.lifecycle import Job, Life, ProjectClosed
from aifn_scheduler.store import machines
from aifn_scheduler.store import placement as store


async def submit_job(
    tx: Transaction, wish: JobWish, *, submitted_by: Subject, factory: FactoryId, longest_seconds: int
) -> Job:
    """Put a job into the queue, if it can run at all.

    Raises: NotFound and ProjectClosed of the project, and what `admission.admit` raises.
    """
    closed = await machines.is_project_closed(tx, wish.project_id)
    if closed is None:
        raise NotFound(f"no project {wish.project_id}")
    if closed:
        raise ProjectClosed(wish.project_id)
    now = clock.now()
    admission.admit(
        wish,
        await machines.get_partitions(tx),
        await machines.get_allocations(tx, [wish.project_id], now),
        now=int(now.timestamp()),
        longest_seconds=longest_seconds,
    )
    job_id = short_id(factory[:43])
    trace = telemetry.current_traceparent()
    await store.add_job(tx, job_id, wish, submitted_by=submitted_by, now=now, traceparent=trace)
    return await store.get_job(tx, job_id)


async def dispatch_job(tx: Transaction, event: BudgetHeld) -> None:
    """Send a job whose budget is held to its site, or close it if nobody wants it any more. Raises NotFound."""
    job = await store.get_job(tx, event.job_id, lock=True)
    after = lifecycle.dispatch(job.life, event.revision, event.time, clock.now())
    await _settle(tx, job, after)
    if after.state == "dispatched" and job.life.state == "placed":
        await announce(tx, _dispatched(job))


async def refuse_job(tx: Transaction, event: BudgetRefused) -> None:
    """Close a job whose project cannot pay for it. Raises NotFound."""
    job = await store.get_job(tx, event.job_id, lock=True)
    because = f"{event.reason}: {event.asked} of {event.resource} asked, {event.available} left"
    await _settle(tx, job, lifecycle.refuse(job.life, event.revision, because, clock.now()))


async def start_job(tx: Transaction, event: JobStarted) -> None:
    """Note that a site runs a job. Raises NotFound, NotDispatched, WrongSite."""
    job = await store.get_job(tx, event.job_id, lock=True)
    after = lifecycle.start(job.life, event.machine_id, event.partition_id, event.segment, event.started_at)
    await _settle(tx, job, after)


async def end_job(tx: Transaction, event: JobEnded) -> None:
    """Close a job its site is done with. Raises NotFound, NotDispatched, WrongSite, AlreadyClosed."""
    job = await store.get_job(tx, event.job_id, lock=True)
    after = lifecycle.end(
        job.life,
        event.machine_id,
        event.partition_id,
        event.outcome,
        event.segments,
        event.ended_at,
        event.detail,
        clock.now(),
    )
    await _settle(tx, job, after)


async def cancel_job(tx: Transaction, job_id: JobId, *, by: Subject) -> Job:
    """Take a job back: at once while it waits, by asking its site afterwards. Raises NotFound, AlreadyClosed."""
    job = await store.get_job(tx, job_id, lock=True)
    after = lifecycle.cancel(job.life, f"asked by {by}", clock.now())
    first_time = after.cancel_asked_at is not None and job.life.cancel_asked_at is None
    if first_time and job.life.state in lifecycle.AT_SITE:
        await announce(
            tx,
            JobCancelRequested(
                job_id=job_id,
                machine_id=str(job.life.machine_id),
                partition_id=str(job.life.partition_id),
                reason=after.cancel_reason,
            ),
        )
    await _settle(tx, job, after)
    return await store.get_job(tx, job_id)


async def expire_job(tx: Transaction, job_id: JobId) -> None:
    """Close a job that waits and whose project's allocations have ended."""
    job = await store.get_job(tx, job_id, lock=True)
    await _settle(
        tx, job, lifecycle.expire(job.life, "the project's allocation ended before it could run", clock.now())
    )


async def _settle(tx: Transaction, job: Job, after: Life) -> None:
    """Write a change, and tell it once if it is the last one."""
    if after == job.life:
        return
    await store.save_life(tx, after)
    if job.life.state != "closed" and after.outcome is not None and after.closed_at is not None:
        await announce(
            tx,
            JobClosed(
                job_id=job.job_id,
                project_id=job.wish.project_id,
                outcome=after.outcome,
                reason=after.reason,
                segments=after.segments,
                closed_at=after.closed_at,
            ),
        )


def _dispatched(job: Job) -> JobDispatched:
    """The order to the site. The database promises that a placed job has all of these."""
    assert job.life.machine_id
    assert job.life.partition_id
    assert job.resource
    assert job.nodes
    assert job.slices
    return JobDispatched(
        job_id=job.job_id,
        project_id=job.wish.project_id,
        machine_id=job.life.machine_id,
        partition_id=job.life.partition_id,
        resource=job.resource,
        nodes=job.nodes,
        slices=job.slices,
        walltime_seconds=job.wish.walltime_seconds,
        script=job.wish.script,
        submitted_by=job.submitted_by,
    )
