"""Whether what arrived of a site's day is what the site says it has sent, and in which way it is not."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from aifn_common.errors import Invalid
from aifn_events.vocabulary import MachineId

CLOCK_TOLERANCE = timedelta(days=1)
"""A site's clock may be so far ahead of ours."""

Reason = Literal["records_missing", "records_unstated", "records_differ", "amounts_differ", "no_statement", "overlap"]


class StatedAhead(Invalid):
    """A statement is about a day that has not begun."""

    code = "from_the_future"

    def __init__(self, day: date, now: datetime) -> None:
        super().__init__(f"{day.isoformat()} is stated, and now it is {now.isoformat()}")
        self.day = day.isoformat()


@dataclass(frozen=True)
class SiteDay:
    """A day of a site: what it says, None if it says nothing, and what arrived. Amounts by resource.

    `overlapping` counts segments of one job that ran at the same time as another of its segments.
    """

    machine_id: MachineId
    day: date
    revision: int | None
    stated_records: int | None
    stated_digest: str | None
    stated_amounts: dict[str, int]
    records: int
    digest: str
    amounts: dict[str, int]
    overlapping: int


def check_day(day: date, now: datetime) -> None:
    """Refuse a statement about a day that lies ahead. Raises StatedAhead."""
    if day > (now + CLOCK_TOLERANCE).date():
        raise StatedAhead(day, now)


def gap_of(one: SiteDay) -> Reason | None:
    """In which way a day does not match; None if it does.

    Overlapping segments are charged like all others, since refusing the second would make the balance depend on which
    of them came first. They are shown here until the site corrects one.
    """
    if one.revision is None:
        return "no_statement"
    if one.stated_records is not None and one.records != one.stated_records:
        return "records_missing" if one.records < one.stated_records else "records_unstated"
    if one.digest != one.stated_digest:
        return "records_differ"
    if one.amounts != one.stated_amounts:
        return "amounts_differ"
    return "overlap" if one.overlapping else None
