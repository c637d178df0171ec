"""What becomes of an allocation by rule: what is lost unused, how it may be extended, when people are told. Pure."""

from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import MAXYEAR, date, datetime
from typing import Literal, NamedTuple

from aifn_common.errors import Refusal
from aifn_events.vocabulary import AllocationId, Subject

from aifn_accounting.domain.ledger import Balance

Percent = Literal[50, 80, 100]
THRESHOLDS: tuple[Percent, ...] = (50, 80, 100)
INFERENCE_WARNING: Percent = 80


class ExtendedBefore(Refusal):
    """A mode lets an award be extended so many times, and it was."""

    code = "extended_before"


class ExtensionTooLong(Refusal):
    """A mode lets an award be extended by so many months."""

    code = "extension_too_long"

    def __init__(self, allocation_id: AllocationId, *, latest: datetime, source: str) -> None:
        super().__init__(f"{allocation_id} may be extended until {latest.isoformat()} at most ({source})")
        self.latest = latest.isoformat()


class ExtensionTooLarge(Refusal):
    """A mode lets an award grow by so many percent of what was granted first."""

    code = "extension_too_large"

    def __init__(self, allocation_id: AllocationId, *, asked: int, most: int, source: str) -> None:
        super().__init__(f"{allocation_id} may grow by {most} at most, {asked} were asked for ({source})")
        self.asked = asked
        self.most = most


class NoExtension(Refusal):
    """The allocation stands under a policy that grants none."""

    code = "no_extension"

    def __init__(self, allocation_id: AllocationId, policy: str) -> None:
        super().__init__(f"{allocation_id} stands under {policy}, which grants no extension")
        self.policy = policy


class ContractTooShort(Refusal):
    """The principal investigator's contract does not outlive the allocation by as much as it must."""

    code = "contract_too_short"

    def __init__(self, subject: Subject, *, ends_on: date, needed: date) -> None:
        super().__init__(f"the contract of {subject} ends on {ends_on}, and must run until {needed} at least")
        self.ends_on = ends_on.isoformat()
        self.needed = needed.isoformat()


class InferenceCapReached(Refusal):
    """The part of an award that may go into inference is used up."""

    code = "inference_cap_reached"

    def __init__(self, allocation_id: AllocationId, *, asked: int, available: int) -> None:
        super().__init__(f"{allocation_id} was asked for {asked} for inference, {available} left of that part")
        self.asked = asked
        self.available = available


@dataclass(frozen=True)
class UseOrLose:
    """A host's rule on hours that are not used in time; the parameters that a kind does not need are None.

    `cut_below`: after `after_months`, if less than `used_pct` was used, what should have been used by then and was not
    is taken. `window`: at the end of every `window_months`, what was not used of the quota of its first month is taken.
    `monthly_quota`: nothing is taken; what is used beyond the month's quota has lower priority.
    """

    id: str
    kind: Literal["cut_below", "window", "monthly_quota"]
    title: str
    after_months: int | None
    used_pct: int | None
    window_months: int | None
    extensions: bool
    returns_to_pool: bool
    not_confirmed: Sequence[str]
    source: Sequence[str]
    confidence: str


@dataclass(frozen=True)
class ExtensionRule:
    """How an award of a mode may be extended; None: the sources name no bound."""

    mode: str
    times: int | None
    months: int | None
    amount_pct: int | None
    source: Sequence[str]


class Cut(NamedTuple):
    """A step of a policy that is due, and how much it takes; it may be nothing."""

    step: str
    amount: int


class Quota(NamedTuple):
    """What one month of an allocation was meant for, and what it took."""

    month: int
    quota: int
    used: int

    @property
    def over(self) -> int:
        """What was used beyond it, and so has lower priority."""
        return max(self.used - self.quota, 0)


def add_months(moment: datetime, months: int) -> datetime:
    """The same day of a later month, or its last day.

    >>> add_months(datetime(2026, 11, 30), 3).date().isoformat()
    '2027-02-28'
    """
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    if year > MAXYEAR:  # later than any calendar of ours
        return moment.replace(year=MAXYEAR, month=12, day=31)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, monthrange(year, month + 1)[1]))


def month_starts(starts_at: datetime, ends_at: datetime) -> list[datetime]:
    """When each month of an allocation begins; the last one may be short."""
    found = [starts_at]
    while found[-1] < (following := add_months(starts_at, len(found))) < ends_at:
        found.append(following)
    return found


def quotas(granted: int, months: int) -> list[int]:
    """An amount in as equal parts as whole units allow; they sum to it.

    >>> quotas(10, 4)
    [2, 3, 2, 3]
    """
    return [granted * (month + 1) // months - granted * month // months for month in range(months)]


def due_cuts(
    policy: UseOrLose,
    *,
    starts_at: datetime,
    ends_at: datetime,
    granted: int,
    used_by_month: Mapping[int, int],
    now: datetime,
    done: Set[str],
) -> list[Cut]:
    """The steps whose time has come and that were not taken yet.

    Args:
        granted: in all, before anything was taken.
        used_by_month: what was charged, by month of the allocation; month 0 is the first.
        done: steps that were taken.
    """
    starts = month_starts(starts_at, ends_at)
    return [
        cut
        for at, cut in _steps(policy, starts, granted, used_by_month)
        if at <= min(now, ends_at) and cut.step not in done
    ]


def _steps(
    policy: UseOrLose, starts: Sequence[datetime], granted: int, used: Mapping[int, int]
) -> Iterator[tuple[datetime, Cut]]:
    parts = quotas(granted, len(starts))
    if policy.kind == "cut_below" and policy.after_months is not None and policy.used_pct is not None:
        spent = sum(amount for month, amount in used.items() if month < policy.after_months)
        lapsed = sum(parts[: policy.after_months]) - spent
        low = spent * 100 < granted * policy.used_pct
        yield (
            add_months(starts[0], policy.after_months),
            Cut(f"after-{policy.after_months}-months", max(lapsed, 0) if low else 0),
        )
    if policy.kind == "window" and policy.window_months is not None:
        for first in range(0, len(starts) - policy.window_months + 1, policy.window_months):
            unused = max(parts[first] - used.get(first, 0), 0)
            yield add_months(starts[0], first + policy.window_months), Cut(f"window-from-month-{first}", unused)


def quota_now(
    *, starts_at: datetime, ends_at: datetime, granted: int, used_by_month: Mapping[int, int], now: datetime
) -> Quota | None:
    """What the present month of an allocation is meant for and has taken; None before it begins or after it ends."""
    if not starts_at <= now < ends_at:
        return None
    starts = month_starts(starts_at, ends_at)
    month = max(number for number, start in enumerate(starts) if start <= now)
    return Quota(month, quotas(granted, len(starts))[month], used_by_month.get(month, 0))


def check_extension(
    allocation_id: AllocationId,
    rule: ExtensionRule | None,
    policy: UseOrLose | None,
    *,
    extended: int,
    first_ends_at: datetime,
    ends_at: datetime,
) -> None:
    """Whether an allocation may end so late. Without a rule (a host's own grant) it may.

    Raises: NoExtension, ExtendedBefore, ExtensionTooLong.
    """
    if policy is not None and not policy.extensions:
        raise NoExtension(allocation_id, policy.id)
    if rule is None:
        return
    source = "; ".join(rule.source)
    if rule.times is not None and extended >= rule.times:
        raise ExtendedBefore(
            f"{allocation_id} was extended before, and {rule.mode} lets that be {rule.times}x ({source})"
        )
    if rule.months is not None and ends_at > (latest := add_months(first_ends_at, rule.months)):
        raise ExtensionTooLong(allocation_id, latest=latest, source=source)


def check_growth(
    allocation_id: AllocationId,
    rule: ExtensionRule | None,
    policy: UseOrLose | None,
    *,
    first: int,
    granted: int,
    more: int,
) -> None:
    """Whether an allocation may grow by so much, all growth counted. Raises: NoExtension, ExtensionTooLarge."""
    if policy is not None and not policy.extensions:
        raise NoExtension(allocation_id, policy.id)
    if rule is None or rule.amount_pct is None:
        return
    most = max(first * rule.amount_pct // 100 - max(granted - first, 0), 0)
    if more > most:
        raise ExtensionTooLarge(allocation_id, asked=more, most=most, source="; ".join(rule.source))


def contract_needed(ends_at: datetime, months: int) -> date:
    """Until when a contract must run, so that it outlives an allocation by some months."""
    return add_months(ends_at, months).date()


def check_contract(subject: Subject, ends_on: date | None, ends_at: datetime, months: int) -> None:
    """Whether a contract outlives an allocation by some months; an unknown one passes. Raises ContractTooShort."""
    needed = contract_needed(ends_at, months)
    if ends_on is not None and ends_on < needed:
        raise ContractTooShort(subject, ends_on=ends_on, needed=needed)


def crossed(*, before: int, before_of: int, after: int, after_of: int) -> list[Percent]:
    """The thresholds that a growing part of a whole has just passed.

    >>> crossed(before=0, before_of=100, after=85, after_of=100)
    [50, 80]
    """
    return [
        percent
        for percent in THRESHOLDS
        if before * 100 < percent * before_of and after * 100 >= percent * after_of > 0
    ]


def thresholds_reached(before: Balance, after: Balance) -> list[Percent]:
    """The thresholds that charges have just passed. A grant moves them away, a refund lets them be passed again."""
    if after.charged <= before.charged:
        return []
    return crossed(before=before.charged, before_of=before.granted, after=after.charged, after_of=after.granted)


def inference_limit(granted: int, cap_pct: int) -> int:
    """What of a grant may go into inference, rounded down."""
    return granted * cap_pct // 100


def check_inference(allocation_id: AllocationId, *, used: int, limit: int, asked: int) -> list[Percent]:
    """Whether so much more may be held for inference, and which thresholds that passes: 80 is a warning.

    Args:
        used: charged to inference, and held for it. Raises: InferenceCapReached.
    """
    if used + asked > limit:
        raise InferenceCapReached(allocation_id, asked=asked, available=max(limit - used, 0))
    found = crossed(before=used, before_of=limit, after=used + asked, after_of=limit)
    return [percent for percent in found if percent >= INFERENCE_WARNING]
