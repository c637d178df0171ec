"""What accounting shows and takes over HTTP of corrections by hand, and of months between two factories."""

from datetime import date, datetime
from typing import Annotated, Literal, Self

from aifn_events.vocabulary import AllocationId, FactoryId, JobId, ProjectId, ResourceId, Subject
from pydantic import BaseModel, Field

from aifn_accounting.domain.ledger import LARGEST_AMOUNT
from aifn_accounting.store import clearing, corrections
from aifn_accounting.views import Reason, UsageReference, Words

Amount = Annotated[
    int,
    Field(
        strict=True,
        ge=-LARGEST_AMOUNT,
        le=LARGEST_AMOUNT,
        description="in the resource's unit; above zero is given back, below zero taken back again",
        examples=[192_000],
    ),
]


class CorrectionWords(Words):
    """A correction of one line of an allocation's statement: a charge, or a correction before this one."""

    transfer_id: int = Field(strict=True, ge=1, description="the line; see the statement", examples=[2])
    amount: Amount
    reason: Reason


class CorrectionView(BaseModel):
    """What a person corrected by hand, and the line and usage record that it is linked to."""

    correction_id: str = Field(examples=["corr-0198c7d2a1b3-4f2a9c"])
    allocation_id: AllocationId
    project_id: ProjectId
    resource: ResourceId
    amount: int = Field(description="above zero: given back; below zero: taken back again", examples=[192_000])
    transfer_id: int = Field(description="its own line of the statement", examples=[9])
    corrects_transfer: int = Field(description="the line that it corrects", examples=[7])
    corrects: str | None = Field(description="the correction that it corrects, if that line is one", examples=[None])
    root: int = Field(description="the line of the charge that it began with", examples=[7])
    job_id: JobId | None
    usage: UsageReference | None = Field(description="null: the charge is none of a usage record")
    reason: str = Field(examples=["node nid001 failed in the last hour"])
    corrected_by: Subject
    approved_by: Subject | None = Field(description="the second person, if one was needed")
    corrected_at: datetime

    @classmethod
    def of(cls, one: corrections.Correction) -> Self:
        """Show a correction."""
        usage = None
        if one.machine_id is not None:
            usage = UsageReference.model_validate({name: getattr(one, name) for name in UsageReference.model_fields})
        return cls(
            correction_id=one.id,
            allocation_id=one.allocation_id,
            project_id=one.project_id,
            resource=one.resource,
            amount=one.amount,
            transfer_id=one.transfer_id,
            corrects_transfer=one.corrects_transfer,
            corrects=one.corrects,
            root=one.root,
            job_id=one.job_id,
            usage=usage,
            reason=one.reason,
            corrected_by=one.corrected_by,
            approved_by=one.approved_by,
            corrected_at=one.corrected_at,
        )


class ClearingLineView(BaseModel):
    """One resource in one month: closing = opening + gave - took; left = closing - settled, until a later month is."""

    resource: ResourceId
    opening: int = Field(description="what earlier months left", examples=[0])
    gave: int = Field(description="used here by the other factory's projects", examples=[0])
    took: int = Field(description="what own allocations paid for work at the other one", examples=[192_000])
    jobs: int = Field(examples=[1])
    closing: int = Field(description="above zero: due to this factory; below zero: owed by it", examples=[-192_000])
    settled: int = Field(examples=[-192_000])
    settled_with: date | None = Field(description="the later month that the rest was settled with", examples=[None])
    left: int = Field(examples=[0])


class ClearingMonthView(BaseModel):
    """A month between two factories, one line for each resource: unlike resources are never added up."""

    month: str = Field(examples=["2026-11"])
    factory_id: FactoryId
    other: FactoryId = Field(examples=["bsc-aif"])
    settled: bool = Field(description="nothing is left", examples=[True])
    lines: list[ClearingLineView]

    @classmethod
    def of(cls, month: str, own: FactoryId, other: FactoryId, lines: list[clearing.Line]) -> Self:
        """Show a month."""
        shown = [ClearingLineView(**vars(line), closing=line.closing, left=line.left) for line in lines]
        return cls(
            month=month, factory_id=own, other=other, settled=all(not line.left for line in lines), lines=shown
        )  # fmt: skip


class ClearingEntryView(BaseModel):
    """A job behind a month's statement, as both factories book it: each in its own resource."""

    settlement_id: str = Field(examples=["settle-0198c7d2"])
    side: Literal["home", "receiver"] = Field(description="whose project it was: home is this factory's own")
    agreement: str = Field(examples=["2026-7"])
    job_id: JobId
    resource: ResourceId
    amount: int = Field(examples=[192_000])
    other_resource: ResourceId
    other_amount: int = Field(examples=[256_000])
    booked_at: datetime

    @classmethod
    def of(cls, one: clearing.Entry) -> Self:
        """Show an entry."""
        values = {name: value for name, value in vars(one).items() if name not in ("id", "number")}
        return cls(settlement_id=one.id, **values)


class MonthSettlement(Words):
    """Why, and how the two factories make good what was left."""

    reason: Reason
