"""Accounting periods: closed once, and changed afterwards by linked entries only."""

from dataclasses import dataclass
from datetime import date, timedelta

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import NotFound
from aifn_common.outbox import announce
from aifn_events.usage import PeriodClosed as PeriodClosedEvent
from aifn_events.vocabulary import Subject

from aifn_accounting.domain.periods import bounds, digest_of, may_close, month_of, name_of, next_month
from aifn_accounting.store import completeness as completeness_store
from aifn_accounting.store import order
from aifn_accounting.store import periods as store
from aifn_accounting.store import usage as usage_store

_MOST_MONTHS = 1200


@dataclass(frozen=True)
class Month:
    """A month of the books; `period` is None while it is open."""

    month: date
    period: store.Period | None
    records: int
    entries: int


@dataclass(frozen=True)
class Verified:
    """One allocation's month, known in two ways: frozen and entered since, and counted anew from the records."""

    total: store.MonthTotal
    entered: int
    counted: int


async def close_period(
    tx: Transaction,
    month: date,
    *,
    carry_holds: bool,
    accept_gaps: bool,
    grace: timedelta,
    reason: str,
    by: Subject,
) -> store.Period:
    """Freeze what is known of a month. Whatever is heard of it later is entered into the open month, linked to it.

    What is heard after the last record that the totals know counts as late.

    Raises: PeriodClosed, PeriodNotOver, EarlierPeriodOpen, GapsOpen, HoldsOpen.
    """
    # Nothing is charged meanwhile, so that what waits for its charge is either in the totals or entered later.
    await order.lock_usage(tx)
    await store.lock_periods(tx)
    now = clock.now()
    since, until = bounds(month)
    holds = await store.open_holds(tx, until)
    gaps = await store.count_open_gaps(tx, since.date(), until.date())
    may_close(
        month,
        now=now,
        grace=grace,
        last_closed=await store.last_closed(tx),
        first_used=await store.first_used(tx),
        holds=holds,
        gaps=gaps,
        carry_holds=carry_holds,
        accept_gaps=accept_gaps,
    )
    last_number = await usage_store.last_number(tx)
    # Months that are closed already hear first of what this one knows.
    await post_late_entries(tx, last_number)
    rows = await store.totals(tx, month, last_number)
    digest = digest_of([one.as_total() for one in rows])
    period = store.Period(month, now, by, reason, last_number, holds.count, holds.amount, gaps, digest)
    await store.add_period(tx, period, rows)
    await announce(
        tx,
        PeriodClosedEvent(
            month=name_of(month),
            closed_at=now,
            allocations=len(rows),
            records=sum(one.records for one in rows),
            digest=digest,
        ),
    )
    return period


async def post_late_entries(tx: Transaction, up_to: int) -> None:
    """Enter what records up to a number change in closed months, and see that their days are compared."""
    after = await completeness_store.take_watched(tx)
    await store.post_entries(tx, after, up_to, clock.now())


async def list_months(tx: Transaction) -> list[Month]:
    """All months from the first with usage to the present one, oldest first."""
    closed = {one.month: one for one in await store.list_closed(tx)}
    sums = await store.sums(tx)
    first = min([*closed, await store.first_used(tx) or month_of(clock.now())])
    months: list[Month] = []
    while first <= month_of(clock.now()) and len(months) < _MOST_MONTHS:
        months.append(Month(first, closed.get(first), *sums.get(first, (0, 0))))
        first = next_month(first)
    return months


async def month_totals(tx: Transaction, month: date) -> tuple[store.Period | None, list[store.MonthTotal]]:
    """What belongs to a month by allocation: as it was frozen, or as it is known now while the month is open."""
    period = await store.find_closed(tx, month)
    if period is not None:
        return period, await store.frozen_totals(tx, month)
    return None, await store.totals(tx, month, await usage_store.last_number(tx))


async def verify_period(tx: Transaction, month: date) -> list[Verified]:
    """Compare a closed month and its entries with its records, counted anew. Raises NotFound."""
    if await store.find_closed(tx, month) is None:
        raise NotFound(f"{name_of(month)} is not closed")
    frozen = {one.allocation_number: one for one in await store.frozen_totals(tx, month)}
    # What was heard a moment ago has no entries yet: it is left out on both sides.
    seen = await store.entered_up_to(tx)
    counted = {one.allocation_number: one for one in await store.totals(tx, month, seen)}
    changes = await store.changes(tx, month)
    found = []
    for number in sorted(frozen.keys() | counted.keys()):
        total = frozen.get(number)
        now = counted.get(number)
        if total is None and now is not None:
            total = store.MonthTotal(number, now.allocation_id, now.resource, 0, 0)
        if total is not None:
            found.append(Verified(total, changes.get(number, 0), now.amount if now else 0))
    return found
