"""Reports: from a sum to its jobs and back, a month of the books, how a budget burns down, and the public register."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, get_args

from aifn_common import clock
from aifn_common.errors import Invalid, NotFound
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router
from aifn_events.vocabulary import AllocationId, JobId
from fastapi import Path, Query

from aifn_accounting.domain.forecast import foresee
from aifn_accounting.report_views import (
    ActorView,
    BurnView,
    MonthView,
    RegisteredAwardView,
    SumView,
    TraceView,
    UsageReportView,
)
from aifn_accounting.store import reads, reports
from aifn_accounting.store.reports import Dimension, Reach

router = make_router()
LONGEST_REPORT_DAYS = 366 * 3
MOST_DAYS = 366 * 6
Month = Annotated[
    str, Path(pattern=r"^20\d\d-(0[1-9]|1[0-2])$", description="of the UTC calendar", examples=["2026-11"])
]


def month_of(text: str) -> tuple[datetime, datetime]:
    """A month's first moment, and the next month's."""
    first = datetime(int(text[:4]), int(text[5:7]), 1, tzinfo=UTC)
    return first, (first + timedelta(days=32)).replace(day=1)


def stretch(since: date | None, until: date | None) -> tuple[datetime, datetime]:
    """Two days as moments; the present month where nothing is said. Raises Invalid."""
    today = clock.now().date()
    first = since or today.replace(day=1)
    last = until or (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    if not first < last:
        raise Invalid("`until` is the day after the last and must be later than `since`")
    if (last - first).days > LONGEST_REPORT_DAYS:
        raise Invalid(f"a report is over at most {LONGEST_REPORT_DAYS} days")
    return datetime.combine(first, datetime.min.time(), UTC), datetime.combine(last, datetime.min.time(), UTC)


@router.get("/reports/usage", summary="Sums of what was used, and what is behind them", tags=["reports"])
async def report_usage(
    tx: Tx,
    who: Who,
    page: Paging,
    by: Annotated[Dimension, Query(description="what to sum by", examples=["pool"])] = "project",
    since: Annotated[date | None, Query(description="first day, UTC; none: this month")] = None,
    until: Annotated[date | None, Query(description="day after the last; none: the end of this month")] = None,
    only: Annotated[
        list[str] | None, Query(max_length=13, description="filters, each `dimension:value`, e.g. pool:union")
    ] = None,
) -> UsageReportView:
    """For those who pay, for a factory, and for a project's members; what each sees is theirs.

    Each key of an answer is a filter for the next question: pool, then authority, mode, project, allocation, job. The
    lines of all pages sum to `total`, and a run that crosses midnight of a border is divided by its seconds.
    """
    scope = who.scope("report.read")
    reach = Reach(scope.everything, scope.projects, scope.factories)
    filters = _filters(only or [])
    first, last = stretch(since, until)
    found = await reports.sum_usage(
        tx,
        reach,
        by=by,
        only=filters,
        since=first,
        until=last,
        after=None if page.after is None else _two(page.after),
        limit=page.limit + 1,
    )
    total = await reports.sum_usage(tx, reach, by=None, only=filters, since=first, until=last)
    known = await reports.countings(tx, sorted({one.resource for one in (*found, *total)}))
    shown = make_page(found, page.limit, lambda one: f"{one.key}\n{one.resource}")
    return UsageReportView(
        by=by,
        since=first.date(),
        until=last.date(),
        only=dict(filters),
        total=[SumView.of(one, known) for one in total],
        items=[SumView.of(one, known) for one in shown.items],
        next=shown.next,
    )


def _filters(words: list[str]) -> dict[Dimension, str]:
    found: dict[Dimension, str] = {}
    for word in words:
        name, colon, value = word.partition(":")
        if name not in get_args(Dimension) or not colon or "\0" in value or len(value) > 300:
            raise Invalid(
                f"{word[:100]!r} is no filter: write dimension:value, with one of {', '.join(get_args(Dimension))}"
            )
        if name in found:
            raise Invalid(f"two filters for {name}")
        found[name] = value  # type: ignore[index]  # it is one of them
    return found


def _two(cursor: str) -> tuple[str, str]:
    key, line, resource = cursor.rpartition("\n")
    if not line or "\0" in cursor:
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return key, resource


@router.get("/jobs/{job_id}/trace", summary="From a job to every sum it is part of", tags=["reports"])
async def trace_job(job_id: JobId, tx: Tx, who: Who) -> TraceView:
    """All revisions of its records: whose award, which pool, which rate card, and the lines of the ledger."""
    scope = who.scope("report.read")
    found = [
        one
        for one in await reports.trace(tx, job_id)
        if scope.everything or one.project_id in scope.projects or one.factory_id in scope.factories
    ]
    if not found:
        raise NotFound(f"nothing that you may see was ever charged for a job {job_id}")
    return TraceView.of(job_id, found)


@router.get("/allocations/{allocation_id}/months/{month}", summary="A month of an allocation's books", tags=["reports"])
async def get_month(allocation_id: AllocationId, month: Month, tx: Tx, who: Who) -> MonthView:
    """By the moment of recording, as an auditor reads: what was recorded in a month never changes afterwards."""
    one = await reads.get_standing(tx, allocation_id)
    who.must("allocation.read", project=one.project_id, factory=one.factory_id)
    return MonthView.of(one, month, await reports.movements(tx, one.number, *month_of(month)))


@router.get("/allocations/{allocation_id}/burn", summary="How an allocation burns down", tags=["reports"])
async def get_burn(allocation_id: AllocationId, tx: Tx, who: Who) -> BurnView:
    """Day by day when things ran, and a forecast with its band until the allocation ends."""
    one = await reads.get_standing(tx, allocation_id)
    who.must("allocation.read", project=one.project_id, factory=one.factory_id)
    used = await reports.daily_use(tx, one.number)
    today = clock.now().date()
    begin = max(min([one.starts_at.date(), *used]), today - timedelta(days=MOST_DAYS))
    # A site's clock may be ahead of ours, so there may be usage of tomorrow.
    end = max([min(one.ends_at.date(), today), *used])
    days = [(day, used.get(day, 0)) for day in (begin + timedelta(days=n) for n in range((end - begin).days + 1))]
    whole = [amount for day, amount in days if one.starts_at.date() <= day < min(today, one.ends_at.date())]
    horizon = (one.ends_at.date() - today).days
    forecast = foresee(whole, one.granted - one.charged, horizon) if horizon > 0 else None
    before = sum(amount for day, amount in used.items() if day < begin)
    return BurnView.of(one, days, forecast, before=before, today=today)


@router.get("/register/awards", summary="Public register: every award, no person", tags=["register"])
async def list_registered_awards(tx: Tx, who: Who, page: Paging) -> Page[RegisteredAwardView]:
    """What was given, to which kind of actor, by whom, under which rules, and what of it was used."""
    who.scope("register.read")
    found = make_page(
        await reports.registered_awards(tx, after=page.after, limit=page.limit + 1),
        page.limit,
        lambda one: one.award_id,
    )
    amounts = await reports.awarded(tx, [one.award_id for one in found.items])
    known = await reports.countings(tx, sorted({one.resource for one in amounts}))
    return Page(items=[RegisteredAwardView.of(one, amounts, known) for one in found.items], next=found.next)


@router.get("/register/actors", summary="Public register: hours by kind of actor", tags=["register"])
async def list_actors(tx: Tx, who: Who, page: Paging) -> Page[ActorView]:
    """Sums over all awards."""
    who.scope("register.read")
    found = sorted(await reports.sum_by_actor(tx), key=lambda one: f"{one.actor}\n{one.resource}")
    known = await reports.countings(tx, sorted({one.resource for one in found}))
    place = page.after or ""
    rest = [one for one in found if f"{one.actor}\n{one.resource}" > place]
    shown = make_page(rest[: page.limit + 1], page.limit, lambda one: f"{one.actor}\n{one.resource}")
    return Page(items=[ActorView.of(one, known) for one in shown.items], next=shown.next)
