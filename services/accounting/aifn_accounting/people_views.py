"""What accounting shows and takes over HTTP of people, approvals, the trail of changes, and what allocations become."""

from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from aifn_events.vocabulary import AllocationId, FactoryId, Moment, ProjectId, ResourceId, Subject
from pydantic import BaseModel, Field

from aifn_accounting.domain.policies import UseOrLose
from aifn_accounting.store import decisions
from aifn_accounting.store import people as people_store
from aifn_accounting.views import GrantAmount, Reason, Words

LocalUser = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\s]+$", examples=["mmeikalainen"])]


class TopUp(Words):
    """More for an allocation, out of the pool it came from."""

    amount: GrantAmount
    reason: Reason


class Extension(Words):
    """A later end for an allocation."""

    ends_at: Moment = Field(examples=["2027-04-21T09:00:00Z"])
    reason: Reason


class InferenceView(BaseModel):
    """The part of an allocation that inference may use."""

    cap_pct: int = Field(examples=[10])
    limit: int = Field(examples=[28_800_000])
    used: int = Field(description="charged to inference, and held for it", examples=[0])
    left: int = Field(examples=[28_800_000])


class QuotaView(BaseModel):
    """The present month of an allocation."""

    month: int = Field(description="of the allocation; 0 is the first", examples=[0])
    quota: int = Field(examples=[24_000_000])
    used: int = Field(examples=[0])
    over: int = Field(description="used beyond it; has lower priority where a policy says so", examples=[0])


class LimitsView(BaseModel):
    """What rules say of an allocation beside its balance."""

    allocation_id: AllocationId
    revision: int = Field(examples=[0])
    given: int = Field(description="all that it was ever given", examples=[288_000_000])
    expired: int = Field(examples=[0])
    returned: int = Field(description="cut and given back to its pool", examples=[0])
    extensions: int = Field(description="how often it was extended", examples=[0])
    latest_end: datetime | None = Field(description="to which it may be extended; null: no rule says")
    growth_left: int | None = Field(description="by which it may grow; null: no rule says")
    contract_needed_until: date = Field(description="a principal investigator's contract must run so long")
    inference: InferenceView | None = Field(description="null: not limited")
    use_or_lose: UseOrLose | None = Field(description="null: no such policy")
    month: QuotaView | None = Field(description="null: it has not begun, or it has ended")


class PersonView(BaseModel):
    """A member, and what is known beside the role."""

    subject: Subject
    role: str = Field(examples=["pi"])
    contract_ends_on: date | None = Field(description="null: nobody has said")
    outlives: bool | None = Field(
        description="whether the contract runs three months longer than the last allocation; null: not known"
    )
    local_user: str | None = Field(description="the name at the site", examples=["mmeikalainen"])
    revision: int = Field(examples=[0])

    @classmethod
    def of(cls, one: people_store.Person, needed: date | None) -> Self:
        """Show a member; `needed`: until when a contract must run."""
        known = one.contract_ends_on is not None and needed is not None
        return cls(
            subject=one.subject,
            role=one.role,
            contract_ends_on=one.contract_ends_on,
            outlives=one.contract_ends_on >= needed if known and one.contract_ends_on and needed else None,
            local_user=one.local_user,
            revision=one.revision,
        )


class PersonWords(Words):
    """What is said of a member: all of it."""

    contract_ends_on: date | None = Field(default=None, examples=["2028-01-31"])
    local_user: LocalUser | None = None
    reason: Reason


class UseView(BaseModel):
    """What one person took of one resource."""

    user: str = Field(description="a pseudonym", examples=["u-5f1c0d9e2a7b4c33"])
    local_user: str | None = Field(description="for those who may see names", examples=["mmeikalainen"])
    subject: Subject | None = Field(description="for those who may see names, if it is known")
    resource: ResourceId
    amount: int = Field(description="charged, in the resource's unit", examples=[192_000])
    jobs: int = Field(examples=[1])
    last_ended_at: datetime

    @classmethod
    def of(cls, one: people_store.UseByPerson, *, names: bool) -> Self:
        """Show it, with or without names."""
        return cls(
            user=one.pseudonym,
            local_user=one.local_user if names else None,
            subject=one.subject if names else None,
            resource=one.resource,
            amount=one.amount,
            jobs=one.jobs,
            last_ended_at=one.last_ended_at,
        )


class ApprovalView(BaseModel):
    """Something large that one person asked for, and another decides on."""

    approval_id: str = Field(examples=["appr-0198c7d2a1b3-4f2a9c"])
    what: Literal["grant", "top_up", "correction", "fund_pool"] = Field(examples=["grant"])
    state: Literal["waiting", "approved", "rejected"] = Field(examples=["waiting"])
    project_id: ProjectId | None = Field(description="null: it is for a pool")
    factory_id: FactoryId
    amount: int = Field(examples=[288_000_000_000])
    words: dict[str, Any] = Field(description="as they were said")
    asked_by: Subject
    asked_at: datetime
    decided_by: Subject | None
    decided_at: datetime | None
    reason: str | None = Field(description="of the decision")
    allocation_id: AllocationId | None = Field(description="what came of it, or what it is for")
    pool_id: str | None = Field(description="the pool it is for", examples=[None])

    @classmethod
    def of(cls, one: decisions.Approval) -> Self:
        """Show an approval."""
        return cls(
            approval_id=one.id,
            what=one.what,
            state=one.state,
            project_id=one.project_id,
            factory_id=one.factory_id,
            amount=one.amount,
            words=dict(one.words),
            asked_by=one.asked_by,
            asked_at=one.asked_at,
            decided_by=one.decided_by,
            decided_at=one.decided_at,
            reason=one.reason,
            allocation_id=one.allocation_id,
            pool_id=one.pool_id,
        )


class Decision(Words):
    """What a second person says."""

    approve: bool = Field(examples=[True])
    reason: Reason


class ChangeView(BaseModel):
    """Who changed what, when, why, from what, to what."""

    number: int = Field(examples=[1])
    changed_at: datetime
    actor: str = Field(description="a person, or this service by a rule", examples=["7c1d@myaccessid"])
    action: str = Field(examples=["fund_pool"])
    thing: str = Field(examples=["pool"])
    thing_id: str = Field(examples=["lumi-g-union-2026"])
    project_id: ProjectId | None
    factory_id: FactoryId
    reason: str = Field(examples=["national call 2026-2"])
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @classmethod
    def of(cls, one: decisions.Change) -> Self:
        """Show a change."""
        before = None if one.before is None else dict(one.before)
        return cls(**(vars(one) | {"before": before, "after": None if one.after is None else dict(one.after)}))
