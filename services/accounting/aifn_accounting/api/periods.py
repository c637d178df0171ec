"""Rate cards, accounting periods and gaps over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from aifn_common import clock
from aifn_common.errors import Invalid
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of
from aifn_events.vocabulary import MachineId, ResourceId
from fastapi import Depends, Path, Query

from aifn_accounting.actions import periods, rates
from aifn_accounting.period_views import (
    Closing,
    GapView,
    LinkedEntryView,
    MonthTotalView,
    PeriodCheckView,
    PeriodView,
    QuoteView,
    QuoteWords,
    RateCardView,
    RateCardWords,
    Wish,
    read_month,
)
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import completeness as completeness_store
from aifn_accounting.store import periods as store
from aifn_accounting.store import rates as rate_store

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]
MonthInPath = Annotated[str, Path(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", examples=["2026-10"])]

_BEGINNING = ("", datetime(1, 1, 1, tzinfo=UTC))


def _number(after: str | None) -> int:
    """The number in a cursor, 0 for none. Raises Invalid."""
    text = "0" if after is None else after
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return int(text)


def _card(after: str | None) -> tuple[str, datetime]:
    """The resource and moment in a cursor. Raises Invalid."""
    if after is None:
        return _BEGINNING
    resource, _, moment = after.partition("|")
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        raise Invalid("`after` is not a cursor that a page of this list gave") from None
    if found.tzinfo is None or "\0" in resource:
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return resource, found


# Rate cards


@router.get("/rate-cards", summary="How use is charged", tags=["rate cards"])
async def list_rate_cards(
    tx: Tx, who: Who, page: Paging, resource: Annotated[ResourceId | None, Query(description="only of this one")] = None
) -> Page[RateCardView]:
    """All versions, each with its source; the one in force is the last that has begun."""
    who.must("rate.read")
    found = await rate_store.list_cards(tx, resource=resource, after=_card(page.after), limit=page.limit + 1)
    shown = [RateCardView.of(one) for one in found]
    return make_page(shown, page.limit, lambda view: f"{view.resource}|{view.valid_from.isoformat()}")


@router.post("/rate-cards", status_code=201, summary="Publish the next version of a rate card", tags=["rate cards"])
async def publish_rate_card(words: RateCardWords, tx: Tx, who: Who, settings: Settings) -> RateCardView:
    """From a moment to come. A card that is published is never changed: what came late costs what it cost then."""
    who.must("rate.write", factory=settings.factory)
    published = await rates.publish(
        tx,
        card_id=words.id,
        resource=words.resource,
        numerator=words.numerator,
        denominator=words.denominator,
        valid_from=words.valid_from,
        rule=None if words.rule is None else words.rule.model_dump(),
        title=words.title,
        source=words.source,
        not_confirmed=tuple(words.not_confirmed),
        by=who.subject,
    )
    return RateCardView.of(published)


@router.post("/rate-cards/quote", summary="What a run would cost", tags=["rate cards"])
async def quote_rate(words: QuoteWords, tx: Tx, who: Who) -> QuoteView:
    """By the card in force when it ends; nothing is held or charged."""
    who.must("rate.read")
    units = await rate_store.units_of(tx, words.resource)
    slices = words.nodes * units.units_per_node if words.slices is None else words.slices
    quote = await rates.quote(tx, words.resource, Wish(words, clock.now()), slices * words.seconds)
    return QuoteView.of(words.resource, quote)


# Periods


@router.get("/periods", summary="The months of the books", tags=["periods"])
async def list_periods(tx: Tx, who: Who, page: Paging, settings: Settings) -> Page[PeriodView]:
    """From the first with usage to the present one, oldest first."""
    who.must("period.read", factory=settings.factory)
    months = [PeriodView.of(one) for one in await periods.list_months(tx)]
    found = [one for one in months if page.after is None or one.month > page.after]
    return make_page(found[: page.limit + 1], page.limit, lambda view: view.month)


@router.post("/periods/{month}/close", summary="Close a month", tags=["periods"])
async def close_period(month: MonthInPath, words: Closing, tx: Tx, who: Who, settings: Settings) -> PeriodView:
    """Its totals are frozen. What is heard of it later is entered into an open month, linked to the record it corrects.

    Refused while holds of it are open or site-days have gaps, unless the words say to go on.
    """
    who.must("period.close", factory=settings.factory)
    period = await periods.close_period(
        tx,
        read_month(month),
        carry_holds=words.carry_holds,
        accept_gaps=words.accept_gaps,
        grace=timedelta(hours=settings.period_grace_hours),
        reason=words.reason,
        by=who.subject,
    )
    records, entries = (await store.sums(tx)).get(period.month, (0, 0))
    return PeriodView.of(periods.Month(period.month, period, records, entries))


@router.get("/periods/{month}/totals", summary="What belongs to a month", tags=["periods"])
async def list_period_totals(
    month: MonthInPath, tx: Tx, who: Who, page: Paging, settings: Settings
) -> Page[MonthTotalView]:
    """By allocation. Of a closed month as it was frozen; of an open one as it is known now. Runs that cross its ends
    are divided by seconds, so that the months sum to the whole."""
    who.must("period.read", factory=settings.factory)
    after = _number(page.after)
    _, totals = await periods.month_totals(tx, read_month(month))
    found = [one for one in totals if one.allocation_number > after][: page.limit + 1]
    shown = make_page(found, page.limit, lambda one: str(one.allocation_number))
    return Page(items=[MonthTotalView.of(one) for one in shown.items], next=shown.next)


@router.get("/periods/{month}/entries", summary="What was entered into a month after its closing", tags=["periods"])
async def list_period_entries(
    month: MonthInPath,
    tx: Tx,
    who: Who,
    page: Paging,
    settings: Settings,
    by: Annotated[str, Query(pattern="^(month|recorded_in)$", description="recorded_in: on whose statement")] = "month",
) -> Page[LinkedEntryView]:
    """Oldest first. With `by=recorded_in`: the entries of earlier months that stand on the statement of this one."""
    who.must("period.read", factory=settings.factory)
    meant = read_month(month)
    found = await store.list_entries(
        tx,
        month=meant if by == "month" else None,
        recorded_in=meant if by == "recorded_in" else None,
        after=_number(page.after),
        limit=page.limit + 1,
    )
    return make_page([LinkedEntryView.of(one) for one in found], page.limit, lambda view: str(view.entry))


@router.get("/periods/{month}/verify", summary="Whether a closed month and its entries hold", tags=["periods"])
async def verify_period(
    month: MonthInPath, tx: Tx, who: Who, page: Paging, settings: Settings
) -> Page[PeriodCheckView]:
    """Counts the month anew from its usage records; it reads all of them. By allocation."""
    who.must("ledger.verify", factory=settings.factory)
    after = _number(page.after)
    checked = await periods.verify_period(tx, read_month(month))
    found = [one for one in checked if one.total.allocation_number > after][: page.limit + 1]
    shown = make_page(found, page.limit, lambda one: str(one.total.allocation_number))
    return Page(items=[PeriodCheckView.of(one) for one in shown.items], next=shown.next)


# Gaps


@router.get("/gaps", summary="Days on which usage is missing or too much", tags=["usage"])
async def list_gaps(
    tx: Tx,
    who: Who,
    page: Paging,
    settings: Settings,
    machine: Annotated[MachineId | None, Query(description="only of this site")] = None,
    only_open: Annotated[bool, Query(description="leave out those that were mended")] = False,
) -> Page[GapView]:
    """In the order in which they were found; a gap closes when the day matches its site's statement again."""
    who.must("completeness.read", factory=settings.factory)
    found = await completeness_store.list_gaps(
        tx, machine_id=machine, only_open=only_open, after=_number(page.after), limit=page.limit + 1
    )
    return make_page([GapView.of(one) for one in found], page.limit, lambda view: str(view.gap))
