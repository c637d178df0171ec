"""Answers over HTTP: modes and calls, applications and awards, jobs and why they wait."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from aifn_common import clock
from aifn_common.errors import Invalid, NotFound
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of
from aifn_events.vocabulary import (
    ApplicationId,
    Count,
    CountryCode,
    Flag,
    JobId,
    ModeId,
    PartitionId,
    PositiveSeconds,
    ProjectId,
    Slug,
)
from fastapi import Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from aifn_scheduler.actions import access as access_actions
from aifn_scheduler.actions import jobs as job_actions
from aifn_scheduler.domain.access import Application, Ask, Call, Finding, Organisation, amounts_in_words
from aifn_scheduler.domain.lifecycle import Job, Outcome, State
from aifn_scheduler.domain.placement import JobWish, Size, SizeKind, Stack
from aifn_scheduler.policy_data import AccessMode, load_policies
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import access as access_store
from aifn_scheduler.store import placement as job_store
from aifn_scheduler.store.access import Filed
from aifn_scheduler.store.placement import Occupancy

router = make_router()
Settings = Annotated[SchedulerSettings, Depends(settings_of)]

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
GpuHours = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000, description="GPU-hours, whole and above zero")]
StatementName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
SizeCount = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]


class _Body(BaseModel):
    """What is sent to us: a field we do not know is a mistake of the sender."""

    model_config = ConfigDict(extra="forbid")


class ModeView(BaseModel):
    """An access mode as its published call describes it; null is *not published*."""

    mode_id: str = Field(examples=["aif_playground"])
    name: str = Field(examples=["AI Factory Playground"])
    status: str = Field(description="current, historical, proposed, ...", examples=["current"])
    policy_version: str | None = Field(examples=["2025-12"])
    purpose: str | None = Field(examples=["entry-level plug-and-play use"])
    applicant_kinds: list[str] = Field(description="these, and every kind below them", examples=[["sme", "startup"]])
    excluded_kinds: list[str] = Field(examples=[["academia", "public_sector"]])
    conditions: list[str] = Field(examples=[["civilian_use_only", "ai_act_compliance"]])
    ordering: str | None = Field(examples=["first_come_first_served"])
    amount_unit: str | None = Field(examples=["gpu_hours"])
    gpu_hours: str = Field(description="how many GPU-hours, in words", examples=["5000"])
    duration_months: list[int] | None = Field(examples=[[1, 2, 3]])
    single_machine: bool | None = Field(examples=[True])
    deciding_authority: str = Field(examples=["hosting_factory"])
    pool: str = Field(examples=["union"])
    support_level: str | None = Field(examples=["onboarding"])
    obligations: list[str] = Field(examples=[["final_report"]])
    confidence: str = Field(examples=["medium"])
    source: list[str] = Field(examples=[["EuroHPC JU, AI Factories slide deck (2025)"]])
    notes: str | None = Field(examples=[None])

    @classmethod
    def of(cls, mode: AccessMode) -> Self:
        """The view of a mode."""
        months = mode.allocation_duration_months
        return cls(
            mode_id=mode.mode_id,
            name=mode.name,
            status=mode.status,
            policy_version=mode.policy_version,
            purpose=mode.purpose,
            applicant_kinds=list(mode.applicant_categories),
            excluded_kinds=list(mode.excluded),
            conditions=list(mode.eligibility_conditions),
            ordering=mode.ordering,
            amount_unit=mode.allocation_unit,
            gpu_hours=amounts_in_words(mode),
            duration_months=None if months is None else list(months),
            single_machine=mode.single_machine_only,
            deciding_authority=mode.deciding_authority,
            pool=mode.pool,
            support_level=mode.support_level,
            obligations=list(mode.obligations),
            confidence=mode.confidence,
            source=list(mode.source),
            notes=mode.notes,
        )


class CallView(BaseModel):
    """A call that takes applications."""

    call_id: str = Field(examples=["aif-playground"])
    mode: str = Field(examples=["aif_playground"])
    policy_version: str = Field(examples=["2025-12"])
    pool: Literal["union", "national"] = Field(examples=["union"])
    deciding_authority: str = Field(examples=["hosting_factory"])
    technical_check: Literal["automatic", "manual"] = Field(examples=["automatic"])
    opens_at: datetime = Field(examples=["2025-12-01T00:00:00Z"])
    closes_at: datetime | None = Field(description="null: no cut-off", examples=[None])
    partitions: list[str] | None = Field(description="null: any that operates", examples=[None])
    single_machine: bool = Field(examples=[True])

    @classmethod
    def of(cls, call: Call) -> Self:
        """The view of a call."""
        return cls(
            call_id=call.call_id,
            mode=call.mode,
            policy_version=call.policy_version,
            pool=call.pool,
            deciding_authority=call.deciding_authority,
            technical_check=call.technical_check,
            opens_at=call.opens_at,
            closes_at=call.closes_at,
            partitions=None if call.partitions is None else list(call.partitions),
            single_machine=call.single_machine,
        )


class OrganisationBody(_Body):
    """Who applies."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = Field(
        pattern=r"^[^\x00]*$", examples=["Puhe Oy"]
    )
    kind: str = Field(pattern=r"^[a-z_]{1,60}$", description="as in the applicant kinds", examples=["startup"])
    country: CountryCode = Field(description="where it is established")
    staff: Count = Field(description="number of employees", examples=[12])
    turnover_eur: Annotated[int, Field(strict=True, ge=0, le=10**15)] | None = Field(
        default=None, description="per year; null is not stated", examples=[900_000]
    )


class AskBody(_Body):
    """How much on which partition."""

    partition_id: PartitionId
    gpu_hours: GpuHours = Field(examples=[5000])


class ApplicationBody(_Body):
    """An application under one call."""

    call_id: Slug = Field(examples=["aif-playground"])
    title: Title = Field(pattern=r"^[^\x00]*$", examples=["Speech models for small languages"])
    organisation: OrganisationBody
    asks: list[AskBody] = Field(min_length=1, max_length=16)
    months: Annotated[int, Field(strict=True, ge=1, le=120)] = Field(examples=[2])
    statements: dict[StatementName, Flag] = Field(
        max_length=32, examples=[{"civilian_use": True, "ai_act_compliance": True}]
    )
    contact: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] | None = Field(
        default=None, examples=["info@puhe.example"]
    )

    @model_validator(mode="after")
    def _asks_once_for_each(self) -> Self:
        names = [ask.partition_id for ask in self.asks]
        if len(set(names)) < len(names):
            raise ValueError("a partition is asked for twice; add the amounts")
        return self

    def said(self) -> Application:
        """The application as the rules read it."""
        organisation = self.organisation
        return Application(
            title=self.title,
            organisation=Organisation(
                name=organisation.name,
                kind=organisation.kind,
                country=organisation.country,
                staff=organisation.staff,
                turnover_eur=organisation.turnover_eur,
            ),
            asks=tuple(Ask(ask.partition_id, ask.gpu_hours) for ask in self.asks),
            months=self.months,
            statements=self.statements,
        )


class FindingView(BaseModel):
    """What one rule said."""

    rule: str = Field(examples=["applicant_kind"])
    passed: bool = Field(examples=[True])
    because: str = Field(examples=["startup is sme is industry; AI Factory Playground is open to startup"])
    source: str = Field(examples=["EuroHPC JU, AI Factories slide deck (2025)"])

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """The view of a finding."""
        return cls(rule=finding.rule, passed=finding.passed, because=finding.because, source=finding.source)


class AwardView(BaseModel):
    """What was granted for an application."""

    award_id: str = Field(examples=["award-0198c7d3"])
    project_id: str = Field(examples=["aif-2026-0117"])
    awarded_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])
    awarded_by: str = Field(examples=["urn:aifn:scheduler"])
    reason: str = Field(examples=["the call's technical check is automatic, and every rule has passed"])


class ApplicationView(BaseModel):
    """An application, what every rule said of it, and its award."""

    application_id: str = Field(examples=["app-0198c7d2"])
    call_id: str = Field(examples=["aif-playground"])
    title: str = Field(examples=["Speech models for small languages"])
    organisation: OrganisationBody
    asks: list[AskBody]
    months: int = Field(examples=[2])
    statements: dict[str, bool] = Field(examples=[{"civilian_use": True, "ai_act_compliance": True}])
    contact: str | None = Field(examples=["info@puhe.example"])
    submitted_by: str = Field(examples=["7c1d@myaccessid"])
    submitted_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])
    state: Literal["refused", "eligible", "awarded"] = Field(examples=["awarded"])
    eligible: bool = Field(examples=[True])
    waiting_before: int | None = Field(
        description="eligible applications of the call that came earlier and still wait; null if it does not wait",
        examples=[None],
    )
    findings: list[FindingView]
    award: AwardView | None

    @classmethod
    def of(cls, filed: Filed) -> Self:
        """The view of an application."""
        application, award = filed.application, filed.award
        return cls.model_validate(
            {
                "application_id": filed.application_id,
                "call_id": filed.call_id,
                "title": application.title,
                "organisation": {
                    name: getattr(application.organisation, name) for name in application.organisation.__slots__
                },
                "asks": [{"partition_id": ask.partition_id, "gpu_hours": ask.gpu_hours} for ask in application.asks],
                "months": application.months,
                "statements": application.statements,
                "contact": filed.contact,
                "submitted_by": filed.submitted_by,
                "submitted_at": filed.submitted_at,
                "state": filed.state,
                "eligible": filed.eligible,
                "waiting_before": filed.before if filed.state == "eligible" else None,
                "findings": [FindingView.of(finding) for finding in filed.findings],
                "award": award and {name: getattr(award, name) for name in award.__slots__},
            }
        )


class AwardBody(_Body):
    """Why an application is granted."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)] = Field(
        pattern=r"^[^\x00]*$", examples=["scaling shown on the test machine"]
    )


class JobBody(_Body):
    """A job to run. Exactly one of `devices`, `cores`, `nodes` says how much at the same time."""

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


@router.get("/modes", summary="Access modes as their calls describe them", tags=["access"])
async def list_modes(who: Who, page: Paging) -> Page[ModeView]:
    who.must("mode.read")
    modes = sorted(load_policies().modes, key=lambda mode: mode.mode_id)
    rest = [ModeView.of(mode) for mode in modes if mode.mode_id > (page.after or "")]
    return make_page(rest[: page.limit + 1], page.limit, lambda view: view.mode_id)


@router.get("/modes/{mode_id}", summary="One access mode", tags=["access"])
async def get_mode(mode_id: ModeId, who: Who) -> ModeView:
    who.must("mode.read")
    try:
        return ModeView.of(load_policies().mode(mode_id))
    except KeyError:
        raise NotFound(f"no access mode {mode_id}") from None


@router.get("/calls", summary="Calls that take applications", tags=["access"])
async def list_calls(tx: Tx, who: Who, page: Paging) -> Page[CallView]:
    who.must("mode.read")
    calls = await access_store.list_calls(tx, _plain(page.after or ""), page.limit + 1)
    return make_page([CallView.of(call) for call in calls], page.limit, lambda view: view.call_id)


@router.post("/applications", status_code=201, summary="Apply; every rule answers at once", tags=["access"])
async def submit_application(
    body: ApplicationBody, tx: Tx, who: Who, settings: Settings, response: Response
) -> ApplicationView:
    who.must("application.submit", subject=who.subject)
    filed = await access_actions.submit_application(
        tx, body.call_id, body.said(), contact=body.contact, submitted_by=who.subject, factory=settings.factory
    )
    response.headers["location"] = f"/v1/applications/{filed.application_id}"
    return ApplicationView.of(filed)


@router.get("/applications", summary="Applications in the order of submission", tags=["access"])
async def list_applications(
    tx: Tx,
    who: Who,
    settings: Settings,
    page: Paging,
    call_id: Annotated[Slug | None, Query()] = None,
    state: Annotated[Literal["refused", "eligible", "awarded"] | None, Query()] = None,
) -> Page[ApplicationView]:
    scope = who.scope("application.read")
    everybody = scope.everything or settings.factory in scope.factories
    found = await access_store.list_applications(
        tx,
        submitted_by=None if everybody else who.subject,
        call_id=call_id,
        state=state,
        after=_number(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, lambda filed: str(filed.place))
    return Page(items=[ApplicationView.of(filed) for filed in shown.items], next=shown.next)


@router.get("/applications/{application_id}", summary="One application with its findings", tags=["access"])
async def get_application(application_id: ApplicationId, tx: Tx, who: Who, settings: Settings) -> ApplicationView:
    filed = await access_store.get_application(tx, application_id)
    who.must("application.read", subject=filed.submitted_by, factory=settings.factory)
    return ApplicationView.of(filed)


@router.post("/applications/{application_id}/award", summary="Grant after a technical check", tags=["access"])
async def award_application(
    application_id: ApplicationId, body: AwardBody, tx: Tx, who: Who, settings: Settings
) -> ApplicationView:
    who.must("application.award", factory=settings.factory)
    filed = await access_actions.award_application(
        tx, application_id, by=who.subject, reason=body.reason, factory=settings.factory
    )
    return ApplicationView.of(filed)


@router.get("/partitions", summary="Partitions as the planner sees them", tags=["jobs"])
async def list_partitions(tx: Tx, who: Who, settings: Settings, page: Paging) -> Page[PartitionView]:
    who.must("machine.read")
    seen = await job_store.list_occupancy(tx, _plain(page.after or ""), page.limit + 1)
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
        after=_number(page.after),
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
    return JobView.of(await job_actions.cancel_job(tx, job_id, by=who.subject))


def _number(cursor: str | None) -> int:
    """The place a page of a queue ended at. Raises Invalid, if it is none."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return int(cursor)


def _plain(cursor: str) -> str:
    if "\x00" in cursor:
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return cursor
