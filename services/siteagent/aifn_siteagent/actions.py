"""What the agent does: one transaction each. Whoever changes jobs holds the machine, so all happens in one order."""

from dataclasses import replace
from datetime import datetime, timedelta
from importlib.metadata import version

from aifn_common import clock, telemetry
from aifn_common.database import Transaction
from aifn_common.outbox import announce, announce_all
from aifn_events.base import Event
from aifn_events.placement import JobCancelRequested, JobDispatched, JobEnded, JobStarted
from aifn_events.registry import CapacityReported, MachineDescribed, PartitionPassport
from aifn_events.usage import ResourceTotal, UsageDayStated, UsageReported

from aifn_siteagent import simulated, store
from aifn_siteagent.domain import (
    Ended,
    Happening,
    Machine,
    Occupancy,
    OldPassport,
    Partition,
    SegmentEnded,
    Started,
    UnitsChanged,
    UnknownPartition,
    WrongResource,
    day_of,
    digest_of,
    local_user_of,
    next_instant,
    nodes_in_service,
    size_of,
    too_large,
    totals_of,
    whole_second,
)
from aifn_siteagent.settings import SiteAgentSettings

COLLECTOR = f"{simulated.BACKEND}/{version('aifn-siteagent')}"
STATEMENT_PAUSE = timedelta(hours=1)
MOST_STATEMENTS = 31


async def describe_machine(tx: Transaction, event: MachineDescribed, settings: SiteAgentSettings) -> None:
    """Keep the passport of our machine. Raises OldPassport, and UnitsChanged while jobs count in the old units."""
    if event.machine_id != settings.machine:
        return
    before = await store.lock_machine(tx, settings.machine)
    if before is not None and event.revision < before.revision:
        raise OldPassport(known_revision=before.revision, revision=event.revision)
    partitions = [] if event.retired else [_partition(passport, settings) for passport in event.partitions]
    for one in partitions:
        known = await store.get_partition(tx, one.partition_id)
        if known is None or (known.units_per_node, known.resource) == (one.units_per_node, one.resource):
            continue
        if await store.has_live_jobs(tx, one.partition_id):
            raise UnitsChanged(one.partition_id)
    since = before.advanced_until if before else whole_second(clock.now())
    await store.put_machine(tx, Machine(settings.machine, event.revision, since))
    await store.describe_partitions(tx, partitions)


async def queue_job(tx: Transaction, event: JobDispatched, settings: SiteAgentSettings) -> None:
    """Hand a job to the batch system, once, whatever message repeats it; one that can never start is refused there.

    Raises: UnknownPartition, also before the machine was described; WrongResource.
    """
    if event.machine_id != settings.machine:
        return
    machine = await store.lock_machine(tx, settings.machine)
    partition = await store.get_partition(tx, event.partition_id)
    if machine is None or partition is None:
        raise UnknownPartition(event.machine_id, event.partition_id)
    if event.resource != partition.resource:
        raise WrongResource(expected=partition.resource, given=event.resource)
    submitted_at = next_instant(clock.now(), machine.advanced_until)
    cancelled = await store.take_cancel(tx, event.job_id)
    job = _new_job(event, partition, settings, submitted_at=submitted_at, cancelled=cancelled)
    local_job_id = await store.add_job(tx, job, telemetry.current_traceparent())
    obstacle = too_large(size_of(job.nodes, job.slices, partition.units_per_node), _offered(partition, settings))
    if local_job_id is not None and obstacle is not None:
        await store.refuse_job(tx, local_job_id, submitted_at)
        await announce(tx, _refused(event, submitted_at, obstacle))


async def cancel_job(tx: Transaction, event: JobCancelRequested, settings: SiteAgentSettings) -> None:
    """Have a job stopped at the next second. One that is not here yet will be stopped as it comes."""
    if event.machine_id != settings.machine:
        return
    machine = await store.lock_machine(tx, settings.machine)
    if machine is not None and await store.is_known(tx, event.job_id):
        await store.cancel_job(tx, event.job_id, next_instant(clock.now(), machine.advanced_until), event.reason)
    else:
        await store.remember_cancel(tx, event.job_id, event.reason)


async def follow(tx: Transaction, settings: SiteAgentSettings) -> bool:
    """Follow the batch system up to now, and announce all that has happened; False if there was nothing to write.

    Where nothing happened nothing is written, not even how far one has looked: the next look starts further back
    and finds the same.
    """
    machine = await store.lock_machine(tx, settings.machine)
    if machine is None:
        return False
    since, until = machine.advanced_until, whole_second(clock.now())
    if until < since:
        return False
    events: list[Event] = []
    moved = False
    for partition, due in await store.list_partitions(tx, since, until):
        moved |= due or _offered(partition, settings) != partition.nodes_in_service
        events += await _follow_partition(tx, partition, due, since, until, settings)
    if day_of(since) != day_of(until):
        await store.open_days(tx, day_of(since), day_of(until))
    events += await _state_days(tx, settings.machine, until)
    if not events and not moved:
        return False
    await store.set_advanced(tx, settings.machine, until)
    await announce_all(tx, await _traced(tx, events))
    return True


async def _traced(tx: Transaction, events: list[Event]) -> list[Event]:
    """What happened to a job belongs to the trace in which it came here."""
    about_jobs = [one for one in events if isinstance(one, JobStarted | JobEnded | UsageReported)]
    traces = await store.traces_of(tx, {one.job_id for one in about_jobs if one.job_id is not None})
    return [
        one.model_copy(update={"traceparent": telemetry.part_of("siteagent follow", traces.get(one.job_id or ""))})
        if isinstance(one, JobStarted | JobEnded | UsageReported)
        else one
        for one in events
    ]


async def _follow_partition(
    tx: Transaction, partition: Partition, due: bool, since: datetime, until: datetime, settings: SiteAgentSettings
) -> list[Event]:
    offered = _offered(partition, settings)
    resized = offered != partition.nodes_in_service
    # The registry wants to hear that nothing is left of a withdrawn partition, and then nothing more about it.
    reports = resized or (not partition.withdrawn and _is_report_due(partition, until, settings))
    if not due and not reports:
        return []
    jobs = await store.list_live_jobs(tx, partition.partition_id)
    events: list[Event] = []
    if due or resized:
        done = simulated.advance(partition, jobs, since=since, until=until, nodes_in_service=offered)
        if partition.withdrawn:
            done = simulated.turn_away(done, until)
        await _record(tx, done)
        events += [_told(one, settings.machine) for one in done.happenings]
        jobs = list(done.alive)
    if resized:
        await store.set_nodes_in_service(tx, partition.partition_id, offered)
    if reports:
        await store.set_reported(tx, partition.partition_id, until)
        seen = simulated.occupancy(replace(partition, nodes_in_service=offered), jobs, at=until)
        events.append(_capacity(settings.machine, partition.partition_id, until, seen))
    return events


async def _record(tx: Transaction, done: simulated.Advance) -> None:
    await store.change_jobs(tx, done.changed)
    await store.end_jobs(tx, [one for one in done.happenings if isinstance(one, Ended)])
    await store.add_usage(tx, [one for one in done.happenings if isinstance(one, SegmentEnded)])


async def _state_days(tx: Transaction, machine_id: str, until: datetime) -> list[UsageDayStated]:
    stated = []
    for day, revision in await store.days_to_state(tx, day_of(until), until - STATEMENT_PAUSE, MOST_STATEMENTS):
        records = await store.list_usage(tx, day)
        await store.set_stated(tx, day, revision, until)
        stated.append(
            UsageDayStated(
                machine_id=machine_id,
                day=day,
                revision=revision,
                records=len(records),
                totals=[
                    ResourceTotal(resource=one.resource, records=one.records, amount=one.amount)
                    for one in totals_of(records)
                ],
                digest=digest_of(records),
            )
        )
    return stated


def _partition(passport: PartitionPassport, settings: SiteAgentSettings) -> Partition:
    described = Partition(passport.partition_id, passport.resource, passport.units_per_node, passport.nodes)
    return replace(described, nodes_in_service=_offered(described, settings))


def _offered(partition: Partition, settings: SiteAgentSettings) -> int:
    return nodes_in_service(partition, settings.simulated_nodes)


def _is_report_due(partition: Partition, until: datetime, settings: SiteAgentSettings) -> bool:
    pause = timedelta(seconds=settings.capacity_report_seconds)
    return partition.reported_at is None or until - partition.reported_at >= pause


def _new_job(
    event: JobDispatched,
    partition: Partition,
    settings: SiteAgentSettings,
    *,
    submitted_at: datetime,
    cancelled: str | None,
) -> store.NewJob:
    size = size_of(event.nodes, event.slices, partition.units_per_node)
    conduct = simulated.read_script(event.script)
    planned = min(conduct.run_seconds, event.walltime_seconds)
    return store.NewJob(
        job_id=event.job_id,
        project_id=event.project_id,
        partition_id=event.partition_id,
        resource=event.resource,
        local_user=local_user_of(event.submitted_by),
        nodes=size.nodes,
        slices=size.slices,
        walltime_seconds=event.walltime_seconds,
        run_seconds=conduct.run_seconds,
        exit_code=conduct.exit_code,
        requeue_after_seconds=simulated.requeue_after(
            event.job_id, planned, per_mille=settings.simulated_requeue_per_mille, seed=settings.simulated_seed
        ),
        submitted_at=submitted_at,
        cancel_at=None if cancelled is None else submitted_at,
        cancel_reason=cancelled or "",
    )


def _refused(event: JobDispatched, moment: datetime, why: str) -> JobEnded:
    return JobEnded(
        job_id=event.job_id,
        machine_id=event.machine_id,
        partition_id=event.partition_id,
        outcome="refused",
        ended_at=moment,
        segments=0,
        detail=why,
    )


def _told(one: Happening, machine_id: str) -> Event:
    if isinstance(one, Started):
        return _started(one, machine_id)
    if isinstance(one, SegmentEnded):
        return _usage(one, machine_id)
    return JobEnded(
        job_id=one.job.job_id,
        machine_id=machine_id,
        partition_id=one.job.partition_id,
        outcome=one.outcome,
        ended_at=one.ended_at,
        segments=one.segments,
        detail=one.detail,
    )


def _started(one: Started, machine_id: str) -> JobStarted:
    return JobStarted(
        job_id=one.job.job_id,
        machine_id=machine_id,
        partition_id=one.job.partition_id,
        segment=one.job.segment,
        started_at=one.started_at,
    )


def _usage(one: SegmentEnded, machine_id: str) -> UsageReported:
    job = one.job
    return UsageReported(
        machine_id=machine_id,
        local_job_id=str(job.local_job_id),
        submitted_at=job.submitted_at,
        segment=job.segment,
        revision=0,
        job_id=job.job_id,
        project_id=job.project_id,
        partition_id=job.partition_id,
        local_user=job.local_user,
        kind=one.kind,
        state=one.state,
        started_at=one.started_at,
        ended_at=one.ended_at,
        nodes=job.nodes,
        amounts={job.resource: one.amount},
        collector=COLLECTOR,
    )


def _capacity(machine_id: str, partition_id: str, moment: datetime, seen: Occupancy) -> CapacityReported:
    return CapacityReported(
        machine_id=machine_id,
        partition_id=partition_id,
        observed_at=moment,
        nodes_in_service=seen.nodes_in_service,
        nodes_idle=seen.nodes_idle,
        slices_idle=seen.slices_idle,
        jobs_running=seen.jobs_running,
        jobs_waiting=seen.jobs_waiting,
        backend=simulated.BACKEND,
    )
