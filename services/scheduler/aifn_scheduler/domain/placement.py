"""What runs when: the size of a job, the profile of free slices over time, the first-come plan and its reasons.

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

from aifn_common.errors import Refusal

from aifn_scheduler.domain.machines import Partition

SizeKind = Literal["devices", "cores", "nodes"]
Stack = Literal["any", "cuda", "rocm"]
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


class DoesNotFit(Refusal):
    """A job asks for something its partition does not have, or for more than the whole of it."""

    code = "does_not_fit"

    def __init__(self, partition_id: str, because: str) -> None:
        super().__init__(f"{partition_id} {because}")
        self.partition_id = partition_id


class StackMismatch(Refusal):
    """The software of a job does not run on the accelerators of a partition."""

    code = "software_stack_mismatch"

    def __init__(self, partition_id: str, *, wanted: str, offered: str, alternatives: Sequence[str]) -> None:
        named = ", ".join(alternatives)
        advice = f"your project may use {named}" if named else "your project may use no partition that has it"
        super().__init__(f"the job needs {wanted}, {partition_id} has {offered}; {advice}")
        self.partition_id = partition_id
        self.wanted = wanted
        self.offered = offered
        self.alternatives = list(alternatives)


class UnknownPartition(Refusal):
    """Nobody has described such a partition."""

    code = "unknown_partition"
    status = 422

    def __init__(self, partition_id: str) -> None:
        super().__init__(f"no partition {partition_id} is known")
        self.partition_id = partition_id


class NotOperating(Refusal):
    """A partition that is planned, being installed or retired takes no work."""

    code = "not_operating"

    def __init__(self, partition: Partition) -> None:
        state = "retired" if partition.retired else partition.stage
        super().__init__(f"{partition.partition_id} takes no work (it is {state})")
        self.partition_id = partition.partition_id


class NoAllocation(Refusal):
    """The project may not use this partition, or none at all."""

    code = "no_allocation"

    def __init__(self, project_id: str, partition_id: str | None) -> None:
        super().__init__(
            f"project {project_id} has no running or coming allocation on {partition_id or 'any partition'}"
        )
        self.project_id = project_id
        self.partition_id = partition_id or ""


class WalltimeTooLong(Refusal):
    """Longer than any job may run here."""

    code = "walltime_too_long"
    status = 422

    def __init__(self, asked_seconds: int, allowed_seconds: int) -> None:
        super().__init__(f"{asked_seconds} s of walltime asked, at most {allowed_seconds} s are allowed")
        self.asked_seconds = asked_seconds
        self.allowed_seconds = allowed_seconds


class Overbooked(ValueError):
    """More slices were to be reserved than are free: a fault of the planner, never of a request."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much a job wants at the same time, in one of three words."""

    kind: SizeKind
    count: int


@dataclass(frozen=True, slots=True)
class JobWish:
    """What somebody wants to run. `partition_id` None: anywhere the project may compute."""

    project_id: str
    name: str
    partition_id: str | None
    size: Size
    walltime_seconds: int
    script: str
    software_stack: Stack


@dataclass(frozen=True, slots=True)
class Allocation:
    """That a project may use a partition between two moments; how much is left is accounting's to say."""

    project_id: str
    partition_id: str
    starts: int
    ends: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a size takes on one partition: whole nodes it spreads over, slices of all of them."""

    nodes: int
    slices: int


def footprint(size: Size, partition: Partition) -> Footprint:
    """Say a size in slices of a partition. What fits one node may share it; anything larger takes whole nodes.

    Raises: DoesNotFit, if the partition has no such thing or fewer nodes than that takes.

    >>> from aifn_scheduler.domain.machines import LUMI_G
    >>> footprint(Size("devices", 1), LUMI_G), footprint(Size("devices", 9), LUMI_G)
    (Footprint(nodes=1, slices=8), Footprint(nodes=2, slices=128))
    """
    units = partition.units_per_node
    if size.kind == "nodes":
        taken = Footprint(size.count, size.count * units)
    else:
        per_node = partition.devices_per_node if size.kind == "devices" else partition.cores_per_node
        if not per_node:
            raise DoesNotFit(partition.partition_id, f"has no {size.kind} that are known here")
        if size.count <= per_node:
            # units_per_node is a multiple of both counts, so this is exact.
            taken = Footprint(1, size.count * (units // per_node))
        else:
            nodes = -(-size.count // per_node)
            taken = Footprint(nodes, nodes * units)
    if partition.nodes is not None and taken.nodes > partition.nodes:
        raise DoesNotFit(partition.partition_id, f"has {partition.nodes} nodes, the job takes {taken.nodes}")
    return taken


def runs_on(stack: Stack, partition: Partition) -> bool:
    """Whether software of this kind runs there. A GPU partition of unknown stack is not a mismatch.

    >>> from aifn_scheduler.domain.machines import LUMI_G
    >>> [runs_on(stack, LUMI_G) for stack in ("any", "rocm", "cuda")]
    [True, True, False]
    """
    if stack == "any" or partition.software_stack == stack:
        return True
    return partition.software_stack is None and partition.kind.startswith("gpu")


class Profile:
    """Free slices of one partition from now on, as steps: `free[i]` holds from `times[i]` to `times[i + 1]`."""

    def __init__(self, now: int, slices: int) -> None:
        self.times: list[int] = [now]
        self.free: list[int] = [slices]

    def earliest_start(self, slices: int, seconds: int, not_before: int) -> int | None:
        """The first moment from which `slices` are free for `seconds` on end; None if that never comes.

        >>> profile = Profile(0, 10)
        >>> profile.reserve(0, 100, 8)
        >>> profile.earliest_start(4, 60, 0), profile.earliest_start(2, 60, 0), profile.earliest_start(11, 1, 0)
        (100, 0, None)
        """
        times, free = self.times, self.free
        last = len(times) - 1
        start = max(not_before, times[0])
        index = first = bisect_right(times, start) - 1
        while True:
            if free[index] < slices:
                if index == last:
                    return None
                index = first = index + 1
                start = times[first]
                continue
            if index == last or times[index + 1] - start >= seconds:
                return start
            index += 1

    def reserve(self, start: int, seconds: int, slices: int) -> None:
        """Take slices out for a stretch of time. Raises Overbooked, and changes nothing, if they are not all free."""
        begin, end = self._step_at(start), self._step_at(start + seconds)
        free = self.free
        if min(free[begin:end]) < slices:
            raise Overbooked(f"{slices} slices from {start} for {seconds} s")
        for index in range(begin, end):
            free[index] -= slices

    def occupy(self, start: int, end: int, slices: int) -> None:
        """Note what is taken already, whether or not there is room: nodes may have gone out of service since."""
        first, after = self._step_at(start), self._step_at(end)
        for index in range(first, after):
            self.free[index] -= slices

    def free_now(self) -> int:
        """Slices free at the beginning, never below zero."""
        return max(self.free[0], 0)

    def _step_at(self, moment: int) -> int:
        """The index of the step that begins at `moment`, made if missing; one before the first is the first."""
        index = bisect_left(self.times, moment)
        if index < len(self.times) and self.times[index] == moment:
            return index
        if index == 0:
            return 0
        self.times.insert(index, moment)
        self.free.insert(index, self.free[index - 1])
        return index


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
class Candidate:
    """A partition a request may run on, what it takes there, and between which moments its project may use it."""

    partition_id: str
    slices: int
    not_before: int
    ends: int


@dataclass(frozen=True, slots=True)
class Request:
    """A job that waits, in the order of arrival. `elsewhere`: partitions it may not use, each with the reason."""

    job_id: str
    seconds: int
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


def candidates(
    wish: JobWish, partitions: Mapping[str, Partition], allocations: Iterable[Allocation]
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    """Where a job may run, and why not on the other partitions its project may use.

    Several allocations on one partition count as one, from the first start to the last end.
    """
    windows: dict[str, tuple[int, int]] = {}
    for one in allocations:
        if wish.partition_id in (None, one.partition_id):
            starts, ends = windows.get(one.partition_id, (one.starts, one.ends))
            windows[one.partition_id] = (min(starts, one.starts), max(ends, one.ends))
    found: list[Candidate] = []
    refused: list[Refusal] = []
    for partition_id, (starts, ends) in sorted(windows.items()):
        try:
            taken = _taken_on(partition_id, wish, partitions, alternatives=windows)
        except Refusal as refusal:
            refused.append(refusal)
        else:
            found.append(Candidate(partition_id, taken.slices, starts, ends))
    return tuple(found), tuple(refused)


def admit(
    wish: JobWish,
    partitions: Mapping[str, Partition],
    allocations: Sequence[Allocation],
    *,
    now: int,
    longest_seconds: int,
) -> None:
    """Check that a job can run at all, before it queues.

    Args:
        allocations: all of the project's.
    Raises: WalltimeTooLong, UnknownPartition, NoAllocation, NotOperating, StackMismatch, DoesNotFit.
    """
    if wish.walltime_seconds > longest_seconds:
        raise WalltimeTooLong(wish.walltime_seconds, longest_seconds)
    if wish.partition_id is not None and wish.partition_id not in partitions:
        raise UnknownPartition(wish.partition_id)
    current = [one for one in allocations if one.ends > now]
    found, refused = candidates(wish, partitions, current)
    if found:
        return
    if not refused:
        raise NoAllocation(wish.project_id, wish.partition_id)
    mismatch = next((refusal for refusal in refused if isinstance(refusal, StackMismatch)), None)
    if mismatch is not None and wish.partition_id is not None:
        others = sorted({one.partition_id for one in current})
        raise StackMismatch(
            mismatch.partition_id,
            wanted=mismatch.wanted,
            offered=mismatch.offered,
            alternatives=_with_stack(wish.software_stack, others, partitions),
        )
    raise refused[0]


def _taken_on(
    partition_id: str, wish: JobWish, partitions: Mapping[str, Partition], *, alternatives: Iterable[str]
) -> Footprint:
    partition = partitions.get(partition_id)
    if partition is None:
        raise UnknownPartition(partition_id)
    if not partition.operating:
        raise NotOperating(partition)
    if not runs_on(wish.software_stack, partition):
        raise StackMismatch(
            partition_id,
            wanted=wish.software_stack,
            offered=partition.software_stack or "no accelerators",
            alternatives=_with_stack(wish.software_stack, sorted(alternatives), partitions),
        )
    return footprint(wish.size, partition)


def _with_stack(stack: Stack, names: Iterable[str], partitions: Mapping[str, Partition]) -> list[str]:
    return [name for name in names if name in partitions and runs_on(stack, partitions[name])]


def held_until(now: int, walltime_seconds: int, planned_start: int, last_started: int | None) -> int:
    """Until when a placed job takes its slices: from its start, or from the moment it may still start.

    >>> held_until(1_000, 60, planned_start=900, last_started=None), held_until(1_000, 60, 900, last_started=930)
    (1060, 990)
    """
    begins = max(now, planned_start) if last_started is None else last_started
    return begins + walltime_seconds


@dataclass(slots=True)
class _Bounds:
    """Starts found in this plan for one number of slices, by walltime: none shorter or as long can be earlier again."""

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
    reasons = [Reason(partition_id, "elsewhere", because) for partition_id, because in request.elsewhere]
    best: tuple[int, str, Candidate] | None = None
    for candidate in request.candidates:
        reason = _weigh(now, candidate, request.seconds, books.get(candidate.partition_id))
        reasons.append(reason)
        if reason.earliest_start is not None:
            offer = (reason.earliest_start, candidate.partition_id, candidate)
            best = offer if best is None or offer[:2] < best[:2] else best
    expired = bool(request.candidates) and all(candidate.ends <= now for candidate in request.candidates)
    if best is None:
        return Plan(request.job_id, place, None, 0, None, False, expired, tuple(reasons))
    start, partition_id, chosen = best
    books[partition_id].book(request.job_id, start, request.seconds, chosen.slices)
    return Plan(request.job_id, place, partition_id, chosen.slices, start, start <= now, False, tuple(reasons))


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
