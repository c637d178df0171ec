"""Facts about a job that one factory gives to another: asked and decided by its home, answered by who receives it."""

from typing import ClassVar, Literal

from pydantic import Field

from aifn_events.base import Event
from aifn_events.placement import Outcome
from aifn_events.vocabulary import (
    AllocationId,
    Amount,
    FactoryId,
    Flag,
    JobId,
    MachineId,
    Moment,
    PartitionId,
    PositiveCount,
    PositiveSeconds,
    ProjectId,
    ResourceId,
    Slug,
    Text,
    Workload,
)

HandoverId = Slug
AgreementId = Slug


class HandoverAsked(Event):
    """Home asks another factory to run a job, or has decided on what it asked. Told to that factory alone.

    What is asked stands in every step, so that each can be read without the one before.
    """

    topic: ClassVar[str] = "aifn-handover-asked-v1"
    key_field: ClassVar[str] = "handover_id"

    handover_id: HandoverId = Field(
        description="chosen by home; also the job's name there", examples=["lumi-aif-0198c7d2-h0"]
    )
    home: FactoryId = Field(examples=["lumi-aif"])
    receiver: FactoryId = Field(examples=["bsc-aif"])
    agreement_id: AgreementId = Field(
        description="under which both exchange hours, or the project's award that names both",
        examples=["lumi-bsc-2026"],
    )
    project_id: ProjectId | None = Field(
        default=None,
        description="whose award it is, with hours at both; null: hours are exchanged",
        examples=[None],
    )
    step: Literal["requested", "confirmed", "voided"] = Field(examples=["requested"])
    reason: Literal["rejected", "cancelled", "expired"] | None = Field(
        default=None, description="why it was voided", examples=[None]
    )
    cancelled: Flag = Field(
        default=False, description="it is confirmed and no longer wanted: please end it", examples=[False]
    )
    machine_id: MachineId = Field(description="the receiver's", examples=["marenostrum5"])
    partition_id: PartitionId = Field(examples=["mn5-acc"])
    resource: ResourceId = Field(description="the receiver's", examples=["marenostrum5/mn5-acc/gpu-time"])
    nodes: PositiveCount = Field(examples=[1])
    slices: PositiveCount = Field(description="shares of nodes, all nodes together", examples=[80])
    amount: Amount = Field(description="what it may use at most, in slice-seconds", examples=[288_000])
    walltime_seconds: PositiveSeconds = Field(examples=[3600])
    script: str = Field(max_length=65_536, examples=["#!/bin/sh\nsleep 3000"])
    workload: Workload | None = Field(default=None, description="null: not said", examples=[None])
    answer_by: Moment = Field(description="afterwards home may void it", examples=["2026-11-21T09:05:00Z"])
    end_by: Moment = Field(description="afterwards the receiver ends it", examples=["2026-11-22T09:00:00Z"])


class HandoverAnswered(Event):
    """The receiver answers, or says how the job does. Told to home alone. An acceptance binds the receiver only."""

    topic: ClassVar[str] = "aifn-handover-answered-v1"
    key_field: ClassVar[str] = "handover_id"

    handover_id: HandoverId = Field(examples=["lumi-aif-0198c7d2-h0"])
    home: FactoryId = Field(examples=["lumi-aif"])
    receiver: FactoryId = Field(examples=["bsc-aif"])
    step: Literal["accepted", "declined", "started", "finished"] = Field(examples=["finished"])
    at: Moment = Field(description="when that happened", examples=["2026-11-21T10:00:00Z"])
    used: Amount | None = Field(
        default=None, description="of the receiver's resource, once it is finished", examples=[240_000]
    )
    outcome: Outcome | None = Field(default=None, description="once it is finished", examples=["completed"])
    because: Text = Field(default="", examples=[""])


class HandoverSettled(Event):
    """A hand-over has ended, and this factory's side of it is to be booked at the agreed rate."""

    topic: ClassVar[str] = "aifn-handover-settled-v1"
    key_field: ClassVar[str] = "handover_id"

    handover_id: HandoverId = Field(examples=["lumi-aif-0198c7d2-h0"])
    side: Literal["home", "receiver"] = Field(examples=["home"])
    home: FactoryId = Field(examples=["lumi-aif"])
    receiver: FactoryId = Field(examples=["bsc-aif"])
    agreement_id: AgreementId = Field(examples=["lumi-bsc-2026"])
    job_id: JobId = Field(description="by which this factory knows it", examples=["lumi-aif-0198c7d2"])
    allocation_id: AllocationId | None = Field(
        default=None, description="that pays, at home", examples=["alloc-0198c7d4"]
    )
    pool_id: Slug | None = Field(default=None, description="that gives, at the receiver", examples=[None])
    resource: ResourceId = Field(description="the receiver's", examples=["marenostrum5/mn5-acc/gpu-time"])
    amount: Amount = Field(description="what was used of it", examples=[240_000])
    home_resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    numerator: PositiveCount = Field(
        description="one unit of `resource` costs numerator / denominator of `home_resource`", examples=[4]
    )
    denominator: PositiveCount = Field(examples=[5])
