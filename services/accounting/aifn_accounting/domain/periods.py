"""Time on the books: which part of an amount belongs to which hour, day or month, and when a month may be closed."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import Literal, NamedTuple

from aifn_common.errors import Refusal
from aifn_events.vocabulary import AllocationId, ResourceId

Step = Literal["hour", "day", "month"]

_MICROSECOND = timedelta(microseconds=1)
_STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


class PeriodRefused(Refusal):
    """A month that cannot be closed; `month` says which."""

    def __init__(self, month: date, words: str) -> None:
        super().__init__(f"{name_of(month)} {words}")
        self.month = name_of(month)


class PeriodNotOver(PeriodRefused):
    """The month goes on, or has been over for too short a time."""

    code = "period_not_over"


class PeriodClosed(PeriodRefused):
    """The month is closed already."""

    code = "period_closed"


class EarlierPeriodOpen(PeriodRefused):
    """Months are closed one after the other."""

    code = "earlier_period_open"


class HoldsOpen(PeriodRefused):
    """Jobs still hold budget that was set aside in the month, so that more usage of it is to come."""

    code = "holds_open"

    def __init__(self, month: date, *, holds: int, first_job: str) -> None:
        super().__init__(
            month, f"has {holds} holds open, of {first_job} first: wait for their usage, or close it with `carry_holds`"
        )
        self.holds = holds
        self.first_job = first_job


class GapsOpen(PeriodRefused):
    """What arrived is not what sites say they have sent."""

    code = "gaps_open"

    def __init__(self, month: date, *, gaps: int) -> None:
        super().__init__(month, f"has {gaps} site-days with gaps: see them mended, or close it with `accept_gaps`")
        self.gaps = gaps


class Part(NamedTuple):
    """What falls into one hour, day or month, which begins at `since`."""

    since: datetime
    amount: int


class Total(NamedTuple):
    """What an allocation was charged in one month, and for how many records."""

    allocation_id: AllocationId
    resource: ResourceId
    amount: int
    records: int


@dataclass(frozen=True)
class OpenHolds:
    """Holds that were taken before a month's end and are not released: how many, how much, and one of the jobs."""

    count: int
    amount: int
    first_job: str


def month_of(moment: datetime) -> date:
    """The month a moment falls into, as its first day. UTC.

    >>> month_of(datetime(2026, 11, 30, 23, 59, tzinfo=UTC))
    datetime.date(2026, 11, 1)
    """
    return moment.astimezone(UTC).date().replace(day=1)


def next_month(month: date) -> date:
    """The month after."""
    return (month + timedelta(days=31)).replace(day=1)


def bounds(month: date) -> tuple[datetime, datetime]:
    """The first moment of a month, and the first after it."""
    after = next_month(month)
    return datetime(month.year, month.month, 1, tzinfo=UTC), datetime(after.year, after.month, 1, tzinfo=UTC)


def name_of(month: date) -> str:
    """A month as people write it, `2026-11`."""
    return f"{month:%Y-%m}"


def part_of(amount: int, started_at: datetime, ended_at: datetime, since: datetime, until: datetime) -> int:
    """The part of an amount that falls between two moments, by time; parts of bordering stretches sum to the whole.

    Each part is the difference of two running sums, and these are rounded down. What took no time falls where it
    happened. The database has the same rule as `usage_part`.

    >>> eleven = datetime(2026, 11, 30, 23, tzinfo=UTC)
    >>> midnight, one = eleven + timedelta(hours=1), eleven + timedelta(hours=2)
    >>> [part_of(7, eleven, one, eleven, midnight), part_of(7, eleven, one, midnight, one)]
    [3, 4]
    """
    if since <= started_at < until and ended_at <= until:
        return amount
    if ended_at <= since or started_at >= until:
        return 0
    whole = (ended_at - started_at) // _MICROSECOND
    first = (max(since, started_at) - started_at) // _MICROSECOND
    last = (min(until, ended_at) - started_at) // _MICROSECOND
    return amount * last // whole - amount * first // whole


def apportion(amount: int, started_at: datetime, ended_at: datetime, step: Step) -> list[Part]:
    """Divide an amount among the hours, days or months of the UTC calendar that a run crosses; the parts sum to it."""
    parts = []
    for since, until in _stretches(started_at, ended_at, step):
        parts.append(Part(since, part_of(amount, started_at, ended_at, since, until)))
    return parts


def _stretches(started_at: datetime, ended_at: datetime, step: Step) -> Iterator[tuple[datetime, datetime]]:
    start = started_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if step == "month":
        month = month_of(start)
        while True:
            since, until = bounds(month)
            yield since, until
            if until >= ended_at:
                return
            month = next_month(month)
    since = start if step == "hour" else start.replace(hour=0)
    while True:
        until = since + _STEPS[step]
        yield since, until
        if until >= ended_at:
            return
        since = until


def may_close(
    month: date,
    *,
    now: datetime,
    grace: timedelta,
    last_closed: date | None,
    first_used: date | None,
    holds: OpenHolds,
    gaps: int,
    carry_holds: bool,
    accept_gaps: bool,
) -> None:
    """Refuse to close a month before its time.

    Args:
        grace: how long after its end the month stays open, for what comes late.
        first_used: the first month with usage.
    Raises: PeriodClosed, PeriodNotOver, EarlierPeriodOpen, GapsOpen, HoldsOpen.
    """
    if last_closed is not None and month <= last_closed:
        raise PeriodClosed(month, "is closed: what comes late is entered in the open month, and linked to it")
    _, until = bounds(month)
    if now < until + grace:
        raise PeriodNotOver(month, f"may be closed from {(until + grace).isoformat()} on")
    earliest = next_month(last_closed) if last_closed is not None else first_used
    if earliest is not None and earliest < month:
        raise EarlierPeriodOpen(month, f"comes after {name_of(earliest)}, which is open")
    if gaps and not accept_gaps:
        raise GapsOpen(month, gaps=gaps)
    if holds.count and not carry_holds:
        raise HoldsOpen(month, holds=holds.count, first_job=holds.first_job)


def digest_of(totals: list[Total]) -> str:
    """Fingerprint of a month's totals, in any order.

    It is the SHA-256, in hex, of the sorted lines `allocation|resource|amount|records`, one newline after each.
    """
    lines = sorted(f"{one.allocation_id}|{one.resource}|{one.amount}|{one.records}\n" for one in totals)
    return sha256("".join(lines).encode()).hexdigest()
