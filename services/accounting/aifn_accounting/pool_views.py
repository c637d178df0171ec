"""What accounting shows and takes over HTTP of pools, caps, awards that wait, and resources that no machine brings."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from aifn_events.vocabulary import AllocationId, AwardId, FactoryId, Moment, ProjectId, ResourceId, Slug
from pydantic import BaseModel, Field

from aifn_accounting.domain.ledger import LARGEST_AMOUNT
from aifn_accounting.domain.pools import Base, Cap, Pool, PoolKind
from aifn_accounting.store import decisions, pools
from aifn_accounting.views import GrantAmount, Reason, Words

ShareId = Annotated[Slug, Field(description="a pool, or a cap", examples=["lumi-g-union-2026"])]
Mode = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", examples=["aif_playground"])]
Version = Annotated[str, Field(min_length=1, max_length=20, examples=["2025-12"])]
Earmark = Annotated[str, Field(min_length=1, max_length=80, examples=["evaluation of general-purpose models"])]
Percentage = Annotated[int, Field(strict=True, ge=0, le=100, examples=[10])]
PolicyId = Annotated[Slug, Field(description="a use-or-lose policy", examples=["lumi-dk"])]
Unit = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$", examples=["credit"])]
Limit = Annotated[int, Field(strict=True, ge=1, le=LARGEST_AMOUNT, examples=[288_000_000])]
Days = Annotated[int, Field(strict=True, ge=1, le=36_500, examples=[366])]
Reserve = Annotated[int, Field(strict=True, ge=0, le=LARGEST_AMOUNT, examples=[0])]


class PoolView(BaseModel):
    """A share of one resource for some time: funded = passed on + available."""

    pool_id: ShareId
    kind: PoolKind = Field(examples=["union"])
    title: str = Field(examples=["Union's share of LUMI-G, 2026"])
    parent: str | None = Field(description="the pool above it", examples=[None])
    funder: str = Field(examples=["eurohpc-ju"])
    factory_id: FactoryId
    resource: ResourceId
    starts_at: datetime
    ends_at: datetime
    funded: int = Field(description="what came in, less what was withdrawn", examples=[2_880_000_000])
    passed_on: int = Field(description="to pools below and to allocations", examples=[288_000_000])
    available: int = Field(examples=[2_592_000_000])
    reserved: int = Field(description="demand of other modes, which yielding groups leave alone", examples=[0])
    earmark: str | None = Field(description="what it is for, if for one thing only")
    use_or_lose: str | None = Field(description="the policy that grants out of it stand under")
    most_per_grant: int | None
    longest_days: int | None
    revision: int = Field(examples=[3])

    @classmethod
    def of(cls, pool: Pool) -> Self:
        """Show a pool."""
        return cls(
            pool_id=pool.id,
            kind=pool.kind,
            title=pool.title,
            parent=pool.parent,
            funder=pool.funder,
            factory_id=pool.factory_id,
            resource=pool.resource,
            starts_at=pool.starts_at,
            ends_at=pool.ends_at,
            funded=pool.funded,
            passed_on=pool.passed_on,
            available=pool.available,
            reserved=pool.reserved,
            earmark=pool.earmark,
            use_or_lose=pool.use_or_lose,
            most_per_grant=pool.most_per_grant,
            longest_days=pool.longest_days,
            revision=pool.revision,
        )


class PoolCreation(Words):
    """A new pool, with nothing in it."""

    pool_id: ShareId
    kind: PoolKind = Field(examples=["union"])
    title: str = Field(min_length=1, max_length=200, examples=["Union's share of LUMI-G, 2026"])
    parent: ShareId | None = None
    funder: Slug = Field(description="who fills it, if no pool above it does", examples=["eurohpc-ju"])
    resource: ResourceId
    starts_at: Moment = Field(examples=["2026-01-01T00:00:00Z"])
    ends_at: Moment = Field(examples=["2027-01-01T00:00:00Z"])
    earmark: Earmark | None = None
    use_or_lose: PolicyId | None = None
    most_per_grant: Limit | None = None
    longest_days: Days | None = None
    reason: Reason


class PoolChange(Words):
    """What may be decided of a pool beside its amounts: all of it."""

    title: str = Field(min_length=1, max_length=200, examples=["Union's share of LUMI-G, 2026"])
    reserved: Reserve
    use_or_lose: PolicyId | None = None
    most_per_grant: Limit | None = None
    longest_days: Days | None = None
    reason: Reason


class Funding(Words):
    """An amount that goes into a pool."""

    amount: GrantAmount
    source: ShareId | None = Field(default=None, description="the pool it comes out of; null: the pool's funder")
    reason: Reason


class Withdrawal(Words):
    """An amount that a pool has not passed on and gives back."""

    amount: GrantAmount
    reason: Reason


class MovementView(BaseModel):
    """A line of a pool's statement."""

    transfer_id: int = Field(examples=[1])
    kind: str = Field(description="grant, sub_grant, transfer, expiry, correction", examples=["grant"])
    source: str = Field(description="whose account it left", examples=["share:lumi-g-union-2026"])
    source_role: str = Field(examples=["union_pool"])
    target: str = Field(examples=["alloc-0198c7d4"])
    target_role: str = Field(examples=["available"])
    amount: int = Field(examples=[288_000_000])
    allocation_id: AllocationId | None = Field(description="if it is one allocation's")
    recorded_at: datetime

    @classmethod
    def of(cls, one: pools.Movement) -> Self:
        """Show a movement."""
        return cls(
            transfer_id=one.id,
            kind=one.kind,
            source=one.source_owner,
            source_role=one.source,
            target=one.target_owner,
            target_role=one.target,
            amount=one.amount,
            allocation_id=one.allocation_id,
            recorded_at=one.recorded_at,
        )


class CapView(BaseModel):
    """A ceiling for a group of modes: `pct` of `base_amount`."""

    cap_id: ShareId
    factory_id: FactoryId
    policy_version: str = Field(examples=["2025-12"])
    mode_group: str = Field(examples=["playground_and_fast_lane"])
    modes: list[str] = Field(examples=[["aif_playground", "aif_fast_lane"]])
    pool_kind: PoolKind = Field(examples=["union"])
    resource: ResourceId
    starts_at: datetime
    ends_at: datetime
    pct: int = Field(examples=[10])
    base: Base = Field(
        description="share: what the pools of that kind were funded with; machine: all it gives in that time; stated",
        examples=["share"],
    )
    base_amount: int = Field(examples=[2_880_000_000])
    ceiling: int = Field(examples=[288_000_000])
    used: int = Field(examples=[0])
    headroom: int = Field(description="what may still be granted under it", examples=[288_000_000])
    yields: bool = Field(description="gives way to the demand of other modes", examples=[False])
    source: str = Field(examples=["Access Policy 2025.12"])
    revision: int = Field(examples=[0])

    @classmethod
    def of(cls, cap: Cap) -> Self:
        """Show a cap."""
        return cls(
            cap_id=cap.id,
            factory_id=cap.factory_id,
            policy_version=cap.policy_version,
            mode_group=cap.mode_group,
            modes=list(cap.modes),
            pool_kind=cap.pool_kind,
            resource=cap.resource,
            starts_at=cap.starts_at,
            ends_at=cap.ends_at,
            pct=cap.pct,
            base=cap.base,
            base_amount=cap.base_amount,
            ceiling=cap.ceiling,
            used=cap.used,
            headroom=cap.headroom,
            yields=cap.yields,
            source=cap.source,
            revision=cap.revision,
        )


class CapCreation(Words):
    """A new ceiling; `modes`, `pct`, `yields` and `source` are the published ones if they are left out."""

    cap_id: ShareId
    policy_version: Version
    mode_group: Mode = Field(examples=["playground_and_fast_lane"])
    modes: list[Mode] | None = Field(default=None, min_length=1, max_length=64)
    pool_kind: PoolKind = Field(examples=["union"])
    resource: ResourceId
    starts_at: Moment = Field(examples=["2026-01-01T00:00:00Z"])
    ends_at: Moment = Field(examples=["2027-01-01T00:00:00Z"])
    pct: Percentage | None = None
    base: Base = Field(examples=["share"])
    base_amount: Limit | None = Field(default=None, description="with base `stated` only")
    yields: bool | None = None
    source: str | None = Field(default=None, min_length=3, max_length=1000)
    reason: Reason


class CapChange(Words):
    """Another ceiling for the same group: all that it is made of."""

    pct: Percentage
    base: Base = Field(examples=["share"])
    base_amount: Limit | None = Field(default=None, description="with base `stated` only")
    yields: bool = Field(examples=[False])
    source: str = Field(min_length=3, max_length=1000, examples=["Access Policy 2025.12"])
    reason: Reason


class HeadroomView(BaseModel):
    """What may be granted now, at most, and what bounds it."""

    resource: ResourceId
    kind: PoolKind = Field(examples=["union"])
    headroom: int | None = Field(description="null: nothing bounds it", examples=[288_000_000])
    pool: PoolView | None = Field(description="null: the resource has no pools of this kind")
    caps: list[CapView]


class PendingAwardView(BaseModel):
    """An award that was heard of and could not be carried out."""

    award_id: AwardId
    project_id: ProjectId
    factory_id: FactoryId
    state: Literal["waiting", "carried_out", "withdrawn"] = Field(examples=["waiting"])
    code: str = Field(description="what stood in its way when it was last tried", examples=["pool_exhausted"])
    because: str = Field(examples=["pool lumi-g-union-2026 was asked for 288000000, 0 left"])
    tries: int = Field(examples=[1])
    received_at: datetime
    tried_at: datetime
    award: dict[str, Any] = Field(description="the event as it came")

    @classmethod
    def of(cls, one: decisions.PendingAward) -> Self:
        """Show an award that waits, or has waited."""
        return cls(
            award_id=one.award_id,
            project_id=one.project_id,
            factory_id=one.factory_id,
            state=one.state,
            code=one.code,
            because=one.because,
            tries=one.tries,
            received_at=one.received_at,
            tried_at=one.tried_at,
            award=dict(one.event),
        )


class Because(Words):
    """Why something is done, for those who ask later."""

    reason: Reason


class ResourceView(BaseModel):
    """Something that is counted."""

    resource: ResourceId
    unit: str = Field(examples=["slice-second"])
    title: str = Field(examples=["lumi lumi-g"])
    factory_ids: list[FactoryId] = Field(examples=[["lumi-aif"]])


class ResourceCreation(Words):
    """Something that is counted and that no machine brings: credits, hours of experts, bytes kept for a second."""

    resource: ResourceId = Field(examples=["lumi-aif/model-api/credit"])
    unit: Unit
    title: str = Field(min_length=1, max_length=200, examples=["Credits for the model API"])
    reason: Reason


class ClearingView(BaseModel):
    """What stands between two factories in one resource."""

    account: str = Field(examples=["clearing:bsc-aif:lumi-aif"])
    resource: ResourceId
    balance: int = Field(description="below zero: owed by this factory; above: due to it", examples=[-192_000])
