"""Facts about what was used, and what was charged for it. `UsageCharged` is the public contract for other systems."""

from typing import ClassVar, Literal

from pydantic import Field

from aifn_events.base import Event, Payload
from aifn_events.vocabulary import (
    AllocationId,
    Amount,
    Count,
    Day,
    Flag,
    JobId,
    MachineId,
    Moment,
    PartitionId,
    ProjectId,
    RateCardId,
    ResourceId,
    Revision,
)

LocalJobId = Field(min_length=1, max_length=64, description="as the batch system numbers it", examples=["4711"])
Segment = Field(description="0 is the first run; a requeued or resized job has more", examples=[0])


class UsageReported(Event):
    """What one run segment of a job took. A correction repeats the identity with a higher revision.

    Identity: (machine_id, local_job_id, submitted_at, segment).
    """

    topic: ClassVar[str] = "aifn-usage-reported-v1"
    key_field: ClassVar[str] = "job_id"

    machine_id: MachineId = Field(description="the cluster whose batch system counted", examples=["lumi"])
    local_job_id: str = LocalJobId
    submitted_at: Moment = Field(
        description="of this segment, as the batch system has it", examples=["2026-11-21T09:00:01Z"]
    )
    segment: Count = Segment
    revision: Revision = Field(examples=[0])
    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    local_user: str = Field(max_length=64, examples=["mmeikalainen"])
    kind: Literal["run", "requeued", "resized"] = Field(default="run", examples=["run"])
    state: str = Field(max_length=64, description="as the batch system words it", examples=["COMPLETED"])
    started_at: Moment = Field(examples=["2026-11-21T09:00:10Z"])
    ended_at: Moment = Field(examples=["2026-11-21T09:50:10Z"])
    nodes: Count = Field(examples=[1])
    amounts: dict[ResourceId, Amount] = Field(
        min_length=1,
        max_length=16,
        description="by resource, in its own unit (compute: slice-seconds)",
        examples=[{"lumi/lumi-g/gpu-time": 192_000}],
    )
    collector: str = Field(max_length=80, description="who counted, and its version", examples=["simulated/0.1.0"])
    cores: Count | None = Field(default=None, description="of all nodes together; null is unknown")
    devices: Count | None = Field(
        default=None, description="accelerators as the batch system shows them, of all nodes together"
    )
    memory_mib: Count | None = Field(default=None, description="of all nodes together")
    exclusive: Flag | None = Field(default=None, description="nobody else could use its nodes")
    suspended_seconds: Count = Field(default=0, description="not running, between start and end")
    idle_reservation: Flag = Field(default=False, description="no run: nodes that were reserved and that nobody used")
    gpu_model: str | None = Field(default=None, max_length=120)
    energy_joules: Amount | None = Field(default=None, description="as measured; null is unknown, never zero")


class ResourceTotal(Payload):
    """All that was reported of one resource on one day."""

    resource: ResourceId
    records: Count
    amount: Amount


class UsageDayStated(Event):
    """A site says how many usage records ended on one of its days, so that a missing one is noticed.

    `digest` is the SHA-256, in hex, of the sorted lines `local_job_id|submitted_at|segment|revision`, one newline
    after each.
    """

    topic: ClassVar[str] = "aifn-usage-day-stated-v1"
    key_field: ClassVar[str] = "machine_id"

    machine_id: MachineId = Field(examples=["lumi"])
    day: Day = Field(description="UTC day in which the segments ended", examples=["2026-11-21"])
    revision: Revision = Field(examples=[0])
    records: Count = Field(examples=[1])
    totals: list[ResourceTotal] = Field(
        max_length=256, examples=[[{"resource": "lumi/lumi-g/gpu-time", "records": 1, "amount": 192_000}]]
    )
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])


class UsageGapChanged(Event):
    """What arrived of a site's day is not what the site states, or it is again: then `state` is closed."""

    topic: ClassVar[str] = "aifn-usage-gap-changed-v1"
    key_field: ClassVar[str] = "machine_id"

    machine_id: MachineId = Field(examples=["lumi"])
    day: Day = Field(description="UTC day in which the segments ended", examples=["2026-11-20"])
    state: Literal["open", "closed"] = Field(examples=["open"])
    reason: str = Field(
        max_length=60,
        description="records_missing, records_unstated, records_differ, amounts_differ, no_statement or overlap",
        examples=["records_missing"],
    )
    statement_revision: Revision | None = Field(description="null: there is no statement", examples=[0])
    stated_records: Count | None = Field(examples=[4711])
    records: Count = Field(description="that arrived", examples=[4700])
    overlapping: Count = Field(
        description="records whose time overlaps with that of another segment of their job", examples=[0]
    )
    opened_at: Moment = Field(examples=["2026-11-21T02:00:00Z"])
    looked_at: Moment = Field(examples=["2026-11-21T02:00:00Z"])


class PeriodClosed(Event):
    """A month is closed: what belonged to it stays as it is, and later news is entered into an open month.

    `digest` is the SHA-256, in hex, of the sorted lines `allocation_id|resource|amount|records` of its totals, one
    newline after each.
    """

    topic: ClassVar[str] = "aifn-period-closed-v1"
    key_field: ClassVar[str] = "month"

    month: str = Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", description="of the UTC calendar", examples=["2026-10"])
    closed_at: Moment = Field(examples=["2026-11-03T09:00:00Z"])
    allocations: Count = Field(description="that were charged in it", examples=[12])
    records: Amount = Field(description="usage records in its totals", examples=[48_211])
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])


class UsageCharged(Event):
    """One resource of one usage record was charged to an allocation. A correction states the new whole amount."""

    topic: ClassVar[str] = "aifn-usage-charged-v1"
    key_field: ClassVar[str] = "project_id"

    machine_id: MachineId = Field(examples=["lumi"])
    local_job_id: str = LocalJobId
    submitted_at: Moment = Field(examples=["2026-11-21T09:00:01Z"])
    segment: Count = Segment
    revision: Revision = Field(examples=[0])
    job_id: JobId = Field(examples=["lumi-aif-0198c7d2"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    allocation_id: AllocationId = Field(examples=["alloc-0198c7d4"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    amount: Amount = Field(description="the whole charge, after rating, in the resource's own unit", examples=[192_000])
    rate_card: RateCardId = Field(examples=["as-reported"])
    ended_at: Moment = Field(examples=["2026-11-21T09:50:10Z"])
    user: str = Field(
        max_length=64, description="a pseudonym, stable within one factory", examples=["u-5f1c0d9e2a7b4c33"]
    )
