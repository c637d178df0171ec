"""How amounts move between the accounts of an allocation. Whole numbers, no clock, no database."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from aifn_common.errors import Invalid, Refusal
from aifn_events.vocabulary import AllocationId, JobId, ProjectId, ResourceId

Role = Literal[
    "union_pool", "national_pool", "fund", "available", "held", "consumed", "overrun", "expired", "corrected"
]
Kind = Literal["grant", "hold", "release", "charge", "refund", "overrun", "settle", "expiry", "correction"]
Pool = Literal["union", "national"]

OWN_ROLES: tuple[Role, ...] = ("available", "held", "consumed", "overrun")
POOL_ROLES: Mapping[Pool, Role] = {"union": "union_pool", "national": "national_pool"}

LARGEST_AMOUNT = 10**15
"""More than any machine of today gives in fifteen years, and small enough that thousands of them can be added."""


class AllocationExceeded(Refusal):
    """A project asked for more than it has left."""

    code = "allocation_exceeded"

    def __init__(self, allocation_id: AllocationId, *, asked: int, available: int) -> None:
        super().__init__(f"{allocation_id} was asked for {asked}, {available} left")
        self.asked = asked
        self.available = available


class UnknownAllocation(Refusal):
    """A project has no allocation of this resource."""

    code = "unknown_allocation"

    def __init__(self, project_id: ProjectId, resource: ResourceId) -> None:
        super().__init__(f"project {project_id} has no allocation of {resource}")
        self.project_id = project_id
        self.resource = resource


class AllocationNotActive(Refusal):
    """A project has allocations of this resource, but none at that time."""

    code = "allocation_not_active"

    def __init__(self, project_id: ProjectId, resource: ResourceId, at: datetime) -> None:
        super().__init__(f"no allocation of {resource} to {project_id} is active at {at.isoformat()}")
        self.project_id = project_id
        self.resource = resource
        self.at = at.isoformat()


class JobOver(Refusal):
    """Budget was asked for a job that is already closed."""

    code = "job_closed"

    def __init__(self, job_id: JobId) -> None:
        super().__init__(f"{job_id} is already closed")
        self.job_id = job_id


class ProjectClosed(Refusal):
    """A project that was closed gets and uses nothing any more."""

    code = "project_closed"

    def __init__(self, project_id: ProjectId) -> None:
        super().__init__(f"project {project_id} is closed")
        self.project_id = project_id


class AbsurdAmount(Invalid):
    """An amount is larger than anything that can be meant."""

    code = "absurd_amount"

    def __init__(self, amount: int, *, limit: int, what: str) -> None:
        super().__init__(f"{amount} is more than {what} can be: at most {limit}")
        self.amount = amount
        self.limit = limit


class Balance(NamedTuple):
    """What was granted, is held and was charged. The other two follow: what is left, or what is missing.

    >>> Balance(granted=100, held=20, charged=90).overrun
    10
    """

    granted: int = 0
    held: int = 0
    charged: int = 0

    @property
    def available(self) -> int:
        """What may still be held or charged, never below zero."""
        return max(self.granted - self.held - self.charged, 0)

    @property
    def overrun(self) -> int:
        """What was charged beyond all that was granted and not held; the next amount that comes back pays it."""
        return max(self.charged + self.held - self.granted, 0)


class Allocation(NamedTuple):
    """An amount of one resource granted to a project for some time."""

    number: int
    id: AllocationId
    project_id: ProjectId
    resource: ResourceId
    starts_at: datetime
    ends_at: datetime
    accounts: Mapping[Role, int]
    balance: Balance

    def active(self, at: datetime) -> bool:
        """Whether it may be used at a moment."""
        return self.starts_at <= at < self.ends_at


@dataclass(slots=True)
class Hold:
    """What was set aside for one job, and how much of it the job's usage has taken.

    `expected`: how many segments the job had in the end; None while it is not over.
    """

    job_id: JobId
    allocation: int
    amount: int
    drawn: int = 0
    expected: int | None = None
    released: bool = False

    @property
    def remaining(self) -> int:
        """What is still set aside."""
        if self.released or self.drawn >= self.amount:
            return 0
        return self.amount - self.drawn


class Entry(NamedTuple):
    """An amount that moves between two accounts, and on whose statement that stands."""

    allocation: int
    kind: Kind
    source: Role
    target: Role
    amount: int
    job_id: JobId | None = None
    usage: int | None = None


class Book:
    """Balances of some allocations while something happens to them, and the entries that say what."""

    def __init__(self, balances: Mapping[int, Balance]) -> None:
        self._before: dict[int, Balance] = {}
        self._now: dict[int, list[int]] = {}
        self._touched: set[int] = set()
        self.entries: list[Entry] = []
        self.open(balances)

    def open(self, balances: Mapping[int, Balance]) -> None:
        """Take in more allocations."""
        self._before.update(balances)
        self._now.update((number, list(balance)) for number, balance in balances.items())

    def left(self, allocation: int) -> int:
        """What may still be held."""
        granted, held, charged = self._now[allocation]
        return max(granted - held - charged, 0)

    def grant(self, allocation: int, amount: int, pool: Pool) -> None:
        """Give an allocation something from a pool. Raises AbsurdAmount."""
        if amount > LARGEST_AMOUNT:
            raise AbsurdAmount(amount, limit=LARGEST_AMOUNT, what="a grant")
        self._now[allocation][0] += amount
        self._add(allocation, "grant", POOL_ROLES[pool], "available", amount)

    def expire(self, allocation: int, amount: int, target: Role) -> None:
        """Take away what is left, or a part of it. Raises ValueError, if that is more than is left."""
        if amount > self.left(allocation):
            raise ValueError(f"{amount} cannot be taken from allocation {allocation}: {self.left(allocation)} left")
        self._now[allocation][0] -= amount
        self._add(allocation, "expiry", "available", target, amount)

    def restore(self, allocation: int, amount: int) -> None:
        """Give back what had expired, since usage was heard of late."""
        self._now[allocation][0] += amount
        self._add(allocation, "correction", "expired", "available", amount)

    def correct(self, allocation: int, amount: int, job_id: JobId | None, usage: int | None) -> None:
        """Give back what a person says was charged wrongly; below zero, take that back again."""
        self._now[allocation][0] += amount
        if amount > 0:
            self._add(allocation, "correction", "corrected", "available", amount, job_id, usage)
        else:
            self._add(allocation, "correction", "available", "corrected", -amount, job_id, usage)

    def hold(self, allocation: Allocation, hold: Hold) -> None:
        """Set budget aside for a job. A wish, so it may be refused. Raises AllocationExceeded."""
        wanted, left = hold.remaining, self.left(allocation.number)
        if wanted > left:
            raise AllocationExceeded(allocation.id, asked=wanted, available=left)
        self._now[allocation.number][1] += wanted
        self._add(allocation.number, "hold", "available", "held", wanted, hold.job_id)

    def release(self, hold: Hold) -> int:
        """Give back what a job did not use; returns how much that was."""
        amount = hold.remaining
        hold.released = True
        self._now[hold.allocation][1] -= amount
        self._add(hold.allocation, "release", "held", "available", amount, hold.job_id)
        return amount

    def charge(self, allocation: int, change: int, hold: Hold | None, job_id: JobId, usage: int | None) -> None:
        """Charge what was used, or give back what a correction says was not. It happened: it is never refused.

        The job's hold on this allocation pays first, then what is available, then the overrun; what comes back goes
        the same way back.
        """
        from_hold = 0
        if hold is not None:
            before = hold.remaining
            hold.drawn += change
            from_hold = before - hold.remaining
        balance = self._now[allocation]
        balance[1] -= from_hold
        balance[2] += change
        if from_hold:
            self._consume(allocation, "held", from_hold, job_id, usage)
        if change != from_hold:
            self._consume(allocation, "available", change - from_hold, job_id, usage)

    def take(self) -> list[Entry]:
        """The entries since the last time; whoever takes them writes them."""
        entries, self.entries = self.entries, []
        return entries

    def settle(self) -> dict[int, Balance]:
        """End what happens: cover what is missing, or pay back, and return the balances that may have changed.

        Raises ValueError, if more was given back than had been charged.
        """
        changed = {}
        for number in sorted(self._touched):
            balance = Balance(*self._now[number])
            if min(balance) < 0:
                raise ValueError(f"allocation {number} would stand at {balance}")
            missing = balance.overrun - self._before[number].overrun
            self._add(number, "overrun", "overrun", "available", missing)
            self._add(number, "settle", "available", "overrun", -missing)
            changed[number] = balance
        self._touched.clear()
        return changed

    def _consume(self, allocation: int, payer: Role, amount: int, job_id: JobId, usage: int | None) -> None:
        if amount > 0:
            self.entries.append(Entry(allocation, "charge", payer, "consumed", amount, job_id, usage))
        else:
            self.entries.append(Entry(allocation, "refund", "consumed", payer, -amount, job_id, usage))
        self._touched.add(allocation)

    def _add(
        self,
        allocation: int,
        kind: Kind,
        source: Role,
        target: Role,
        amount: int,
        job_id: JobId | None = None,
        usage: int | None = None,
    ) -> None:
        if amount > 0:
            self.entries.append(Entry(allocation, kind, source, target, amount, job_id, usage))
            self._touched.add(allocation)


def choose_to_hold(
    allocations: Sequence[Allocation],
    project_id: ProjectId,
    resource: ResourceId,
    *,
    amount: int,
    at: datetime,
    left: Callable[[int], int],
) -> Allocation:
    """The allocation that pays for a job which starts at a moment: of those with enough left, the first to end.

    Args:
        allocations: the project's, of this resource.
        left: what may still be held, by the allocation's number.
    Raises: UnknownAllocation, AllocationNotActive, AllocationExceeded (of the one with most left).
    """
    if not allocations:
        raise UnknownAllocation(project_id, resource)
    active = [one for one in allocations if one.active(at)]
    if not active:
        raise AllocationNotActive(project_id, resource, at)
    enough = [one for one in active if left(one.number) >= amount]
    if not enough:
        most = max(active, key=lambda one: left(one.number))
        raise AllocationExceeded(most.id, asked=amount, available=left(most.number))
    return min(enough, key=lambda one: (one.ends_at, one.number))


def choose_to_charge(allocations: Sequence[Allocation], at: datetime) -> Allocation:
    """The allocation that pays for usage which began at a moment; there is always one, since it happened.

    Active ones come first, of those the first to end; otherwise the one whose time is nearest. What is left does not
    matter: it would make the answer depend on the order in which usage is heard.
    """
    return min(
        allocations,
        key=lambda one: (
            max(one.starts_at - at, at - one.ends_at, timedelta()),
            not one.active(at),
            one.ends_at,
            one.number,
        ),
    )


def may_release(hold: Hold, segments_charged: int) -> bool:
    """Whether a job is over and all its segments are charged, so that the rest of its hold goes back."""
    return hold.expected is not None and not hold.released and segments_charged >= hold.expected
