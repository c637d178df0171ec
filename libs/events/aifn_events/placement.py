"""Facts about jobs on their way: placed, paid for, sent to a site, started, ended, closed."""

from typing import ClassVar, Literal

from pydantic import Field

from aifn_events.base import Event
from aifn_events.vocabulary import (
    AllocationId,
    Amount,
    Count,
    JobId,
    MachineId,
    Moment,
    PartitionId,
    PositiveCount,
    PositiveSeconds,
    ProjectId,
    ResourceId,
    Revision,
    Subject,
    Text,
    Workload,
)

Outcome = Literal["completed", "failed", "timeout", "cancelled", "refused"]


class JobPlaced(Event):
    """The scheduler has chosen where and when a job runs; a move is sent again with a higher revision."""

    topic: ClassVar[str] = "aifn-job-placed-v1"
    key_field: ClassVar[str] = "project_id"

    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    revision: Revision = Field(examples=[0])
    machine_id: MachineId = Field(examples=["lumi"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    resource: ResourceId = Field(description="what is to be held", examples=["lumi/lumi-g/gpu-time"])
    amount: Amount = Field(description="in the resource's own unit, here slice-seconds", examples=[230_400])
    starts_at: Moment = Field(description="the start that was planned", examples=["2026-11-21T09:00:00Z"])
    workload: Workload | None = Field(default=None, description="what kind of work it is; null: not said")


class BudgetHeld(Event):
    """A placed job may start: what it can use at most is set aside."""

    topic: ClassVar[str] = "aifn-budget-held-v1"
    key_field: ClassVar[str] = "project_id"

    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    revision: Revision = Field(description="of the placement", examples=[0])
    allocation_id: AllocationId = Field(examples=["alloc-0198c7d4"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    amount: Amount = Field(examples=[230_400])


class BudgetRefused(Event):
    """A placed job may not start: its project has not enough left."""

    topic: ClassVar[str] = "aifn-budget-refused-v1"
    key_field: ClassVar[str] = "project_id"

    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    revision: Revision = Field(description="of the placement", examples=[0])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    asked: Amount = Field(examples=[230_400])
    available: Amount = Field(examples=[100])
    reason: str = Field(max_length=60, examples=["allocation_exceeded"])


class BudgetReleased(Event):
    """What a finished job did not use is back in its allocation."""

    topic: ClassVar[str] = "aifn-budget-released-v1"
    key_field: ClassVar[str] = "project_id"

    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    allocation_id: AllocationId = Field(examples=["alloc-0198c7d4"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    released: Amount = Field(examples=[30_400])


class JobDispatched(Event):
    """A job whose budget is held goes to its site; the site agent submits it there, once."""

    topic: ClassVar[str] = "aifn-job-dispatched-v1"
    key_field: ClassVar[str] = "job_id"

    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    machine_id: MachineId = Field(examples=["lumi"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    nodes: PositiveCount = Field(description="nodes it spreads over", examples=[1])
    slices: PositiveCount = Field(description="shares of nodes it occupies, all nodes together", examples=[64])
    walltime_seconds: PositiveSeconds = Field(description="after this the site ends it", examples=[3600])
    script: str = Field(max_length=65_536, description="what the batch system runs", examples=["#!/bin/sh\nsleep 3000"])
    submitted_by: Subject = Field(examples=["7c1d@myaccessid"])


class JobStarted(Event):
    """A site began to run a job, or a further segment of it."""

    topic: ClassVar[str] = "aifn-job-started-v1"
    key_field: ClassVar[str] = "job_id"

    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    machine_id: MachineId = Field(examples=["lumi"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    segment: Count = Field(description="0 is the first run", examples=[0])
    started_at: Moment = Field(examples=["2026-11-21T09:00:10Z"])


class JobEnded(Event):
    """A site will not run a job again. `segments` usage records belong to it; zero if it never ran."""

    topic: ClassVar[str] = "aifn-job-ended-v1"
    key_field: ClassVar[str] = "job_id"

    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    machine_id: MachineId = Field(examples=["lumi"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    outcome: Outcome = Field(examples=["completed"])
    ended_at: Moment = Field(examples=["2026-11-21T09:50:10Z"])
    segments: Count = Field(examples=[1])
    detail: Text = Field(default="", examples=[""])


class JobCancelRequested(Event):
    """Somebody entitled wants a job that is already at its site to stop."""

    topic: ClassVar[str] = "aifn-job-cancel-requested-v1"
    key_field: ClassVar[str] = "job_id"

    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    machine_id: MachineId = Field(examples=["lumi"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    reason: Text = Field(examples=["asked by its owner"])


class JobClosed(Event):
    """The one final state of a job. Its hold is released once `segments` usage records have been charged."""

    topic: ClassVar[str] = "aifn-job-closed-v1"
    key_field: ClassVar[str] = "project_id"

    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    outcome: Outcome = Field(examples=["completed"])
    reason: Text = Field(description="in words, for the person who asks why", examples=["ended by itself"])
    segments: Count = Field(examples=[1])
    closed_at: Moment = Field(examples=["2026-11-21T09:50:11Z"])
