"""Answers over HTTP on jobs between factories: what was agreed, and how far each hand-over is."""

from datetime import datetime
from typing import Annotated, Self

from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router
from aifn_events.vocabulary import FactoryId, Moment, PartitionId, ProjectId, ResourceId, Slug
from fastapi import Response
from pydantic import BaseModel, Field, model_validator

from aifn_scheduler.actions import handover as actions
from aifn_scheduler.api.shapes import Body, Settings, plain_in
from aifn_scheduler.domain.exchange import Agreement
from aifn_scheduler.domain.handover import State
from aifn_scheduler.store import handover as store
from aifn_scheduler.store.handover import Kept

router = make_router()
RatePart = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class AgreementBody(Body):
    """A dated agreement on exchanging hours; both factories enter the same words."""

    agreement_id: Slug = Field(examples=["lumi-bsc-2026"])
    home: FactoryId = Field(description="who may send work", examples=["lumi-aif"])
    receiver: FactoryId = Field(description="who runs it", examples=["bsc-aif"])
    home_resource: ResourceId = Field(description="what pays", examples=["lumi/lumi-g/gpu-time"])
    resource: ResourceId = Field(description="what is used", examples=["marenostrum5/mn5-acc/gpu-time"])
    numerator: RatePart = Field(
        description="one unit used costs numerator / denominator of `home_resource`", examples=[4]
    )
    denominator: RatePart = Field(examples=[5])
    guest_project: ProjectId | None = Field(
        default=None, description="in which the receiver runs guests", examples=["guests-of-lumi"]
    )
    pool_id: Slug | None = Field(default=None, description="the receiver's pool that gives", examples=["union-2026"])
    starts_at: Moment = Field(examples=["2026-01-01T00:00:00Z"])
    ends_at: Moment = Field(examples=["2027-01-01T00:00:00Z"])

    @model_validator(mode="after")
    def _between_two(self) -> Self:
        if self.home == self.receiver:
            raise ValueError("home and receiver are two factories")
        if self.ends_at <= self.starts_at:
            raise ValueError("ends_at comes after starts_at")
        return self


class AgreementView(AgreementBody):
    """An agreement as it is kept."""

    agreed_by: str = Field(description="who entered it", examples=["7c1d@myaccessid"])

    @classmethod
    def of(cls, one: Agreement) -> Self:
        return cls(**{name: getattr(one, name) for name in cls.model_fields})


class HandoverView(BaseModel):
    """One hand-over as this factory knows it. Amounts are slice-seconds of `resource`."""

    handover_id: Slug = Field(examples=["lumi-aif-0198c7d2-h0"])
    side: str = Field(description="home or receiver", examples=["home"])
    home: FactoryId = Field(examples=["lumi-aif"])
    receiver: FactoryId = Field(examples=["bsc-aif"])
    agreement_id: Slug | None = Field(description="under which hours are exchanged", examples=["lumi-bsc-2026"])
    award_id: Slug | None = Field(description="or the project's award that names both", examples=[None])
    job_id: Slug = Field(examples=["lumi-aif-0198c7d2"])
    partition_id: PartitionId = Field(examples=["mn5-acc"])
    resource: ResourceId = Field(examples=["marenostrum5/mn5-acc/gpu-time"])
    held: int = Field(examples=[288_000])
    used: int | None = Field(examples=[240_000])
    state: State = Field(examples=["finished"])
    answer_by: datetime
    end_by: datetime

    @classmethod
    def of(cls, kept: Kept) -> Self:
        h = kept.handover
        return cls(
            handover_id=h.id,
            side=kept.side,
            home=kept.home,
            receiver=kept.receiver,
            agreement_id=kept.agreement_id,
            award_id=kept.award_id,
            job_id=kept.job_id,
            partition_id=kept.partition_id,
            resource=kept.resource,
            held=h.held,
            used=h.used,
            state=h.state,
            answer_by=h.answer_by,
            end_by=h.end_by,
        )


@router.post("/exchange-agreements", status_code=201, summary="Enter an exchange agreement", tags=["hand-over"])
async def add_agreement(body: AgreementBody, tx: Tx, who: Who, settings: Settings, response: Response) -> AgreementView:
    """Never changed afterwards: another one, with another name, takes its place."""
    who.must("agreement.write", factory=settings.factory)
    agreement = Agreement(**body.model_dump(), agreed_by=who.subject)
    await actions.agree(tx, agreement, settings.factory)
    response.headers["location"] = f"/v1/exchange-agreements?after={body.agreement_id}"
    return AgreementView.of(agreement)


@router.get("/exchange-agreements", summary="Agreements on exchanging hours", tags=["hand-over"])
async def list_agreements(tx: Tx, who: Who, settings: Settings, page: Paging) -> Page[AgreementView]:
    who.must("agreement.read", factory=settings.factory)
    found = await store.list_agreements(tx, plain_in(page.after or ""), page.limit + 1)
    return make_page([AgreementView.of(one) for one in found], page.limit, lambda view: view.agreement_id)


@router.get("/handovers", summary="Jobs that go to other factories, and guests", tags=["hand-over"])
async def list_handovers(tx: Tx, who: Who, settings: Settings, page: Paging) -> Page[HandoverView]:
    who.must("agreement.read", factory=settings.factory)
    found = await store.list_handovers(tx, plain_in(page.after or ""), page.limit + 1)
    return make_page([HandoverView.of(one) for one in found], page.limit, lambda view: view.handover_id)
