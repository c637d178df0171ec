"""Answers over HTTP on jobs: the queue, why a job waits, and the partitions as the planner sees them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self

from aifn_common import clock
from aifn_common.cursors import number_in
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router
from aifn_events.vocabulary import (
    JobId,
    PartitionId,
    PositiveSeconds,
    ProjectId,
    Workload,
)
from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from aifn_scheduler.actions import handover as handover_actions
from aifn_scheduler.actions import jobs as job_actions
from aifn_scheduler.api.shapes import Body, Settings, Title, plain_in
from aifn_scheduler.domain.admission import JobWish, Size, SizeKind, Stack
from aifn_scheduler.domain.lifecycle import Job, Outcome, State
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import placement as job_store
from aifn_scheduler.store.placement import Occupancy

router = make_router()

SizeCount = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]


class JobBody(Body):
    """A job to run. Exactly one of `devices`, `cores`, `nodes` says how much at the same time."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "project_id": "aif-2026-0117",
                    "name": "train-3",
                    "partition_id": "lumi-g",
                    "devices": 8,
                    "walltime_seconds": 3600,
                    "script": "#!/bin/sh\nsleep 3000",
                }
            ]
        }
    )

    project_id: ProjectId
    name: Title = Field(default="job", pattern=r"^[^\x00]*$", examples=["train-3"])
    partition_id: PartitionId | None = Field(
        default=None, description="null: any the project may use", examples=["lumi-g"]
    )
    devices: SizeCount | None = Field(
        default=None, description="accelerators as the batch system shows them", examples=[8]
    )
    cores: SizeCount | None = Field(default=None, examples=[None])
    nodes: SizeCount | None = Field(default=None, description="whole nodes", examples=[None])
    walltime_seconds: PositiveSeconds = Field(examples=[3600])
    script: str = Field(min_length=1, max_length=65_536, pattern=r"^[^\x00]*$", examples=["#!/bin/sh\nsleep 3000"])
    software_stack: Stack = Field(default="any", examples=["rocm"])
    workload: Workload | None = Field(
        default=None,
        description="what kind of work it is; an award may limit how much of it is inference",
        examples=["training"],
    )

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if sum(value is not None for value in (self.devices, self.cores, self.nodes)) != 1:
            raise ValueError("say exactly one of devices, cores, nodes")
        return self

    @property
    def size(self) -> Size:
        """The one size that was said."""
        sizes: tuple[tuple[SizeKind, int | None], ...] = (
            ("devices", self.devices),
            ("cores", self.cores),
            ("nodes", self.nodes),
        )
        return next(Size(kind, count) for kind, count in sizes if count is not None)

    def said(self) -> JobWish:
        """The job as the rules read it."""
        return JobWish(
            project_id=self.project_id,
            name=self.name,
            partition_id=self.partition_id,
            size=self.size,
            walltime_seconds=self.walltime_seconds,
            script=self.script,
            software_stack=self.software_stack,
            workload=self.workload,
        )


class JobView(BaseModel):
    """A job. `partition_id` to `amount` are known once it is placed; moments are null until they are reached."""

    job_id: str = Field(examples=["lumi-aif-0198c7d2a1b3-4f2a9c"])
    project_id: str = Field(examples=["aif-2026-0117"])
    name: str = Field(examples=["train-3"])
    submitted_by: str = Field(examples=["7c1d@myaccessid"])
    wanted_partition_id: str | None = Field(examples=["lumi-g"])
    devices: int | None = Field(examples=[8])
    cores: int | None = Field(examples=[None])
    nodes_wanted: int | None = Field(examples=[None])
    walltime_seconds: int = Field(examples=[3600])
    software_stack: Stack = Field(examples=["rocm"])
    workload: Workload | None = Field(description="null: not said", examples=["training"])
    state: State = Field(examples=["closed"])
    outcome: Outcome | None = Field(description="one and final, once closed", examples=["completed"])
    reason: str = Field(description="in words, why it ended so", examples=["ended by itself"])
    segments: int = Field(description="usage records that belong to it, once closed", examples=[1])
    cancel_asked: bool = Field(examples=[False])
    machine_id: str | None = Field(examples=["lumi"])
    partition_id: str | None = Field(examples=["lumi-g"])
    resource: str | None = Field(examples=["lumi/lumi-g/gpu-time"])
    nodes: int | None = Field(examples=[1])
    slices: int | None = Field(examples=[64])
    amount: int | None = Field(description="what is held at most, in slice-seconds", examples=[230_400])
    planned_start: datetime | None = Field(
        description="an estimate while it waits, null if none can be given", examples=["2026-11-21T09:00:00Z"]
    )
    planned_partition_id: str | None = Field(examples=["lumi-g"])
    submitted_at: datetime = Field(examples=["2026-11-21T08:59:00Z"])
    placed_at: datetime | None = Field(examples=["2026-11-21T09:00:00Z"])
    held_at: datetime | None = Field(
        description="when accounting set its budget aside", examples=["2026-11-21T09:00:01Z"]
    )
    dispatched_at: datetime | None = Field(description="when it went to its site", examples=["2026-11-21T09:00:01Z"])
    started_at: datetime | None = Field(examples=["2026-11-21T09:00:10Z"])
    ended_at: datetime | None = Field(examples=["2026-11-21T09:50:10Z"])
    closed_at: datetime | None = Field(examples=["2026-11-21T09:50:11Z"])

    @classmethod
    def of(cls, job: Job) -> Self:
        """The view of a job."""
        wish, life = job.wish, job.life
        sizes = {wish.size.kind: wish.size.count}
        return cls(
            job_id=job.job_id,
            project_id=wish.project_id,
            name=wish.name,
            submitted_by=job.submitted_by,
            wanted_partition_id=wish.partition_id,
            devices=sizes.get("devices"),
            cores=sizes.get("cores"),
            nodes_wanted=sizes.get("nodes"),
            walltime_seconds=wish.walltime_seconds,
            software_stack=wish.software_stack,
            workload=wish.workload,
            state=life.state,
            outcome=life.outcome,
            reason=life.reason,
            segments=life.segments,
            cancel_asked=life.cancel_asked_at is not None,
            machine_id=life.machine_id,
            partition_id=life.partition_id,
            resource=job.resource,
            nodes=job.nodes,
            slices=job.slices,
            amount=job.amount,
            planned_start=job.planned_start,
            planned_partition_id=job.planned_on,
            submitted_at=job.submitted_at,
            placed_at=life.placed_at,
            held_at=life.held_at,
            dispatched_at=life.dispatched_at,
            started_at=life.started_at,
            ended_at=life.ended_at,
            closed_at=life.closed_at,
        )


class ReasonView(BaseModel):
    """What the last plan said of one partition."""

    partition_id: str = Field(examples=["lumi-g"])
    verdict: str = Field(examples=["waits_for_slices"])
    because: str = Field(
        examples=["takes 64 slices for 3600 s; 8 are free now, and requests that came earlier keep theirs"]
    )
    earliest_start: datetime | None = Field(examples=["2026-11-21T10:00:00Z"])
    waits_for: list[str] = Field(
        description="some of the jobs whose end it waits for", examples=[["lumi-aif-0198c7d1"]]
    )


class WhyView(BaseModel):
    """Why a job is where it is: the explanation kept with the latest decision."""

    job_id: str = Field(examples=["lumi-aif-0198c7d2a1b3-4f2a9c"])
    state: State = Field(examples=["queued"])
    outcome: Outcome | None = Field(examples=[None])
    summary: str = Field(examples=["waits at place 3 of the queue; planned on lumi-g at 2026-11-21T10:00:00+00:00"])
    waiting_before: int | None = Field(
        description="jobs in the queue that came earlier; null if it does not wait", examples=[2]
    )
    decided_at: datetime | None = Field(description="of the latest decision", examples=["2026-11-21T09:00:00Z"])
    planned_start: datetime | None = Field(examples=["2026-11-21T10:00:00Z"])
    planned_partition_id: str | None = Field(examples=["lumi-g"])
    moved_later_from: datetime | None = Field(
        description="the estimate before, if the latest one is later", examples=[None]
    )
    reasons: list[ReasonView]

    @classmethod
    def of(cls, job: Job, waiting_before: int | None) -> Self:
        """The view of a job's latest explanation."""
        explanation = job.explanation or {}
        return cls.model_validate(
            {
                "job_id": job.job_id,
                "state": job.life.state,
                "outcome": job.life.outcome,
                "summary": _summary(job, waiting_before),
                "waiting_before": waiting_before,
                "decided_at": explanation.get("decided_at"),
                "planned_start": job.planned_start,
                "planned_partition_id": job.planned_on,
                "moved_later_from": explanation.get("moved_later_from"),
                "reasons": explanation.get("reasons", []),
            }
        )


def _summary(job: Job, waiting_before: int | None) -> str:
    life = job.life
    match life.state:
        case "queued":
            place = f"waits at place {(waiting_before or 0) + 1} of the queue"
            if job.explanation is None:
                return f"{place}; no plan has looked at it yet"
            if job.planned_start is None:
                return f"{place}; no start can be foreseen, see the reasons"
            return f"{place}; planned on {job.planned_on} at {job.planned_start.isoformat()}"
        case "placed":
            return f"placed on {life.partition_id}; waits for accounting to hold {job.amount} of {job.resource}"
        case "dispatched":
            return f"sent to {life.machine_id}; its site has not said yet that it started"
        case "running":
            return f"runs on {life.partition_id}"
        case "closed":
            return f"{life.outcome}: {life.reason}"


class PartitionView(BaseModel):
    """A partition as the planner sees it."""

    partition_id: str = Field(examples=["lumi-g"])
    machine_id: str = Field(examples=["lumi"])
    resource: str = Field(examples=["lumi/lumi-g/gpu-time"])
    operating: bool = Field(examples=[True])
    units_per_node: int = Field(description="slices in one node", examples=[64])
    nodes_in_service: int | None = Field(description="null: its site has not reported", examples=[2900])
    slices_in_service: int | None = Field(examples=[185_600])
    observed_at: datetime | None = Field(examples=["2026-11-21T09:00:00Z"])
    stale: bool = Field(description="the report is too old to place jobs by it", examples=[False])
    jobs_holding: int = Field(description="placed, sent or running", examples=[840])
    slices_held: int = Field(description="by these", examples=[120_000])
    jobs_planned: int = Field(description="waiting, with a start foreseen here", examples=[12])

    @classmethod
    def of(cls, seen: Occupancy, settings: SchedulerSettings) -> Self:
        """The view of a partition."""
        nodes = seen.nodes_in_service
        return cls(
            partition_id=seen.partition_id,
            machine_id=seen.machine_id,
            resource=seen.resource,
            operating=seen.operating,
            units_per_node=seen.units_per_node,
            nodes_in_service=nodes,
            slices_in_service=None if nodes is None else nodes * seen.units_per_node,
            observed_at=seen.observed_at,
            stale=seen.observed_at is not None and clock.now() - seen.observed_at > settings.capacity_patience,
            jobs_holding=seen.jobs_holding,
            slices_held=seen.slices_held,
            jobs_planned=seen.jobs_planned,
        )


@router.get("/partitions", summary="Partitions as the planner sees them", tags=["jobs"])
async def list_partitions(tx: Tx, who: Who, settings: Settings, page: Paging) -> Page[PartitionView]:
    who.must("machine.read")
    seen = await job_store.list_occupancy(tx, plain_in(page.after or ""), page.limit + 1)
    views = [PartitionView.of(one, settings) for one in seen]
    return make_page(views, page.limit, lambda view: view.partition_id)


@router.post("/jobs", status_code=201, summary="Queue a job", tags=["jobs"])
async def submit_job(body: JobBody, tx: Tx, who: Who, settings: Settings, response: Response) -> JobView:
    who.must("job.submit", project=body.project_id, factory=settings.factory)
    job = await job_actions.submit_job(
        tx,
        body.said(),
        submitted_by=who.subject,
        factory=settings.factory,
        longest_seconds=settings.longest_walltime_seconds,
    )
    response.headers["location"] = f"/v1/jobs/{job.job_id}"
    return JobView.of(job)


@router.get("/jobs", summary="Jobs in the order of submission", tags=["jobs"])
async def list_jobs(
    tx: Tx,
    who: Who,
    settings: Settings,
    page: Paging,
    project_id: Annotated[ProjectId | None, Query()] = None,
    state: Annotated[State | None, Query()] = None,
    outcome: Annotated[Outcome | None, Query()] = None,
) -> Page[JobView]:
    scope = who.scope("job.read")
    everything = scope.everything or settings.factory in scope.factories
    found: Sequence[Job] = await job_store.list_jobs(
        tx,
        projects=None if everything else sorted(scope.projects),
        project=project_id,
        state=state,
        outcome=outcome,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, lambda job: str(job.place))
    return Page(items=[JobView.of(job) for job in shown.items], next=shown.next)


@router.get("/jobs/{job_id}", summary="One job", tags=["jobs"])
async def get_job(job_id: JobId, tx: Tx, who: Who, settings: Settings) -> JobView:
    job = await job_store.get_job(tx, job_id)
    who.must("job.read", project=job.wish.project_id, factory=settings.factory)
    return JobView.of(job)


@router.get("/jobs/{job_id}/why", summary="Why a job is where it is", tags=["jobs"])
async def explain_job(job_id: JobId, tx: Tx, who: Who, settings: Settings) -> WhyView:
    job = await job_store.get_job(tx, job_id)
    who.must("job.read", project=job.wish.project_id, factory=settings.factory)
    before = await job_store.count_before(tx, job.place) if job.life.state == "queued" else None
    return WhyView.of(job, before)


@router.delete("/jobs/{job_id}", summary="Take a job back", tags=["jobs"])
async def cancel_job(job_id: JobId, tx: Tx, who: Who, settings: Settings) -> JobView:
    """A job that waits is closed at once; one at its site is closed when the site says that it has stopped."""
    job = await job_store.get_job(tx, job_id)
    who.must("job.cancel", project=job.wish.project_id, factory=settings.factory)
    return JobView.of(await handover_actions.cancel(tx, job_id, by=who.subject))
