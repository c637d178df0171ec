"""Facts about the shares that awards are taken out of, and about what becomes of an allocation by decision."""

from typing import ClassVar, Literal

from pydantic import Field

from aifn_events.base import Event
from aifn_events.vocabulary import (
    AllocationId,
    Amount,
    AwardId,
    FactoryId,
    ModeId,
    Moment,
    ProjectId,
    ResourceId,
    Revision,
    Slug,
    Text,
)


class ShareHeadroomChanged(Event):
    """There is more or less left of a pool, or below a cap; said again with a higher revision whenever that changes."""

    topic: ClassVar[str] = "aifn-share-headroom-changed-v1"
    key_field: ClassVar[str] = "share_id"

    share_id: Slug = Field(description="a pool, or a cap", examples=["lumi-g-union-2026"])
    revision: Revision = Field(examples=[3])
    kind: Literal["pool", "cap"] = Field(examples=["pool"])
    factory_id: FactoryId = Field(examples=["lumi-aif"])
    pool: Literal["union", "national", "fund"] = Field(examples=["union"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    mode_group: str | None = Field(default=None, max_length=64, examples=["playground_and_fast_lane"])
    policy_version: str | None = Field(default=None, max_length=20, examples=["2025-12"])
    modes: list[ModeId] = Field(default=[], max_length=64, examples=[["aif_playground", "aif_fast_lane"]])
    limit: Amount = Field(description="what the pool was funded with, or the cap's ceiling", examples=[2_880_000_000])
    used: Amount = Field(description="what was passed on, or granted under the cap", examples=[288_000_000])
    headroom: Amount = Field(description="what may still be granted; never below zero", examples=[2_592_000_000])
    starts_at: Moment = Field(examples=["2026-01-01T00:00:00Z"])
    ends_at: Moment = Field(examples=["2027-01-01T00:00:00Z"])


class AwardDeferred(Event):
    """An award was heard of and cannot be carried out yet; it is kept, and tried again when there is more room."""

    topic: ClassVar[str] = "aifn-award-deferred-v1"
    key_field: ClassVar[str] = "project_id"

    award_id: AwardId = Field(examples=["award-0198c7d3"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    factory_id: FactoryId = Field(examples=["lumi-aif"])
    code: str = Field(max_length=60, description="why, for programs", examples=["pool_exhausted"])
    because: Text = Field(examples=["pool lumi-g-union-2026 was asked for 288000000, 0 left"])


class AllocationChanged(Event):
    """An allocation was extended, topped up, cut or has expired: its amount and its end are these from now on."""

    topic: ClassVar[str] = "aifn-allocation-changed-v1"
    key_field: ClassVar[str] = "project_id"

    allocation_id: AllocationId = Field(examples=["alloc-0198c7d4"])
    revision: Revision = Field(description="of the allocation; the highest one counts", examples=[1])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    what: Literal["extended", "topped_up", "cut", "expired", "restored"] = Field(examples=["extended"])
    granted: Amount = Field(description="in all, less what has expired or was cut", examples=[316_800_000])
    starts_at: Moment = Field(examples=["2026-11-21T09:00:00Z"])
    ends_at: Moment = Field(examples=["2027-04-21T09:00:00Z"])


class ThresholdReached(Event):
    """So much of an allocation is used, or of the part of it that may go into inference."""

    topic: ClassVar[str] = "aifn-threshold-reached-v1"
    key_field: ClassVar[str] = "project_id"

    allocation_id: AllocationId = Field(examples=["alloc-0198c7d4"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    of: Literal["allocation", "inference"] = Field(
        description="inference: what is held counts as used, and 100 means that no more is held",
        examples=["allocation"],
    )
    percent: Literal[50, 80, 100] = Field(examples=[80])
    used: Amount = Field(examples=[230_400_000])
    limit: Amount = Field(examples=[288_000_000])
