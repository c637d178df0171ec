"""The life of a job: submitted, paid for, sent, started, ended, cancelled, closed once."""

from dataclasses import replace
from datetime import datetime

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

from aifn_scheduler.actions import away
from aifn_scheduler.domain import admission, lifecycle
from aifn_scheduler.domain.admission import JobWish
from aifn_scheduler.domain.lifecycle import Job, Life, Outcome, ProjectClosed
from aifn_scheduler.store import handover as handovers
from aifn_scheduler.store import machines
from aifn_scheduler.store import placement as store
from aifn_scheduler.store.handover import Kept


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
    kept = await handovers.of_job(tx, event.job_id)
    job = await store.get_job(tx, event.job_id, lock=True)
    now = clock.now()
    after = lifecycle.dispatch(job.life, event.revision, event.time, now)
    goes = after.state == "dispatched" and job.life.state == "placed"
    if goes and kept is not None and kept.side == "receiver":
        # A guest is accepted now, and starts when its home has confirmed.
        if not kept.handover.receiver:
            await store.save_life(tx, replace(job.life, held_at=event.time))
            await away.accept(tx, kept, now)
        return
    await _settle(tx, job, after, kept)
    if goes and kept is not None:
        await away.ask(tx, kept, job, event.allocation_id, now)
    elif goes:
        await announce(tx, _dispatched(job))


async def leave(tx: Transaction, job_id: JobId, now: datetime) -> None:
    """A job whose project has hours at the other factory: nothing is held here, and that factory is asked at once."""
    kept = await handovers.of_job(tx, job_id)
    assert kept is not None, "it was given away in this transaction"
    job = await store.get_job(tx, job_id, lock=True)
    await _settle(tx, job, lifecycle.dispatch(job.life, job.life.revision, now, now), kept)
    await away.ask(tx, kept, job, None, now)


async def send_guest(tx: Transaction, job: Job, now: datetime) -> None:
    """Home has confirmed: a guest whose budget is held goes to its site."""
    after = lifecycle.dispatch(job.life, job.life.revision, job.life.held_at or now, now)
    await _settle(tx, job, after)
    if after.state == "dispatched" and job.life.state == "placed":
        await announce(tx, _dispatched(job))


async def give_up_guest(tx: Transaction, job: Job, because: str, now: datetime) -> None:
    """Home has voided it: a guest that was not sent is closed, at the latest when the answer on its budget is there."""
    if job.life.state == "closed" or job.life.cancel_asked_at is not None:
        return
    after = lifecycle.cancel(job.life, because, now)
    if after.held_at is not None:
        after = lifecycle.dispatch(after, after.revision, after.held_at, now)
    await _settle(tx, job, after)


async def start_away(tx: Transaction, job: Job, at: datetime) -> None:
    """A job runs at another factory."""
    after = lifecycle.start(job.life, str(job.life.machine_id), str(job.life.partition_id), 0, at)
    await _settle(tx, job, after)


async def end_away(tx: Transaction, job: Job, outcome: Outcome, at: datetime, detail: str) -> None:
    """Another factory is done with a job. No usage record of it comes here; it is settled by the agreement."""
    machine_id, partition_id = str(job.life.machine_id), str(job.life.partition_id)
    after = lifecycle.end(job.life, machine_id, partition_id, outcome, 0, at, detail, clock.now())
    await _settle(tx, job, after)


async def close_cancelled(tx: Transaction, job: Job) -> None:
    """A job that was taken back before another factory was bound is over."""
    await _settle(tx, job, lifecycle.take_back(job.life, clock.now()))


async def refuse_job(tx: Transaction, event: BudgetRefused) -> None:
    """Close a job whose project cannot pay for it. Raises NotFound."""
    kept = await handovers.of_job(tx, event.job_id)
    job = await store.get_job(tx, event.job_id, lock=True)
    because = f"{event.reason}: {event.asked} of {event.resource} asked, {event.available} left"
    await _settle(tx, job, lifecycle.refuse(job.life, event.revision, because, clock.now()), kept)


async def start_job(tx: Transaction, event: JobStarted) -> None:
    """Note that a site runs a job. Raises NotFound, NotDispatched, WrongSite."""
    kept = await handovers.of_job(tx, event.job_id)
    job = await store.get_job(tx, event.job_id, lock=True)
    after = lifecycle.start(job.life, event.machine_id, event.partition_id, event.segment, event.started_at)
    await _settle(tx, job, after, kept)
    if kept is not None and kept.side == "receiver":
        await away.start(tx, kept, event.started_at, clock.now())


async def end_job(tx: Transaction, event: JobEnded) -> None:
    """Close a job its site is done with. Raises NotFound, NotDispatched, WrongSite, AlreadyClosed."""
    kept = await handovers.of_job(tx, event.job_id)
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
    await _settle(tx, job, after, kept)


async def cancel_job(tx: Transaction, job_id: JobId, *, by: Subject) -> Job:
    """Take a job back: at once while it waits, by asking its site afterwards. Raises NotFound, AlreadyClosed."""
    kept = await handovers.of_job(tx, job_id)
    job = await store.get_job(tx, job_id, lock=True)
    after = lifecycle.cancel(job.life, f"asked by {by}", clock.now())
    if kept is not None and after.state == "placed" and after.held_at is not None:
        # A guest that waits for its home's word waits for no budget any more.
        after = lifecycle.dispatch(after, after.revision, after.held_at, clock.now())
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
    await _settle(tx, job, after, kept)
    return await store.get_job(tx, job_id)


async def expire_job(tx: Transaction, job_id: JobId) -> None:
    """Close a job that waits and whose project's allocations have ended."""
    kept = await handovers.of_job(tx, job_id)
    job = await store.get_job(tx, job_id, lock=True)
    after = lifecycle.expire(job.life, "the project's allocation ended before it could run", clock.now())
    await _settle(tx, job, after, kept)


async def _settle(tx: Transaction, job: Job, after: Life, kept: Kept | None = None) -> None:
    """Write a change, and tell it once if it is the last one; `kept` is its hand-over, if it has one that is open."""
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
        if kept is not None:
            await away.close(tx, kept, after, clock.now())


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
