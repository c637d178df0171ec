"""Jobs on a real database: planned, placed, sent, ended; whatever the order, closed once."""

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import perf_counter

import asyncpg
import pytest
from aifn_common import membership
from aifn_common.database import Database, transaction
from aifn_common.errors import NotFound, Refusal, Stale
from aifn_events.placement import BudgetRefused, JobCancelRequested, JobClosed, JobDispatched, JobPlaced
from aifn_scheduler.actions import jobs, machines, planning
from aifn_scheduler.domain.admission import NoAllocation, Size
from aifn_scheduler.domain.lifecycle import AlreadyClosed, Job, NotDispatched, ProjectClosed, WrongSite
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import placement as store

from tests.scheduler.make import (
    AHEAD,
    HOUR,
    NOW,
    allocation,
    announced,
    capacity,
    dispatched,
    ended,
    held,
    machine,
    project,
    started,
    submit,
    tick,
    world,
)


async def read(db: Database, job_id: str) -> Job:
    async with db.acquire() as connection:
        return await store.get_job(connection, job_id)


async def cancel(db: Database, job_id: str) -> Job:
    async with transaction(db) as tx:
        return await jobs.cancel_job(tx, job_id, by="mari")


async def test_a_job_goes_from_the_queue_to_its_end_and_every_step_is_told_once(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    job = await submit(db, size=Size("devices", 4))
    assert await tick(db, limits) == 1
    (placed,) = await announced(db, JobPlaced)
    assert (placed.resource, placed.amount, placed.revision) == ("lumi/lumi-g/gpu-time", 32 * HOUR, 0)
    async with transaction(db) as tx:
        await jobs.dispatch_job(tx, held(placed))
        await jobs.dispatch_job(tx, held(placed))
    (sent,) = await announced(db, JobDispatched)
    assert (sent.nodes, sent.slices, sent.walltime_seconds) == (1, 32, HOUR)
    async with transaction(db) as tx:
        await jobs.start_job(tx, started(job.job_id))
        await jobs.end_job(tx, ended(job.job_id))
        await jobs.end_job(tx, ended(job.job_id))
    (closed,) = await announced(db, JobClosed)
    assert (closed.outcome, closed.segments, closed.project_id) == ("completed", 1, "p1")
    life = (await read(db, job.job_id)).life
    assert life.started_at == NOW
    moments = (life.placed_at, life.held_at, life.dispatched_at, life.ended_at, life.closed_at)
    assert None not in moments


async def test_what_kind_of_work_a_job_is_goes_with_its_request_for_budget(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    served = await submit(db, workload="inference")
    unsaid = await submit(db)
    assert await tick(db, limits) == 2
    said = {one.job_id: one.workload for one in await announced(db, JobPlaced)}
    assert said == {served.job_id: "inference", unsaid.job_id: None}
    assert (await read(db, served.job_id)).wish.workload == "inference"


async def test_what_is_held_is_not_given_twice(db: Database, limits: SchedulerSettings) -> None:
    await world(db, nodes=2)
    first, second, third = [await submit(db) for _ in range(3)]
    assert await tick(db, limits) == 2
    assert await tick(db, limits) == 0
    assert [(await read(db, job.job_id)).life.state for job in (first, second, third)] == ["placed", "placed", "queued"]
    waiting = await read(db, third.job_id)
    assert waiting.planned_start is not None
    assert waiting.explanation is not None
    (reason,) = waiting.explanation["reasons"]
    assert reason["verdict"] == "waits_for_slices"
    assert set(reason["waits_for"]) <= {first.job_id, second.job_id}
    assert reason["waits_for"]
    async with transaction(db) as tx:
        await jobs.dispatch_job(tx, held((await announced(db, JobPlaced))[0]))
        await jobs.end_job(tx, ended(first.job_id))
    assert await tick(db, limits) == 1
    assert (await read(db, third.job_id)).life.state == "placed"


async def test_jobs_that_cannot_start_do_not_hide_those_of_other_projects_or_partitions(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    async with transaction(db) as tx:
        await membership.remember_project(tx, project("p2"))
        await machines.remember_allocation(tx, allocation(partition_id="lumi-c"))
        await machines.remember_allocation(tx, allocation("p2"))
    await db.execute(
        "UPDATE allocation SET starts_at = now() + interval '1 day' WHERE project_id = 'p1' AND partition_id = 'lumi-g'"
    )
    for _ in range(5):
        await submit(db)
    elsewhere = await submit(db, partition_id="lumi-c")
    other = await submit(db, project_id="p2")
    assert await tick(db, limits.model_copy(update={"plan_at_most": 3})) == 2
    assert [one.job_id for one in await announced(db, JobPlaced)] == [elsewhere.job_id, other.job_id]


async def test_a_plan_keeps_its_bound_and_the_order_of_the_queue(db: Database) -> None:
    await world(db)
    async with transaction(db) as tx:
        await membership.remember_project(tx, project("p2"))
        await machines.remember_allocation(tx, allocation("p2"))
    queued = [await submit(db, project_id=name) for name in ("p1", "p1", "p1", "p2", "p1", "p2")]
    async with db.acquire() as connection:
        seen = [one.job_id for one in await store.list_waiting(connection, 4)]
        whole = [one.job_id for one in await store.list_waiting(connection, 10)]
    assert seen == [queued[index].job_id for index in (0, 1, 3, 5)]
    assert whole == [job.job_id for job in queued]


async def test_two_plans_at_the_same_moment_place_a_job_once(db: Database, limits: SchedulerSettings) -> None:
    await world(db, nodes=3)
    for _ in range(5):
        await submit(db)
    await asyncio.gather(*(tick(db, limits) for _ in range(5)))
    assert len(await announced(db, JobPlaced)) == 3


async def test_a_job_cancelled_while_the_plan_is_made_is_not_placed(db: Database, limits: SchedulerSettings) -> None:
    await world(db)
    job = await submit(db)
    async with transaction(db) as tx:
        assert (await store.list_waiting(tx, 10))[0].job_id == job.job_id
        await cancel(db, job.job_id)
        assert await planning.plan_jobs(tx, limits) == 0
    assert await announced(db, JobPlaced) == []
    assert [one.outcome for one in await announced(db, JobClosed)] == ["cancelled"]


@pytest.mark.parametrize(("age", "verdict"), [(None, "no_capacity_report"), (901, "stale_capacity_report")])
async def test_a_partition_whose_site_does_not_report_takes_no_job(
    db: Database, limits: SchedulerSettings, age: int | None, verdict: str
) -> None:
    async with transaction(db) as tx:
        await machines.remember_machine(tx, machine())
        await membership.remember_project(tx, project())
        await machines.remember_allocation(tx, allocation())
        if age is not None:
            await machines.remember_capacity(
                tx, capacity(at=datetime.now(UTC) - timedelta(seconds=age)), may_be_ahead=AHEAD
            )
    job = await submit(db)
    assert await tick(db, limits) == 0
    known = await read(db, job.job_id)
    assert known.explanation is not None
    assert [reason["verdict"] for reason in known.explanation["reasons"]] == [verdict]
    async with transaction(db) as tx:
        await machines.remember_capacity(tx, capacity(), may_be_ahead=AHEAD)
    assert await tick(db, limits) == 1


async def test_patience_with_a_site_is_real_time_under_a_simulated_clock(limits: SchedulerSettings) -> None:
    assert limits.capacity_patience == timedelta(seconds=900)
    assert limits.model_copy(update={"clock_factor": 60}).capacity_patience == timedelta(hours=15)
    assert limits.capacity_ahead == timedelta(seconds=60)
    assert limits.model_copy(update={"clock_factor": 60}).capacity_ahead == timedelta(hours=1)


async def test_a_job_without_a_partition_goes_where_its_project_may_compute(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db, nodes=1)
    async with transaction(db) as tx:
        await machines.remember_allocation(tx, allocation(partition_id="lumi-c"))
    for _ in range(2):
        await submit(db, partition_id=None, size=Size("cores", 64))
    await submit(db, partition_id=None, size=Size("cores", 128))
    await tick(db, limits)
    placed = [(one.partition_id, one.amount) for one in await announced(db, JobPlaced)]
    assert placed == [("lumi-c", 64 * HOUR), ("lumi-c", 64 * HOUR)]


async def test_a_refused_budget_closes_the_job_as_refused(db: Database, limits: SchedulerSettings) -> None:
    await world(db)
    job = await submit(db)
    await tick(db, limits)
    (placed,) = await announced(db, JobPlaced)
    async with transaction(db) as tx:
        refused = BudgetRefused.example(job_id=job.job_id, project_id="p1", asked=placed.amount, available=3)
        await jobs.refuse_job(tx, refused)
        await jobs.dispatch_job(tx, held(placed))
    (closed,) = await announced(db, JobClosed)
    assert (closed.outcome, closed.segments) == ("refused", 0)
    assert "3 left" in closed.reason
    assert await announced(db, JobDispatched) == []


async def test_a_hold_for_another_placement_sends_nothing(db: Database, limits: SchedulerSettings) -> None:
    await world(db)
    await submit(db)
    await tick(db, limits)
    (placed,) = await announced(db, JobPlaced)
    async with transaction(db) as tx:
        await jobs.dispatch_job(tx, held(placed, revision=7))
    assert await announced(db, JobDispatched) == []


async def test_a_job_cancelled_before_its_hold_is_closed_by_the_hold(db: Database, limits: SchedulerSettings) -> None:
    await world(db)
    job = await submit(db)
    await tick(db, limits)
    assert (await cancel(db, job.job_id)).life.state == "placed"
    (placed,) = await announced(db, JobPlaced)
    async with transaction(db) as tx:
        await jobs.dispatch_job(tx, held(placed))
    assert [one.outcome for one in await announced(db, JobClosed)] == ["cancelled"]
    assert await announced(db, JobDispatched) == []


async def test_a_job_at_its_site_is_asked_to_stop_once_and_ends_when_the_site_says_so(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    job = await dispatched(db, limits)
    await cancel(db, job.job_id)
    assert (await cancel(db, job.job_id)).life.state == "dispatched"
    (asked,) = await announced(db, JobCancelRequested)
    assert (asked.job_id, asked.machine_id, asked.partition_id) == (job.job_id, "lumi", "lumi-g")
    assert await announced(db, JobClosed) == []
    async with transaction(db) as tx:
        await jobs.end_job(tx, ended(job.job_id, outcome="cancelled", segments=0))
    assert [one.outcome for one in await announced(db, JobClosed)] == ["cancelled"]


async def test_a_silent_site_does_not_cost_its_jobs(db: Database, limits: SchedulerSettings) -> None:
    await world(db, nodes=1)
    job = await dispatched(db, limits)
    await db.execute(
        "UPDATE job SET placed_at = placed_at - interval '9 days', planned_start = now() - interval '9 days'"
    )
    next_one = await submit(db)
    assert await tick(db, limits) == 0
    assert (await read(db, job.job_id)).life.state == "dispatched"
    assert (await read(db, next_one.job_id)).life.state == "queued"


async def test_a_job_whose_allocation_ended_in_the_queue_is_closed_as_refused(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    job = await submit(db)
    await db.execute("UPDATE allocation SET ends_at = now() - interval '1 second'")
    assert await tick(db, limits) == 0
    (closed,) = await announced(db, JobClosed)
    assert (closed.job_id, closed.outcome) == (job.job_id, "refused")


async def test_a_job_whose_partition_is_retired_waits_until_its_allocation_ends_and_is_then_refused(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    job = await submit(db)
    async with transaction(db) as tx:
        await machines.remember_machine(tx, machine(revision=1, retired=True))
    assert await tick(db, limits) == 0
    assert (await read(db, job.job_id)).life.state == "queued"
    await db.execute("UPDATE allocation SET ends_at = now() - interval '1 second'")
    assert await tick(db, limits) == 0
    (closed,) = await announced(db, JobClosed)
    assert (closed.job_id, closed.outcome) == (job.job_id, "refused")
    assert "allocation ended" in closed.reason


async def test_a_job_waits_for_an_allocation_that_has_not_begun(db: Database, limits: SchedulerSettings) -> None:
    await world(db)
    begins = datetime.now(UTC) + timedelta(hours=1)
    await db.execute("UPDATE allocation SET starts_at = $1", begins)
    job = await submit(db)
    assert await tick(db, limits) == 0
    known = await read(db, job.job_id)
    assert known.planned_start is not None
    assert begins <= known.planned_start < begins + timedelta(seconds=1)


async def test_a_job_in_the_gap_between_two_allocations_waits_for_the_second(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    await db.execute("UPDATE allocation SET ends_at = now() - interval '1 second'")
    begins = datetime.now(UTC) + timedelta(hours=1)
    async with transaction(db) as tx:
        await machines.remember_allocation(tx, allocation(allocation_id="the-next", starts_at=begins))
    job = await submit(db)
    assert await tick(db, limits) == 0
    known = await read(db, job.job_id)
    assert known.life.state == "queued"
    assert known.planned_start is not None
    assert begins <= known.planned_start < begins + timedelta(seconds=1)
    assert await announced(db, JobPlaced) == []


async def test_an_unknown_job_an_unsent_job_and_a_foreign_site_are_refused(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db)
    async with transaction(db) as tx:
        with pytest.raises(NotFound):
            await jobs.end_job(tx, ended("no-such-job"))
        with pytest.raises(NotFound):
            await jobs.start_job(tx, started("no-such-job"))
    waiting = await submit(db, partition_id="lumi-g")
    async with transaction(db) as tx:
        with pytest.raises(NotDispatched):
            await jobs.end_job(tx, ended(waiting.job_id))
    sent = await dispatched(db, limits)
    async with transaction(db) as tx:
        with pytest.raises(WrongSite):
            await jobs.end_job(tx, ended(sent.job_id, machine_id="leonardo"))
    assert await announced(db, JobClosed) == []


async def test_a_project_that_is_unknown_closed_or_without_allocation_queues_nothing(db: Database) -> None:
    await world(db)
    async with transaction(db) as tx:
        await membership.remember_project(tx, project("p2"))
        await membership.remember_project(tx, project("p3", closed=True))
    with pytest.raises(NotFound):
        await submit(db, project_id="p9")
    with pytest.raises(NoAllocation):
        await submit(db, project_id="p2")
    with pytest.raises(ProjectClosed):
        await submit(db, project_id="p3")
    assert await db.fetchval("SELECT count(*) FROM job") == 0


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_and_repetition_of_news_closes_a_job_once(
    db: Database, limits: SchedulerSettings, seed: int
) -> None:
    await world(db)
    job = await submit(db)
    await tick(db, limits)
    (placed,) = await announced(db, JobPlaced)
    refused = BudgetRefused.example(job_id=job.job_id, project_id="p1", revision=0)
    steps = [
        lambda tx: jobs.dispatch_job(tx, held(placed)),
        lambda tx: jobs.refuse_job(tx, refused),
        lambda tx: jobs.start_job(tx, started(job.job_id)),
        lambda tx: jobs.end_job(tx, ended(job.job_id)),
        lambda tx: jobs.end_job(tx, ended(job.job_id, outcome="failed", segments=0)),
        lambda tx: jobs.cancel_job(tx, job.job_id, by="mari"),
    ] * 2
    random.Random(seed).shuffle(steps)

    async def deliver(step: object) -> None:
        with suppress(Refusal):
            async with transaction(db) as tx:
                await step(tx)  # type: ignore[operator]

    await asyncio.gather(*(deliver(step) for step in steps))
    await deliver(steps[0])
    await deliver(lambda tx: jobs.dispatch_job(tx, held(placed)))
    await deliver(lambda tx: jobs.end_job(tx, ended(job.job_id)))
    closings = await announced(db, JobClosed)
    assert len(closings) == 1
    life = (await read(db, job.job_id)).life
    assert (life.state, life.outcome, life.segments) == ("closed", closings[0].outcome, closings[0].segments)


async def test_the_database_itself_keeps_a_final_state(db: Database, limits: SchedulerSettings) -> None:
    await world(db)
    job = await dispatched(db, limits)
    async with transaction(db) as tx:
        await jobs.end_job(tx, ended(job.job_id))
    for change in ("state = 'running', outcome = NULL, closed_at = NULL", "outcome = 'failed'", "segments = 5"):
        with pytest.raises(asyncpg.CheckViolationError):
            await db.execute(f"UPDATE job SET {change} WHERE job_id = $1", job.job_id)
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("UPDATE job SET outcome = NULL WHERE job_id = $1", job.job_id)
    with pytest.raises(AlreadyClosed):
        await cancel(db, job.job_id)


async def test_an_older_report_and_an_older_passport_are_refused_and_the_same_is_harmless(db: Database) -> None:
    seen = datetime.now(UTC) - timedelta(minutes=1)
    async with transaction(db) as tx:
        await machines.remember_machine(tx, machine(revision=3))
        await machines.remember_machine(tx, machine(revision=3))
        with pytest.raises(Stale):
            await machines.remember_machine(tx, machine(revision=2))
        await machines.remember_capacity(tx, capacity(nodes=7, at=seen), may_be_ahead=AHEAD)
        await machines.remember_capacity(tx, capacity(nodes=9, at=seen), may_be_ahead=AHEAD)
        older = capacity(nodes=8, at=seen - timedelta(seconds=1))
        with pytest.raises(Stale):
            await machines.remember_capacity(tx, older, may_be_ahead=AHEAD)
    assert await db.fetchval("SELECT nodes_in_service FROM capacity") == 7


async def test_a_report_from_before_its_passport_gives_no_more_nodes_than_the_passport(
    db: Database, limits: SchedulerSettings
) -> None:
    small = machine()
    smaller = [one.model_copy(update={"nodes": 2}) for one in small.partitions]
    async with transaction(db) as tx:
        await machines.remember_capacity(tx, capacity(nodes=9), may_be_ahead=AHEAD)
        await machines.remember_machine(tx, small.model_copy(update={"partitions": smaller}))
        await membership.remember_project(tx, project())
        await machines.remember_allocation(tx, allocation())
    for _ in range(3):
        await submit(db)
    assert await tick(db, limits) == 2


async def test_a_partition_that_a_machine_no_longer_names_is_retired(db: Database) -> None:
    async with transaction(db) as tx:
        await machines.remember_machine(tx, machine())
        fewer = machine(revision=1)
        await machines.remember_machine(tx, fewer.model_copy(update={"partitions": fewer.partitions[:1]}))
    rows = await db.fetch("SELECT partition_id, retired FROM partition ORDER BY partition_id")
    assert [tuple(row) for row in rows] == [("lumi-c", True), ("lumi-g", False)]


async def test_a_report_of_another_machine_is_no_report(db: Database, limits: SchedulerSettings) -> None:
    await world(db)
    await db.execute("UPDATE capacity SET machine_id = 'leonardo'")
    await submit(db)
    assert await tick(db, limits) == 0


async def test_an_estimate_that_moves_a_little_is_not_written_again(db: Database, limits: SchedulerSettings) -> None:
    await world(db, nodes=1)
    await submit(db)
    waiting = await submit(db)
    await tick(db, limits)
    first = await read(db, waiting.job_id)
    await tick(db, limits)
    assert await read(db, waiting.job_id) == first
    strict = limits.model_copy(update={"estimate_tolerance_seconds": 0})
    await db.execute("UPDATE job SET planned_start = planned_start - interval '9 seconds' WHERE state = 'queued'")
    await tick(db, strict)
    moved = await read(db, waiting.job_id)
    assert moved.explanation is not None
    assert moved.explanation["moved_later_from"] is not None


async def test_thousands_of_waiting_jobs_are_planned_in_well_under_a_second(
    db: Database, limits: SchedulerSettings
) -> None:
    await world(db, nodes=50)
    wanted = [(number % 8 + 1, (number % 300 + 1) * 60) for number in range(3000)]
    await db.executemany(
        """INSERT INTO job (job_id, project_id, name, submitted_by, wanted_partition, size_kind, size_count,
                            walltime_seconds, script, software_stack, submitted_at)
           VALUES ($1, 'p1', 'n', 'mari', 'lumi-g', 'devices', $2, $3, 'x', 'any', now())""",
        [(f"j{number}", devices, seconds) for number, (devices, seconds) in enumerate(wanted)],
    )
    assert await tick(db, limits) > 0
    took = []
    for _ in range(3):
        began = perf_counter()
        await tick(db, limits)
        took.append(perf_counter() - began)
    print(f"plans of 3,000 waiting jobs, 2,400 shapes: {[f'{one:.2f} s' for one in took]}")
    assert min(took) < 2
