"""Plan what waits: one decision for all partitions, in one transaction, with the reasons kept."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aifn_common import clock, telemetry
from aifn_common.database import Transaction
from aifn_common.errors import Refusal
from aifn_common.outbox import announce_all
from aifn_events.placement import JobPlaced

from aifn_scheduler.actions import jobs
from aifn_scheduler.domain import admission, placement
from aifn_scheduler.domain.admission import Allocation, Candidate, JobWish
from aifn_scheduler.domain.machines import Partition
from aifn_scheduler.domain.placement import Capacity, Held, Plan, Reason, Request
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import machines
from aifn_scheduler.store import placement as store
from aifn_scheduler.store.placement import Estimate, Placement, Waiting

_Scope = tuple[int, tuple[Candidate, ...], tuple[tuple[str, str], ...]]


async def plan_jobs(tx: Transaction, settings: SchedulerSettings) -> int:
    """Place what can start now, and keep an estimate with reasons for what cannot. Returns how many were placed."""
    if not await store.try_lock_plan(tx):
        return 0
    waiting = await store.list_waiting(tx, settings.plan_at_most)
    if not waiting:
        return 0
    now = clock.now()
    partitions = await machines.get_partitions(tx)
    allocations = await machines.get_allocations(tx, [one.wish.project_id for one in waiting], now)
    # In a thread: thousands of requests take some tenths of a second, in which this process must go on hearing.
    plans = await asyncio.to_thread(
        placement.plan,
        _seconds(now),
        await _capacities(tx, partitions, now, settings),
        await _held(tx, now),
        _requests(waiting, partitions, allocations),
        overdue_seconds=60 * settings.clock_factor,
    )
    placed = await _place(tx, plans, waiting, partitions, now)
    await _explain(tx, plans, waiting, now, settings)
    for plan in plans:
        if plan.expired:
            await jobs.expire_job(tx, plan.job_id)
    return placed


async def _capacities(
    tx: Transaction, partitions: Mapping[str, Partition], now: datetime, settings: SchedulerSettings
) -> list[Capacity]:
    reports = await machines.get_reports(tx)
    found = []
    for name, partition in partitions.items():
        machine_id, observed_at, nodes = reports.get(name, ("", now, 0))
        if machine_id != partition.machine_id:
            found.append(Capacity(name, partition.operating, None))
            continue
        stale = now - observed_at > settings.capacity_patience
        in_service = nodes if partition.nodes is None else min(nodes, partition.nodes)
        found.append(Capacity(name, partition.operating, in_service * partition.units_per_node, stale))
    return found


async def _held(tx: Transaction, now: datetime) -> list[Held]:
    return [
        Held(
            one.job_id,
            one.partition_id,
            one.slices,
            placement.held_until(
                _seconds(now),
                one.walltime_seconds,
                _seconds(one.planned_start),
                None if one.last_started_at is None else _seconds(one.last_started_at),
            ),
        )
        for one in await store.list_holding(tx)
    ]


def _requests(
    waiting: Sequence[Waiting], partitions: Mapping[str, Partition], allocations: Iterable[Allocation]
) -> list[Request]:
    by_project: dict[str, list[Allocation]] = {}
    for one in allocations:
        by_project.setdefault(one.project_id, []).append(one)
    # Thousands of jobs are alike in where they may run: each kind is looked at once.
    known: dict[tuple[object, ...], _Scope] = {}
    found = []
    for job in waiting:
        wish = job.wish
        kind = (wish.project_id, wish.partition_id, wish.size, wish.software_stack)
        if kind not in known:
            known[kind] = _scope(wish, partitions, by_project.get(wish.project_id, ()))
        found.append(Request(job.job_id, wish.walltime_seconds, *known[kind]))
    return found


def _scope(wish: JobWish, partitions: Mapping[str, Partition], allocations: Sequence[Allocation]) -> _Scope:
    candidates, refused = admission.candidates(wish, partitions, allocations)
    elsewhere = tuple((_partition_of(refusal), str(refusal)) for refusal in refused)
    return admission.last_end(wish, allocations), candidates, elsewhere


def _partition_of(refusal: Refusal) -> str:
    return str(refusal.details.get("partition_id", ""))


async def _place(
    tx: Transaction,
    plans: Sequence[Plan],
    waiting: Sequence[Waiting],
    partitions: Mapping[str, Partition],
    now: datetime,
) -> int:
    wishes = {one.job_id: one.wish for one in waiting}
    placements = [
        _placement(plan, wishes[plan.job_id], partitions[plan.partition_id], now)
        for plan in plans
        if plan.starts_now and plan.partition_id is not None
    ]
    taken = await store.place_jobs(tx, placements, now)
    traces = await store.traces_of(tx, taken)
    await announce_all(
        tx,
        [
            JobPlaced(
                project_id=wishes[one.job_id].project_id,
                job_id=one.job_id,
                revision=taken[one.job_id],
                machine_id=one.machine_id,
                partition_id=one.partition_id,
                resource=one.resource,
                amount=one.amount,
                starts_at=now,
                workload=wishes[one.job_id].workload,
                traceparent=telemetry.part_of("scheduler place", traces.get(one.job_id)),
            )
            for one in placements
            if one.job_id in taken
        ],
    )
    return len(taken)


def _placement(plan: Plan, wish: JobWish, partition: Partition, now: datetime) -> Placement:
    taken = admission.footprint(wish.size, partition)
    return Placement(
        job_id=plan.job_id,
        machine_id=partition.machine_id,
        partition_id=partition.partition_id,
        resource=partition.resource,
        nodes=taken.nodes,
        slices=taken.slices,
        amount=taken.slices * wish.walltime_seconds,
        explanation=_explanation(plan, now, None),
    )


async def _explain(
    tx: Transaction, plans: Sequence[Plan], waiting: Sequence[Waiting], now: datetime, settings: SchedulerSettings
) -> None:
    """Write what has changed for those that wait: the first in the queue first, the rest at the next plan."""
    changed: list[Estimate] = []
    for plan, before in zip(plans, waiting, strict=True):
        if len(changed) == settings.explain_at_most:
            break
        if plan.starts_now or plan.expired:
            continue
        start = None if plan.start is None else _moment(plan.start)
        if _worth_saying(plan, start, before, settings):
            explanation = _explanation(plan, now, before.planned_start)
            changed.append(Estimate(plan.job_id, start, plan.partition_id, explanation))
    await store.explain_jobs(tx, changed)


def _worth_saying(plan: Plan, start: datetime | None, before: Waiting, settings: SchedulerSettings) -> bool:
    if before.verdicts != _verdicts(plan.reasons) or before.planned_on != plan.partition_id:
        return True
    if start is None or before.planned_start is None:
        return start != before.planned_start
    return abs(start - before.planned_start) > settings.estimate_tolerance


def _explanation(plan: Plan, now: datetime, before: datetime | None) -> dict[str, Any]:
    """The decision as it is kept; moments are RFC 3339. `verdicts` tells quickly whether it has changed."""
    moved = before is not None and plan.start is not None and _moment(plan.start) > before
    return {
        "decided_at": now.isoformat(),
        "place": plan.place,
        "partition_id": plan.partition_id,
        "planned_start": None if plan.start is None else _moment(plan.start).isoformat(),
        "moved_later_from": before.isoformat() if moved and before is not None else None,
        "verdicts": _verdicts(plan.reasons),
        "reasons": [
            {
                "partition_id": reason.partition_id,
                "verdict": reason.verdict,
                "because": reason.because,
                "earliest_start": None if reason.earliest_start is None else _moment(reason.earliest_start).isoformat(),
                "waits_for": list(reason.waits_for),
            }
            for reason in plan.reasons
        ],
    }


def _verdicts(reasons: Iterable[Reason]) -> str:
    return " ".join(f"{reason.partition_id}:{reason.verdict}" for reason in reasons)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
