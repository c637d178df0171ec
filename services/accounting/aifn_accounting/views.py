"""What accounting shows and takes over HTTP."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal, Self

from aifn_events.vocabulary import (
    AllocationId,
    JobId,
    MachineId,
    Moment,
    PartitionId,
    ProjectId,
    RateCardId,
    ResourceId,
    Slug,
    Subject,
)
from pydantic import BaseModel, ConfigDict, Field

from aifn_accounting.domain.ledger import LARGEST_AMOUNT, Pool
from aifn_accounting.domain.units import gpu_hours, node_hours
from aifn_accounting.store import ledger, reads

GrantAmount = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=LARGEST_AMOUNT,
        description="in the resource's own unit",
        examples=[288_000_000],
    ),
]
Reason = Annotated[str, Field(min_length=3, max_length=1000, pattern=r"\S", examples=["national call 2026-2"])]
Title = Annotated[str, Field(min_length=1, max_length=200, examples=["Speech models for small languages"])]


class Words(BaseModel):
    """What somebody asks for; a field we do not know is refused, so that nothing is lost by a misspelling."""

    model_config = ConfigDict(extra="forbid")


class MemberWords(Words):
    """A person's part in a project."""

    subject: Subject
    role: Literal["pi", "member"] = Field(examples=["member"])


class ProjectCreation(Words):
    """A new project of this factory, without an award."""

    project_id: ProjectId | None = Field(default=None, description="made up if it is left out")
    title: Title
    principal_investigator: Subject


class Members(Words):
    """Who belongs to a project: the whole list."""

    members: list[MemberWords] = Field(
        min_length=1, max_length=5000, examples=[[{"subject": "7c1d@myaccessid", "role": "pi"}]]
    )
    reason: Reason = Field(default="not said", examples=["she leads the second half of the project"])


class Grant(Words):
    """An amount of one resource for a project, for some time, out of the pool it names or that fits."""

    resource: ResourceId
    amount: GrantAmount
    unit: str = Field(max_length=40, description="that `amount` is in", examples=["slice-second"])
    pool: Pool = Field(examples=["national"])
    pool_id: Slug | None = Field(default=None, description="out of this pool; null: the one of that share which fits")
    mode: str | None = Field(default=None, pattern=r"^[a-z0-9_]{1,64}$", description="the access mode, for its caps")
    policy_version: str | None = Field(default=None, max_length=20, description="of the access policy, for its caps")
    earmark: str | None = Field(default=None, max_length=80, description="what it is for, if its pool is for that only")
    use_or_lose: str | None = Field(default=None, max_length=63, description="the policy it stands under")
    inference_cap_pct: int | None = Field(default=None, ge=0, le=100, description="most of it that inference may use")
    starts_at: Moment = Field(examples=["2026-12-01T00:00:00Z"])
    ends_at: Moment = Field(examples=["2027-12-01T00:00:00Z"])
    reason: Reason


class ProjectView(BaseModel):
    """A project."""

    project_id: ProjectId
    title: str = Field(examples=["Speech models for small languages"])
    factory_id: str = Field(examples=["lumi-aif"])
    revision: int = Field(examples=[0])
    closed: bool = Field(examples=[False])
    created_at: datetime

    @classmethod
    def of(cls, project: ledger.Project) -> Self:
        """Show a project."""
        return cls(
            project_id=project.id,
            title=project.title,
            factory_id=project.factory_id,
            revision=project.revision,
            closed=project.closed,
            created_at=project.created_at,
        )


class MemberView(BaseModel):
    """A person's part in a project."""

    subject: Subject
    role: str = Field(examples=["pi"])


class ProjectDetailView(ProjectView):
    """A project and who belongs to it."""

    members: list[MemberView]

    @classmethod
    def with_members(cls, project: ledger.Project, members: list[ledger.Member]) -> Self:
        """Show a project with its members."""
        shown = [MemberView(subject=one.subject, role=one.role) for one in members]
        return cls(**ProjectView.of(project).model_dump(), members=shown)


class HoursView(BaseModel):
    """The same balances in hours, to a thousandth: for people; nothing is computed from these."""

    granted: Decimal = Field(examples=["1250.000"])
    available: Decimal = Field(examples=["1100.000"])
    held: Decimal = Field(examples=["50.000"])
    charged: Decimal = Field(examples=["100.000"])
    overrun: Decimal = Field(examples=["0.000"])


class AllocationView(BaseModel):
    """An amount of one resource granted to a project: granted = available + held + charged - overrun."""

    allocation_id: AllocationId
    project_id: ProjectId
    award_id: str | None = Field(description="null: granted by a person", examples=["award-0198c7d3"])
    machine_id: MachineId
    partition_id: PartitionId
    resource: ResourceId
    pool: str = Field(examples=["union"])
    starts_at: datetime
    ends_at: datetime
    reason: str = Field(examples=["award award-0198c7d3, aif_playground, policy 2025-12"])
    granted_by: str = Field(description="a person, or an award", examples=["award-0198c7d3"])
    granted_at: datetime
    unit: str = Field(description="of the five balances", examples=["slice-second"])
    granted: int = Field(examples=[288_000_000])
    available: int = Field(description="what may still be held", examples=[253_440_000])
    held: int = Field(description="set aside for jobs", examples=[11_520_000])
    charged: int = Field(description="what usage has cost", examples=[23_040_000])
    overrun: int = Field(description="charged beyond what there was; the next amount that comes back pays it")
    units_per_node: int | None = Field(description="slices in a node; null: machine not known yet", examples=[64])
    devices_per_node: int | None = Field(description="as the batch system shows them", examples=[8])
    gpus_per_node: int | None = Field(description="as they are accounted", examples=[4])
    node_hours: HoursView | None = Field(description="null while the machine is not known")
    gpu_hours: HoursView | None = Field(description="null without GPUs")
    pool_id: str | None = Field(description="null: there was none of that share", examples=["lumi-g-union-2026"])
    mode: str | None = Field(description="null: granted by a person, under no mode", examples=["aif_playground"])
    policy_version: str | None = Field(examples=["2025-12"])
    use_or_lose: str | None = Field(description="the policy it stands under", examples=["lumi-dk"])
    expired: int = Field(description="what was left after its end; no part of `granted` any more", examples=[0])
    returned: int = Field(description="cut by a policy and given back; no part of `granted` any more", examples=[0])
    corrected: int = Field(description="given back by hand of what was charged; a part of `granted`", examples=[0])
    revision: int = Field(description="counts decisions, not usage; its ETag", examples=[0])

    @classmethod
    def of(cls, one: reads.Standing) -> Self:
        """Show an allocation."""
        machine_id, partition_id, _ = one.resource.split("/")
        return cls(
            allocation_id=one.id,
            project_id=one.project_id,
            award_id=one.award_id,
            machine_id=machine_id,
            partition_id=partition_id,
            resource=one.resource,
            pool=one.pool,
            starts_at=one.starts_at,
            ends_at=one.ends_at,
            reason=one.reason,
            granted_by=one.granted_by,
            granted_at=one.granted_at,
            unit=one.unit or "slice-second",
            granted=one.granted,
            available=one.available,
            held=one.held,
            charged=one.charged,
            overrun=one.overrun,
            units_per_node=one.units_per_node,
            devices_per_node=one.devices_per_node,
            gpus_per_node=one.gpus_per_node,
            node_hours=_node_hours(one),
            gpu_hours=_gpu_hours(one),
            pool_id=one.pool_id,
            mode=one.mode,
            policy_version=one.policy_version,
            use_or_lose=one.use_or_lose,
            expired=one.expired,
            returned=one.returned,
            corrected=one.corrected,
            revision=one.revision,
        )


def _node_hours(one: reads.Standing) -> HoursView | None:
    units = one.units_per_node
    if units is None:
        return None
    return HoursView(
        granted=node_hours(one.granted, units),
        available=node_hours(one.available, units),
        held=node_hours(one.held, units),
        charged=node_hours(one.charged, units),
        overrun=node_hours(one.overrun, units),
    )


def _gpu_hours(one: reads.Standing) -> HoursView | None:
    units, gpus = one.units_per_node, one.gpus_per_node
    if units is None or not gpus or not one.resource.endswith("/gpu-time"):
        return None
    return HoursView(
        granted=gpu_hours(one.granted, units, gpus),
        available=gpu_hours(one.available, units, gpus),
        held=gpu_hours(one.held, units, gpus),
        charged=gpu_hours(one.charged, units, gpus),
        overrun=gpu_hours(one.overrun, units, gpus),
    )


class PostingView(BaseModel):
    """One side of a transfer."""

    account: str = Field(
        description="its role: available, held, consumed, overrun, expired, corrected, union_pool, ...",
        examples=["held"],
    )
    amount: int = Field(description="below zero: it left this account", examples=[-192_000])


class UsageReference(BaseModel):
    """Which usage record something is about."""

    machine_id: MachineId
    local_job_id: str = Field(examples=["4711"])
    submitted_at: datetime
    segment: int = Field(examples=[0])
    revision: int = Field(examples=[0])


class TransferView(BaseModel):
    """A line of a statement: two postings that sum to zero."""

    transfer_id: int = Field(examples=[1])
    kind: str = Field(description="grant, hold, release, charge, refund, expiry, ...", examples=["charge"])
    resource: ResourceId
    postings: list[PostingView] = Field(min_length=2, max_length=2)
    job_id: JobId | None
    usage: UsageReference | None
    recorded_at: datetime

    @classmethod
    def of(cls, one: reads.Transfer) -> Self:
        """Show a transfer."""
        return cls(
            transfer_id=one.id,
            kind=one.kind,
            resource=one.resource,
            postings=[
                PostingView(account=one.source, amount=-one.amount),
                PostingView(account=one.target, amount=one.amount),
            ],
            job_id=one.job_id,
            usage=_reference(one),
            recorded_at=one.recorded_at,
        )


def _reference(one: reads.Transfer) -> UsageReference | None:
    if (
        one.machine_id is None
        or one.local_job_id is None
        or one.submitted_at is None
        or one.segment is None
        or one.revision is None
    ):
        return None
    return UsageReference(
        machine_id=one.machine_id,
        local_job_id=one.local_job_id,
        submitted_at=one.submitted_at,
        segment=one.segment,
        revision=one.revision,
    )


class UsageEventView(UsageReference):
    """What one usage record costs one allocation, as in `aifn-usage-charged-v1`: a later revision takes its place."""

    number: int = Field(description="grows from record to record", examples=[1])
    job_id: JobId
    project_id: ProjectId
    allocation_id: AllocationId
    resource: ResourceId
    amount: int = Field(description="the whole charge after rating, in the resource's unit", examples=[192_000])
    rate_card: RateCardId
    started_at: datetime
    ended_at: datetime
    user: str = Field(description="a pseudonym", examples=["u-5f1c0d9e2a7b4c33"])
    recorded_at: datetime

    @classmethod
    def of(cls, one: reads.Charged) -> Self:
        """Show a charge."""
        return cls(
            number=one.usage_number,
            machine_id=one.machine_id,
            local_job_id=one.local_job_id,
            submitted_at=one.submitted_at,
            segment=one.segment,
            revision=one.revision,
            job_id=one.job_id,
            project_id=one.project_id,
            allocation_id=one.allocation_id,
            resource=one.resource,
            amount=one.amount,
            rate_card=one.rate_card,
            started_at=one.started_at,
            ended_at=one.ended_at,
            user=one.user,
            recorded_at=one.recorded_at,
        )


class JobChargesView(BaseModel):
    """What a job holds and costs."""

    job_id: JobId
    project_id: ProjectId
    allocation_id: AllocationId | None = Field(description="who pays; null: nothing is held")
    held: int = Field(description="what was set aside when it was placed", examples=[230_400])
    remaining: int = Field(description="what of it is still set aside", examples=[0])
    charged: int = Field(description="sum of `charges`", examples=[192_000])
    outcome: str | None = Field(description="null while it is not over", examples=["completed"])
    segments_expected: int | None = Field(description="null while it is not over", examples=[1])
    segments_charged: int = Field(examples=[1])
    released_at: datetime | None = Field(description="when the rest went back")
    charges: list[UsageEventView]

    @classmethod
    def of(cls, job: reads.JobMoney, charges: list[reads.Charged]) -> Self:
        """Show a job's money."""
        return cls(
            job_id=job.job_id,
            project_id=job.project_id,
            allocation_id=job.allocation_id,
            held=job.amount,
            remaining=0 if job.released_at else max(job.amount - job.drawn, 0),
            charged=sum(one.amount for one in charges),
            outcome=job.outcome,
            segments_expected=job.segments_expected,
            segments_charged=len({(c.machine_id, c.local_job_id, c.submitted_at, c.segment) for c in charges}),
            released_at=job.released_at,
            charges=[UsageEventView.of(one) for one in charges],
        )


class DayTotalView(BaseModel):
    """One resource on one day."""

    resource: ResourceId
    stated_records: int = Field(examples=[1])
    stated_amount: int = Field(examples=[192_000])
    records: int = Field(examples=[1])
    amount: int = Field(examples=[192_000])


class SiteDayView(BaseModel):
    """What a site says it has sent for one of its days, beside what is recorded here."""

    machine_id: MachineId
    day: date = Field(examples=["2026-11-21"])
    revision: int = Field(examples=[0])
    complete: bool = Field(description="count, amounts and digest agree")
    stated_records: int = Field(examples=[1])
    records: int = Field(examples=[1])
    stated_digest: str = Field(examples=["0" * 64])
    digest: str = Field(examples=["0" * 64])
    totals: list[DayTotalView]
    stated_at: datetime

    @classmethod
    def of(cls, one: reads.SiteDay) -> Self:
        """Show a site-day."""
        totals = [DayTotalView(**vars(total)) for total in one.totals]
        agree = all(total.stated_records == total.records and total.stated_amount == total.amount for total in totals)
        return cls(
            machine_id=one.machine_id,
            day=one.day,
            revision=one.revision,
            complete=agree and one.stated_records == one.records and one.stated_digest == one.digest,
            stated_records=one.stated_records,
            records=one.records,
            stated_digest=one.stated_digest,
            digest=one.digest,
            totals=totals,
            stated_at=one.stated_at,
        )


class CheckView(BaseModel):
    """Two ways to know one thing, summed over all allocations of a resource."""

    check: str = Field(examples=["charged is the sum of unique usage records"])
    resource: str = Field(description="or `journal`, whose seals are counted", examples=["lumi/lumi-g/gpu-time"])
    expected: int = Field(examples=[192_000])
    found: int = Field(examples=[192_000])
    differing: int = Field(description="allocations in which they differ", examples=[0])
    passed: bool = Field(examples=[True])


class VerificationView(BaseModel):
    """Whether the ledger holds."""

    passed: bool = Field(examples=[True])
    checks: list[CheckView]

    @classmethod
    def of(cls, checks: list[reads.Check]) -> Self:
        """Show the checks."""
        shown = [
            CheckView(
                check=one.name,
                resource=one.resource,
                expected=one.expected,
                found=one.found,
                differing=one.differing,
                passed=one.differing == 0 and one.expected == one.found,
            )
            for one in checks
        ]
        return cls(passed=all(one.passed for one in shown), checks=shown)
