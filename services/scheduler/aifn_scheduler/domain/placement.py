"""What runs when: the first-come plan and its reasons.

Conservative backfill: requests are planned in their order, each at the earliest moment its slices are free for its
whole walltime, and each plan is a reservation. A later request may start before an earlier one only where it takes
nothing from any reservation made before it. Source: Mu'alem and Feitelson, "Utilization, predictability, workloads,
and user runtime estimates in scheduling the IBM SP2 with backfilling", IEEE TPDS 2001.

Moments are whole seconds since 1970 (UTC), so that nothing is rounded twice. Slices are counted for a partition as a
whole: which nodes a job gets is decided by the site's batch system.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aifn_scheduler.domain.admission import Candidate
from aifn_scheduler.domain.profile import Profile

Verdict = Literal[
    "fits_now",
    "waits_for_slices",
    "waits_for_allocation",
    "allocation_ends_before",
    "larger_than_service",
    "no_capacity_report",
    "stale_capacity_report",
    "not_operating",
    "elsewhere",
]
NAMED_AT_MOST = 5
"""How many of the jobs a request waits for are named in its explanation."""


@dataclass(frozen=True, slots=True)
class Held:
    """A job that takes slices until a moment, which may have passed while its site has not said that it ended."""

    job_id: str
    partition_id: str
    slices: int
    until: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a partition can take. `slices` None: no site has reported; `stale`: its last report is too old to go by."""

    partition_id: str
    operating: bool
    slices: int | None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A job that waits, in the order of arrival.

    `candidates`: those on one partition are windows that do not overlap, the earlier one first.
    `ends`: when the last allocation it may use ends, wherever that is; from then on it can never run.
    `elsewhere`: partitions it may not use, each with the reason.
    """

    job_id: str
    seconds: int
    ends: int
    candidates: tuple[Candidate, ...]
    elsewhere: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """What the planner says of a request on one partition."""

    partition_id: str
    verdict: Verdict
    because: str
    earliest_start: int | None = None
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided for one request: where and when it runs (None: not foreseeable), and why."""

    job_id: str
    place: int
    partition_id: str | None
    slices: int
    start: int | None
    starts_now: bool
    expired: bool
    reasons: tuple[Reason, ...]


def held_until(now: int, walltime_seconds: int, planned_start: int, last_started: int | None) -> int:
    """Until when a placed job takes its slices: from its start, or from the moment it may still start.

    >>> held_until(1_000, 60, planned_start=900, last_started=None), held_until(1_000, 60, 900, last_started=930)
    (1060, 990)
    """
    begins = max(now, planned_start) if last_started is None else last_started
    return begins + walltime_seconds


@dataclass(slots=True)
class _Bounds:
    """Starts found in this plan for one number of slices, by walltime: as long or longer, nothing starts earlier."""

    seconds: list[int] = field(default_factory=list)
    starts: list[int | None] = field(default_factory=list)

    def at_least(self, seconds: int, otherwise: int) -> int | None:
        """No request of this walltime can start earlier; None: it never can."""
        index = bisect_right(self.seconds, seconds) - 1
        return otherwise if index < 0 else self.starts[index]

    def found(self, seconds: int, start: int | None) -> None:
        """Remember the start of a request of this walltime."""
        index = bisect_left(self.seconds, seconds)
        if index < len(self.seconds) and self.seconds[index] == seconds:
            self.starts[index] = start
        else:
            self.seconds.insert(index, seconds)
            self.starts.insert(index, start)


@dataclass(slots=True)
class _Book:
    """One partition while a plan is made: its profile, who frees slices when, and bounds already found."""

    capacity: Capacity
    profile: Profile
    ends: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    # A bound stays true for the rest of the plan, because reservations only take slices away.
    bounds: dict[tuple[int, int], _Bounds] = field(default_factory=lambda: defaultdict(_Bounds))

    def earliest_start(self, slices: int, seconds: int, not_before: int) -> int | None:
        bounds = self.bounds[slices, not_before]
        bound = bounds.at_least(seconds, not_before)
        start = None if bound is None else self.profile.earliest_start(slices, seconds, bound)
        bounds.found(seconds, start)
        return start

    def book(self, job_id: str, start: int, seconds: int, slices: int) -> None:
        self.profile.reserve(start, seconds, slices)
        self.ends[start + seconds].append(job_id)


def plan(
    now: int,
    capacities: Iterable[Capacity],
    held: Iterable[Held],
    requests: Sequence[Request],
    *,
    overdue_seconds: int = 60,
) -> list[Plan]:
    """Plan requests first come, first served, with conservative backfill on every partition.

    Args:
        now: no plan begins earlier.
        held: jobs that were placed and are not over; one past its time is taken to last `overdue_seconds` more.
        requests: in the order of arrival. One with several candidates takes the earliest start, then the first name.
    Returns: one plan per request, in the same order. The plan of a request depends on no later request.
    """
    books = _open_books(now, capacities, held, overdue_seconds)
    return [_plan_one(now, place, request, books) for place, request in enumerate(requests, start=1)]


def _open_books(
    now: int, capacities: Iterable[Capacity], held: Iterable[Held], overdue_seconds: int
) -> dict[str, _Book]:
    books = {capacity.partition_id: _Book(capacity, Profile(now, capacity.slices or 0)) for capacity in capacities}
    for job in held:
        if (book := books.get(job.partition_id)) is not None:
            until = max(job.until, now + overdue_seconds)
            book.profile.occupy(now, until, job.slices)
            book.ends[until].append(job.job_id)
    return books


def _plan_one(now: int, place: int, request: Request, books: Mapping[str, _Book]) -> Plan:
    reasons = {partition_id: Reason(partition_id, "elsewhere", because) for partition_id, because in request.elsewhere}
    best: tuple[int, str, Candidate] | None = None
    for candidate in request.candidates:
        # Of several windows on a partition the first that has room counts, and if none has, the last.
        known = reasons.get(candidate.partition_id)
        if known is not None and known.earliest_start is not None:
            continue
        reason = _weigh(now, candidate, request.seconds, books.get(candidate.partition_id))
        reasons[candidate.partition_id] = reason
        if reason.earliest_start is not None:
            offer = (reason.earliest_start, candidate.partition_id, candidate)
            best = offer if best is None or offer[:2] < best[:2] else best
    if best is None:
        return Plan(request.job_id, place, None, 0, None, False, request.ends <= now, tuple(reasons.values()))
    start, partition_id, chosen = best
    books[partition_id].book(request.job_id, start, request.seconds, chosen.slices)
    return Plan(request.job_id, place, partition_id, chosen.slices, start, start <= now, False, tuple(reasons.values()))


def _weigh(now: int, candidate: Candidate, seconds: int, book: _Book | None) -> Reason:
    """Say whether and when a request could start on one partition, given all that was booked before it."""
    name = candidate.partition_id
    if book is None or not book.capacity.operating:
        return Reason(name, "not_operating", "the partition takes no work")
    if candidate.ends <= now:
        return Reason(name, "allocation_ends_before", "the project's allocation has ended")
    if book.capacity.slices is None:
        return Reason(
            name, "no_capacity_report", "its site has not reported what is in service; it takes no job until then"
        )
    if book.capacity.stale:
        return Reason(
            name, "stale_capacity_report", "its site's last report is too old; it takes no job until a new one"
        )
    if candidate.slices > book.capacity.slices:
        because = f"takes {candidate.slices} slices, {book.capacity.slices} are in service"
        return Reason(name, "larger_than_service", because)
    free_now = book.profile.free_now()
    start = book.earliest_start(candidate.slices, seconds, max(now, candidate.not_before))
    if start is None:
        because = f"takes {candidate.slices} slices; so many are not free at any time that is planned"
        return Reason(name, "larger_than_service", because)
    if start >= candidate.ends:
        return Reason(name, "allocation_ends_before", "the project's allocation ends before slices are free")
    if start <= now:
        return Reason(name, "fits_now", f"takes {candidate.slices} slices, {free_now} are free", start)
    if start == candidate.not_before:
        return Reason(name, "waits_for_allocation", "the project's allocation has not begun", start)
    waits_for = tuple(book.ends.get(start, ())[:NAMED_AT_MOST])
    because = (
        f"takes {candidate.slices} slices for {seconds} s; {free_now} are free now, "
        "and requests that came earlier keep theirs"
    )
    return Reason(name, "waits_for_slices", because, start, waits_for)
