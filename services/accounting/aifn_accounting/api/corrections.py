"""What accounting answers on what people correct by hand, and on months settled between two factories."""

from typing import Annotated

from aifn_common.cursors import number_in
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of
from aifn_events.vocabulary import AllocationId, FactoryId, ProjectId
from fastapi import Depends, Path, Query, Response

from aifn_accounting.actions import approvals, clearing, corrections
from aifn_accounting.api.periods import MonthInPath
from aifn_accounting.domain.periods import bounds
from aifn_accounting.hand_views import (
    ClearingEntryView,
    ClearingMonthView,
    CorrectionView,
    CorrectionWords,
    MonthSettlement,
)
from aifn_accounting.people_views import ApprovalView
from aifn_accounting.period_views import read_month
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import allocations
from aifn_accounting.store import clearing as clearing_store
from aifn_accounting.store import corrections as store

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]
OtherFactory = Annotated[FactoryId, Path(examples=["bsc-aif"])]


@router.post(
    "/allocations/{allocation_id}/corrections",
    status_code=201,
    summary="Correct a charge by hand",
    tags=["corrections"],
    responses={202: {"model": ApprovalView, "description": "it waits for a second person"}},
)
async def correct(
    allocation_id: AllocationId, words: CorrectionWords, tx: Tx, who: Who, response: Response, settings: Settings
) -> CorrectionView | ApprovalView:
    """Gives back what a charge should not have cost, once at most; the record and its charge stay as they are.

    Name a correction's own line to take it back again. What was used otherwise than reported is not corrected here: its
    site sends a higher revision. Send an Idempotency-Key. A large one waits for a second person.
    """
    terms = await allocations.get_terms(tx, allocation_id)
    who.must("correction.write", factory=terms.factory_id)
    await corrections.check(tx, terms, words.transfer_id, words.amount)
    if await corrections.needs_approval(tx, terms, words.amount, settings.second_person_above):
        asked = await approvals.ask(
            tx,
            what="correction",
            factory_id=terms.factory_id,
            project_id=terms.project_id,
            permission="correction.write",
            words=words.model_dump(mode="json"),
            amount=words.amount,
            by=who.subject,
            allocation_id=allocation_id,
        )
        response.status_code = 202
        return ApprovalView.of(asked)
    made = await corrections.correct(
        tx, allocation_id, words.transfer_id, words.amount, by=who.subject, reason=words.reason
    )
    return CorrectionView.of(made)


@router.get("/corrections", summary="What was corrected by hand", tags=["corrections"])
async def list_corrections(
    tx: Tx,
    who: Who,
    page: Paging,
    allocation_id: Annotated[AllocationId | None, Query(description="only of this allocation")] = None,
    project: Annotated[ProjectId | None, Query(description="only of this project")] = None,
) -> Page[CorrectionView]:
    """In the order in which it was done."""
    scope = who.scope("allocation.read")
    found = await store.list_corrections(
        tx,
        everything=scope.everything,
        projects=scope.projects,
        factories=scope.factories,
        allocation_id=allocation_id,
        project_id=project,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, lambda one: str(one.number))
    return Page(items=[CorrectionView.of(one) for one in shown.items], next=shown.next)


@router.get("/clearing/{other}/months/{month}", summary="A month between two factories", tags=["clearing"])
async def get_clearing_month(
    other: OtherFactory, month: MonthInPath, tx: Tx, who: Who, settings: Settings
) -> ClearingMonthView:
    """What stood at its beginning, what each gave the other, what that comes to, and what of it was settled."""
    who.must("clearing.read", factory=settings.factory)
    lines = await clearing.statement(tx, settings.factory, other, read_month(month))
    return ClearingMonthView.of(month, settings.factory, other, lines)


@router.get("/clearing/{other}/months/{month}/entries", summary="The jobs behind such a month", tags=["clearing"])
async def list_clearing_entries(
    other: OtherFactory, month: MonthInPath, tx: Tx, who: Who, page: Paging, settings: Settings
) -> Page[ClearingEntryView]:
    """In the order in which they were booked here."""
    who.must("clearing.read", factory=settings.factory)
    begins, ends = bounds(read_month(month))
    found = await clearing_store.entries(
        tx,
        clearing.account_between(settings.factory, other),
        begins=begins,
        ends=ends,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, lambda one: str(one.number))
    return Page(items=[ClearingEntryView.of(one) for one in shown.items], next=shown.next)


@router.post("/clearing/{other}/months/{month}/settlement", summary="Settle such a month", tags=["clearing"])
async def settle_clearing_month(
    other: OtherFactory, month: MonthInPath, words: MonthSettlement, tx: Tx, who: Who, settings: Settings
) -> ClearingMonthView:
    """Brings what stood at its end to exactly zero, for each resource; once, and not before the month is over."""
    who.must("clearing.settle", factory=settings.factory)
    lines = await clearing.settle_month(
        tx, settings.factory, other, read_month(month), by=who.subject, reason=words.reason
    )
    return ClearingMonthView.of(month, settings.factory, other, lines)
