"""Builders and short words for the scheduler's tests, so that a test says only what it is about."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from aifn_common import membership
from aifn_common.database import Database, transaction
from aifn_events.access import AllocationOpened, AwardGranted, ProjectDescribed
from aifn_events.base import Event
from aifn_events.federation import AwardFromPeer
from aifn_events.placement import BudgetHeld, JobEnded, JobPlaced, JobStarted
from aifn_events.registry import CapacityReported, MachineDescribed, PartitionPassport
from aifn_scheduler.actions import jobs, machines, planning
from aifn_scheduler.domain.access import Application, Ask, Organisation
from aifn_scheduler.domain.admission import JobWish, Size
from aifn_scheduler.domain.lifecycle import Job
from aifn_scheduler.domain.machines import LUMI_G, Partition
from aifn_scheduler.settings import SchedulerSettings

E = TypeVar("E", bound=Event)

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
HOUR = 3600
LONGEST = 48 * HOUR
AHEAD = timedelta(seconds=60)
LUMI_C = Partition(
    partition_id="lumi-c",
    machine_id="lumi",
    kind="cpu",
    stage="operating",
    nodes=2048,
    devices_per_node=None,
    gpus_per_node=None,
    cores_per_node=128,
    software_stack=None,
    resource="lumi/lumi-c/node-time",
    units_per_node=128,
)
BOOSTER = Partition(
    partition_id="leonardo-booster",
    machine_id="leonardo",
    kind="gpu",
    stage="operating",
    nodes=3456,
    devices_per_node=4,
    gpus_per_node=4,
    cores_per_node=32,
    software_stack="cuda",
    resource="leonardo/leonardo-booster/gpu-time",
    units_per_node=32,
)
PARTITIONS = {one.partition_id: one for one in (LUMI_G, LUMI_C, BOOSTER)}


def organisation(**values: Any) -> Organisation:
    """A Finnish startup of twelve."""
    usual: dict[str, Any] = {
        "name": "Puhe Oy",
        "kind": "startup",
        "country": "FI",
        "staff": 12,
        "turnover_eur": 900_000,
    }
    return Organisation(**(usual | values))


def application(gpu_hours: int = 5000, **values: Any) -> Application:
    """A complete Playground request."""
    usual: dict[str, Any] = {
        "title": "Speech models for small languages",
        "organisation": organisation(),
        "asks": (Ask("lumi-g", gpu_hours),),
        "months": 2,
        "statements": {"civilian_use": True, "ai_act_compliance": True},
    }
    return Application(**(usual | values))


def wish(**values: Any) -> JobWish:
    """One node of LUMI-G for an hour."""
    usual: dict[str, Any] = {
        "project_id": "p1",
        "name": "train",
        "partition_id": "lumi-g",
        "size": Size("nodes", 1),
        "walltime_seconds": HOUR,
        "script": "#!/bin/sh\nsleep 60",
        "software_stack": "any",
    }
    return JobWish(**(usual | values))


def passport(partition: Partition) -> PartitionPassport:
    """A partition as the registry tells of it."""
    return PartitionPassport(
        partition_id=partition.partition_id,
        name=partition.partition_id.upper(),
        kind=partition.kind,
        stage=partition.stage,
        nodes=partition.nodes,
        devices_per_node=partition.devices_per_node,
        gpus_per_node=partition.gpus_per_node,
        cores_per_node=partition.cores_per_node,
        gpu_vendor=None,
        gpu_model=None,
        gpu_memory_gb=None,
        software_stack=partition.software_stack,
        cpu_arch=None,
        resource=partition.resource,
        units_per_node=partition.units_per_node,
    )


def machine(machine_id: str = "lumi", revision: int = 0, **values: Any) -> MachineDescribed:
    """A machine with the partitions above that belong to it."""
    partitions = [passport(one) for one in PARTITIONS.values() if one.machine_id == machine_id]
    return MachineDescribed.example(
        **({"machine_id": machine_id, "revision": revision, "partitions": partitions} | values)
    )


def capacity(partition_id: str = "lumi-g", nodes: int = 10, at: datetime | None = None) -> CapacityReported:
    """What a site has in service."""
    return CapacityReported.example(
        machine_id=PARTITIONS[partition_id].machine_id,
        partition_id=partition_id,
        observed_at=at or datetime.now(UTC),
        nodes_in_service=nodes,
    )


def project(project_id: str = "p1", *subjects: str, revision: int = 0, closed: bool = False) -> ProjectDescribed:
    """A project and its members; the first is its PI."""
    members = [
        {"subject": subject, "role": "member" if number else "pi"}
        for number, subject in enumerate(subjects or ("mari",))
    ]
    return ProjectDescribed.example(project_id=project_id, revision=revision, members=members, closed=closed)


def allocation(project_id: str = "p1", partition_id: str = "lumi-g", **values: Any) -> AllocationOpened:
    """That a project may compute on a partition, since an hour and for a month."""
    now = datetime.now(UTC)
    usual = {
        "allocation_id": f"alloc-{project_id}-{partition_id}",
        "project_id": project_id,
        "machine_id": PARTITIONS[partition_id].machine_id,
        "partition_id": partition_id,
        "resource": PARTITIONS[partition_id].resource,
        "starts_at": now - timedelta(hours=1),
        "ends_at": now + timedelta(days=30),
    }
    return AllocationOpened.example(**(usual | values))


async def world(db: Database, *, nodes: int = 10) -> None:
    """LUMI with `nodes` in service on both partitions, and the project p1 that may compute on lumi-g."""
    async with transaction(db) as tx:
        await machines.remember_machine(tx, machine())
        for partition_id in ("lumi-g", "lumi-c"):
            await machines.remember_capacity(tx, capacity(partition_id, nodes), may_be_ahead=AHEAD)
        await membership.remember_project(tx, project())
        await machines.remember_allocation(tx, allocation())


async def submit(db: Database, **values: Any) -> Job:
    """Queue a job of p1."""
    async with transaction(db) as tx:
        return await jobs.submit_job(
            tx, wish(**values), submitted_by="mari", factory="lumi-aif", longest_seconds=LONGEST
        )


async def tick(db: Database, limits: SchedulerSettings) -> int:
    """Plan once; returns how many jobs were placed."""
    async with transaction(db) as tx:
        return await planning.plan_jobs(tx, limits)


async def announced(db: Database, kind: type[E]) -> list[E]:
    """What was announced of one kind, in order."""
    rows = await db.fetch("SELECT value FROM outbox WHERE topic = $1 ORDER BY seq", kind.topic)
    return [kind.model_validate(json.loads(row["value"])) for row in rows]


def award_of_the_ju(**values: Any) -> AwardFromPeer:
    """A large award on LUMI-G, as the gate tells of it; each call another place in the JU's log."""
    large = {"mode": "aif_large_scale", "deciding_authority": "ju", "project_id": "aif-ju-2026-0001"}
    fact = AwardGranted.example(**(large | values))
    return AwardFromPeer.example(origin="ju", fact_id=fact.id, data=fact.model_dump_json())


def held(placed: JobPlaced, **values: Any) -> BudgetHeld:
    """Accounting's yes to a placement."""
    usual = {
        "project_id": placed.project_id,
        "job_id": placed.job_id,
        "revision": placed.revision,
        "resource": placed.resource,
        "amount": placed.amount,
    }
    return BudgetHeld.example(**(usual | values))


def started(job_id: str, **values: Any) -> JobStarted:
    """The site of lumi-g began to run a job."""
    return JobStarted.example(**({"job_id": job_id, "started_at": NOW} | values))


def ended(job_id: str, **values: Any) -> JobEnded:
    """The site of lumi-g is done with a job."""
    usual = {"job_id": job_id, "ended_at": NOW + timedelta(minutes=50), "outcome": "completed", "segments": 1}
    return JobEnded.example(**(usual | values))


async def dispatched(db: Database, limits: SchedulerSettings, **values: Any) -> Job:
    """A job that has gone to its site."""
    job = await submit(db, **values)
    await tick(db, limits)
    placed = next(one for one in await announced(db, JobPlaced) if one.job_id == job.job_id)
    async with transaction(db) as tx:
        await jobs.dispatch_job(tx, held(placed))
    return job
