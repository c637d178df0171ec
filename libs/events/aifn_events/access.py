"""Facts about who may use what: decisions on applications, awards, and who belongs to a project."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from aifn_events.base import Event, Payload
from aifn_events.vocabulary import (
    AllocationId,
    Amount,
    ApplicationId,
    AwardId,
    CountryCode,
    FactoryId,
    Flag,
    MachineId,
    ModeId,
    Moment,
    PartitionId,
    ProjectId,
    ResourceId,
    Revision,
    Slug,
    Subject,
    Text,
)


class CallPublished(Event):
    """A call takes applications between two moments, under one policy version. What was published is not changed."""

    topic: ClassVar[str] = "aifn-call-published-v1"
    key_field: ClassVar[str] = "call_id"

    call_id: Slug = Field(examples=["aif-large-scale"])
    factory_id: FactoryId = Field(description="the member that publishes it and decides", examples=["lumi-aif"])
    mode: ModeId = Field(examples=["aif_large_scale"])
    policy_version: str = Field(max_length=20, examples=["2025-12"])
    pool: Literal["union", "national"] = Field(examples=["union"])
    deciding_authority: str = Field(max_length=60, examples=["hosting_factory"])
    opens_at: Moment = Field(examples=["2025-12-01T00:00:00Z"])
    closes_at: Moment | None = Field(default=None, description="null: no cut-off", examples=["2027-12-01T00:00:00Z"])
    partitions: list[PartitionId] | None = Field(
        default=None, max_length=256, description="null: any that operates", examples=[["lumi-g"]]
    )
    single_machine: Flag = Field(examples=[True])
    inference_cap_pct: Annotated[int, Field(strict=True, ge=0, le=100)] | None = Field(
        default=None, description="most of an award that inference may use; null: no limit", examples=[10]
    )
    call_source: Text = Field(description="where the call is published", examples=["call aif-large-scale"])


class RuleFinding(Payload):
    """What one rule said of an application."""

    rule: str = Field(max_length=80, description="the rule's name in the policy data")
    passed: Flag
    because: Text
    source: Text = Field(description="where the rule is written")


class ApplicationDecided(Event):
    """An application was found eligible or not; every rule that was looked at is named."""

    topic: ClassVar[str] = "aifn-application-decided-v1"
    key_field: ClassVar[str] = "application_id"

    application_id: ApplicationId = Field(examples=["app-0198c7d2"])
    mode: ModeId = Field(examples=["aif_playground"])
    policy_version: str = Field(max_length=20, examples=["2025-12"])
    eligible: Flag = Field(examples=[True])
    findings: list[RuleFinding] = Field(
        examples=[
            [
                {
                    "rule": "applicant_kind",
                    "passed": True,
                    "because": "a startup is an SME, and SMEs may apply",
                    "source": "Access Policy 2025-12",
                }
            ]
        ]
    )
    decided_at: Moment = Field(examples=["2026-11-21T09:00:00Z"])


class AwardLine(Payload):
    """How much of one resource an award gives."""

    machine_id: MachineId
    partition_id: PartitionId
    resource: ResourceId
    amount: Amount = Field(description="in the resource's own unit, here slice-seconds")


class AwardScope(Payload):
    """A partition of another factory that the same award names; its hours are granted there."""

    factory_id: FactoryId
    machine_id: MachineId
    partition_id: PartitionId
    resource: ResourceId


class AwardGranted(Event):
    """A project may use the named resources between two moments, under one policy version."""

    topic: ClassVar[str] = "aifn-award-granted-v1"
    key_field: ClassVar[str] = "project_id"

    award_id: AwardId = Field(examples=["award-0198c7d3"])
    application_id: ApplicationId = Field(examples=["app-0198c7d2"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    project_title: str = Field(max_length=200, examples=["Speech models for small languages"])
    factory_id: FactoryId = Field(description="the hosting factory", examples=["lumi-aif"])
    mode: ModeId = Field(examples=["aif_playground"])
    policy_version: str = Field(max_length=20, examples=["2025-12"])
    pool: Literal["union", "national"] = Field(examples=["union"])
    deciding_authority: str = Field(max_length=60, examples=["hosting_factory"])
    applicant_kind: str = Field(max_length=60, examples=["startup"])
    country: CountryCode = Field(description="where the organisation is established", examples=["FI"])
    lines: list[AwardLine] = Field(
        min_length=1,
        max_length=64,
        examples=[
            [
                {
                    "machine_id": "lumi",
                    "partition_id": "lumi-g",
                    "resource": "lumi/lumi-g/gpu-time",
                    "amount": 288_000_000,
                }
            ]
        ],
    )
    elsewhere: list[AwardScope] = Field(
        default=[],
        max_length=64,
        description="what the award names at other factories, where jobs may go",
        examples=[
            [
                {
                    "factory_id": "bsc-aif",
                    "machine_id": "marenostrum5",
                    "partition_id": "mn5-acc",
                    "resource": "marenostrum5/mn5-acc/gpu-time",
                }
            ]
        ],
    )
    principal_investigator: Subject = Field(examples=["7c1d@myaccessid"])
    starts_at: Moment = Field(examples=["2026-11-21T09:00:00Z"])
    ends_at: Moment = Field(examples=["2027-01-21T09:00:00Z"])
    inference_cap_pct: Annotated[int, Field(strict=True, ge=0, le=100)] | None = Field(
        default=None, description="most of the award that inference may use; null: no limit in this call"
    )


class ProjectMember(Payload):
    """A person's part in a project."""

    subject: Subject
    role: Literal["pi", "member"]


class ProjectDescribed(Event):
    """Who belongs to a project; the whole list, said again with a higher revision when it changes."""

    topic: ClassVar[str] = "aifn-project-described-v1"
    key_field: ClassVar[str] = "project_id"

    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    revision: Revision = Field(examples=[0])
    title: str = Field(max_length=200, examples=["Speech models for small languages"])
    factory_id: FactoryId = Field(examples=["lumi-aif"])
    members: list[ProjectMember] = Field(max_length=5000, examples=[[{"subject": "7c1d@myaccessid", "role": "pi"}]])
    closed: Flag = Field(default=False, examples=[False])


class AllocationOpened(Event):
    """A project has an amount of one resource to use from now on."""

    topic: ClassVar[str] = "aifn-allocation-opened-v1"
    key_field: ClassVar[str] = "project_id"

    allocation_id: AllocationId = Field(examples=["alloc-0198c7d4"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    award_id: AwardId | None = Field(default=None, examples=["award-0198c7d3"])
    machine_id: MachineId = Field(examples=["lumi"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    amount: Amount = Field(description="in the resource's own unit", examples=[288_000_000])
    pool: Literal["union", "national"] = Field(examples=["union"])
    starts_at: Moment = Field(examples=["2026-11-21T09:00:00Z"])
    ends_at: Moment = Field(examples=["2027-01-21T09:00:00Z"])
