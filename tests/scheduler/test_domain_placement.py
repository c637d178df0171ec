"""The size of a job, the profile and the plan, against a second-by-second reference."""

from dataclasses import replace
from itertools import pairwise

import pytest
from aifn_scheduler.domain.admission import (
    Allocation,
    Candidate,
    DoesNotFit,
    Footprint,
    NoAllocation,
    NotOperating,
    Size,
    StackMismatch,
    UnknownPartition,
    WalltimeTooLong,
    admit,
    candidates,
    footprint,
    joined,
)
from aifn_scheduler.domain.machines import LUMI_G
from aifn_scheduler.domain.placement import Capacity, Held, Plan, Request, plan
from aifn_scheduler.domain.profile import Overbooked, Profile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scheduler.make import HOUR, LONGEST, LUMI_C, PARTITIONS, wish

NEVER = 10**12
NOW = 1_000


@pytest.mark.parametrize(
    ("size", "nodes", "slices"),
    [
        (Size("devices", 1), 1, 8),
        (Size("devices", 8), 1, 64),
        (Size("devices", 9), 2, 128),
        (Size("cores", 1), 1, 1),
        (Size("cores", 64), 1, 64),
        (Size("cores", 65), 2, 128),
        (Size("nodes", 3), 3, 192),
    ],
)
def test_what_fits_a_node_shares_it_and_more_takes_whole_nodes(size: Size, nodes: int, slices: int) -> None:
    assert footprint(size, LUMI_G) == Footprint(nodes, slices)


def test_a_job_larger_than_its_partition_is_refused() -> None:
    with pytest.raises(DoesNotFit, match="2978 nodes"):
        footprint(Size("nodes", 2979), LUMI_G)
    with pytest.raises(DoesNotFit, match="no devices"):
        footprint(Size("devices", 1), LUMI_C)
    assert footprint(Size("nodes", 2979), replace(LUMI_G, nodes=None)).nodes == 2979


def _allocations(*names: str, starts: int = 0, ends: int = NEVER) -> list[Allocation]:
    return [Allocation("p1", name, starts, ends) for name in names]


def _admit(*names: str, ends: int = NEVER, **values: object) -> None:
    admit(wish(**values), PARTITIONS, _allocations(*names, ends=ends), now=NOW, longest_seconds=LONGEST)


def test_a_job_is_admitted_where_its_project_may_compute() -> None:
    _admit("lumi-g")
    _admit("lumi-g", "leonardo-booster", partition_id=None, software_stack="cuda")


def test_each_reason_not_to_admit_a_job_has_its_own_refusal() -> None:
    with pytest.raises(WalltimeTooLong):
        _admit("lumi-g", walltime_seconds=LONGEST + 1)
    with pytest.raises(UnknownPartition):
        _admit("lumi-g", partition_id="lumi-x")
    with pytest.raises(NoAllocation):
        _admit("lumi-c")
    with pytest.raises(NoAllocation):
        _admit("lumi-g", ends=NOW)
    with pytest.raises(NoAllocation):
        _admit(partition_id=None)
    with pytest.raises(DoesNotFit):
        _admit("lumi-g", size=Size("nodes", 3000))
    closed = {"lumi-g": replace(LUMI_G, stage="planned")}
    with pytest.raises(NotOperating):
        admit(wish(), closed, _allocations("lumi-g"), now=NOW, longest_seconds=LONGEST)


def test_the_portability_gate_names_where_the_software_runs() -> None:
    with pytest.raises(StackMismatch) as caught:
        _admit("lumi-g", "leonardo-booster", software_stack="cuda")
    assert caught.value.details == {
        "partition_id": "lumi-g",
        "wanted": "cuda",
        "offered": "rocm",
        "alternatives": ["leonardo-booster"],
    }
    with pytest.raises(StackMismatch, match="no partition that has it"):
        _admit("lumi-g", software_stack="cuda")


def test_allocations_on_a_partition_are_one_window_if_they_overlap_or_touch() -> None:
    found, _ = candidates(wish(), PARTITIONS, [*_allocations("lumi-g", starts=5, ends=9), *_allocations("lumi-g")])
    assert found == (Candidate("lumi-g", 64, 0, NEVER),)
    spans = [(20, 30), (5, 9), (9, 12), (25, 40)]
    apart = [one for starts, ends in spans for one in _allocations("lumi-g", starts=starts, ends=ends)]
    found, _ = candidates(wish(), PARTITIONS, apart)
    assert found == (Candidate("lumi-g", 64, 5, 12), Candidate("lumi-g", 64, 20, 40))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda one: (one[0], one[0] + one[1]))))
def test_joined_windows_cover_the_same_moments_and_leave_gaps_between_them(spans: list[tuple[int, int]]) -> None:
    found = joined(spans)
    assert {moment for span in found for moment in range(*span)} == {
        moment for span in spans for moment in range(*span)
    }
    assert all(before[1] < after[0] for before, after in pairwise(found))


def test_a_profile_never_gives_more_than_is_free() -> None:
    profile = Profile(0, 10)
    profile.reserve(5, 5, 10)
    before = (list(profile.times), list(profile.free))
    with pytest.raises(Overbooked):
        profile.reserve(0, 6, 1)
    assert [free for free in profile.free if free < 0] == []
    assert profile.earliest_start(1, 6, 0) == 10
    assert profile.earliest_start(1, 5, 0) == 0
    assert sum(before[1]) <= sum(profile.free)


sizes = st.integers(1, 8)
spans = st.integers(1, 6)
windows = st.tuples(st.integers(NOW - 3, NOW + 6), st.integers(1, 40))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Capacity], list[Held], list[Request]]:
    names = ["a", "b"][: draw(st.integers(1, 2))]
    capacities = [Capacity(name, True, draw(st.integers(0, 10))) for name in names]
    held = [
        Held(f"h{number}", draw(st.sampled_from(names)), draw(sizes), NOW + draw(st.integers(-2, 8)))
        for number in range(draw(st.integers(0, 4)))
    ]
    requests = []
    for number in range(draw(st.integers(1, 8))):
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        options = []
        for name in sorted(chosen):
            begins, length = draw(windows)
            slices = draw(sizes)
            options.append(Candidate(name, slices, begins, begins + length))
            if draw(st.booleans()):
                again = begins + length + draw(spans)
                options.append(Candidate(name, slices, again, again + draw(spans)))
        requests.append(Request(f"r{number}", draw(spans), max(one.ends for one in options), tuple(options)))
    return capacities, held, requests


OVERDUE = 2
HORIZON = 400


class Seconds:
    """The reference: one number per second, no steps, no bounds."""

    def __init__(self, slices: int, held: list[Held]) -> None:
        self.free = [slices] * HORIZON
        for job in held:
            for second in range(max(job.until, NOW + OVERDUE) - NOW):
                self.free[second] -= job.slices

    def earliest(self, candidate: Candidate, seconds: int) -> int | None:
        for start in range(max(candidate.not_before - NOW, 0), HORIZON // 2):
            if all(free >= candidate.slices for free in self.free[start : start + seconds]):
                return NOW + start
        return None

    def take(self, start: int, seconds: int, slices: int) -> None:
        for second in range(start - NOW, start - NOW + seconds):
            self.free[second] -= slices


def by_brute_force(
    capacities: list[Capacity], held: list[Held], requests: list[Request]
) -> list[tuple[str | None, int | None]]:
    books = {
        one.partition_id: Seconds(one.slices or 0, [job for job in held if job.partition_id == one.partition_id])
        for one in capacities
    }
    found: list[tuple[str | None, int | None]] = []
    for request in requests:
        offers = []
        for one in request.candidates:
            start = books[one.partition_id].earliest(one, request.seconds)
            if one.ends > NOW and start is not None and start < one.ends:
                offers.append((start, one.partition_id, one.slices))
        if not offers:
            found.append((None, None))
            continue
        start, name, slices = min(offers)
        books[name].take(start, request.seconds, slices)
        found.append((name, start))
    return found


def _plan(capacities: list[Capacity], held: list[Held], requests: list[Request]) -> list[Plan]:
    return plan(NOW, capacities, held, requests, overdue_seconds=OVERDUE)


@settings(max_examples=400)
@given(cases())
def test_the_plan_equals_a_second_by_second_search(case: tuple[list[Capacity], list[Held], list[Request]]) -> None:
    assert [(one.partition_id, one.start) for one in _plan(*case)] == by_brute_force(*case)


@settings(max_examples=200)
@given(cases())
def test_at_no_moment_is_more_promised_than_is_there(case: tuple[list[Capacity], list[Held], list[Request]]) -> None:
    capacities, held, requests = case
    seconds = {request.job_id: request.seconds for request in requests}
    plans = [one for one in _plan(*case) if one.start is not None]
    for capacity in capacities:
        name = capacity.partition_id
        for one in plans:
            if one.partition_id != name or one.start is None:
                continue
            taken = sum(
                other.slices
                for other in plans
                if other.partition_id == name
                and other.start is not None
                and other.start <= one.start < other.start + seconds[other.job_id]
            )
            taken += sum(
                job.slices for job in held if job.partition_id == name and max(job.until, NOW + OVERDUE) > one.start
            )
            assert taken <= (capacity.slices or 0)


@settings(max_examples=200)
@given(cases())
def test_a_later_request_never_delays_an_earlier_one(case: tuple[list[Capacity], list[Held], list[Request]]) -> None:
    capacities, held, requests = case
    whole = _plan(*case)
    for count in range(len(requests)):
        assert _plan(capacities, held, requests[:count]) == whole[:count]


def _request(name: str, slices: int, seconds: int = HOUR, ends: int = NEVER, not_before: int = 0) -> Request:
    return Request(name, seconds, ends, (Candidate("a", slices, not_before, ends),))


def test_a_small_short_request_fills_the_gap_before_a_large_one() -> None:
    held = [Held("running", "a", 6, NOW + HOUR)]
    requests = [_request("large", 10), _request("long", 4, 2 * HOUR), _request("short", 4, HOUR)]
    large, long, short = _plan([Capacity("a", True, 10)], held, requests)
    assert (large.start, large.starts_now) == (NOW + HOUR, False)
    assert long.start == NOW + 2 * HOUR
    assert (short.start, short.starts_now) == (NOW, True)
    (reason,) = large.reasons
    assert (reason.verdict, reason.waits_for) == ("waits_for_slices", ("running",))
    assert [one.place for one in (large, long, short)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("capacity", "request_", "verdict"),
    [
        (Capacity("a", True, 10), _request("r", 10), "fits_now"),
        (Capacity("a", True, 10), _request("r", 11), "larger_than_service"),
        (Capacity("a", True, None), _request("r", 1), "no_capacity_report"),
        (Capacity("a", True, 10, stale=True), _request("r", 1), "stale_capacity_report"),
        (Capacity("a", False, 10), _request("r", 1), "not_operating"),
        (Capacity("b", True, 10), _request("r", 1), "not_operating"),
        (Capacity("a", True, 10), _request("r", 1, not_before=NOW + 5), "waits_for_allocation"),
        (Capacity("a", True, 10), _request("r", 1, ends=NOW), "allocation_ends_before"),
    ],
)
def test_the_reason_says_what_decided(capacity: Capacity, request_: Request, verdict: str) -> None:
    (found,) = _plan([capacity], [], [request_])
    assert [reason.verdict for reason in found.reasons] == [verdict]
    assert found.starts_now is (verdict == "fits_now")
    assert found.expired is (request_.candidates[0].ends <= NOW)


@pytest.mark.parametrize(("ends", "expired"), [(NOW - 1, True), (NOW, True), (NOW + 1, False)])
def test_a_request_that_no_partition_takes_expires_with_its_last_allocation(ends: int, expired: bool) -> None:
    (found,) = _plan([Capacity("a", True, 10)], [], [Request("r", HOUR, ends, (), elsewhere=(("a", "is retired"),))])
    assert (found.start, found.expired) == (None, expired)


def test_a_job_past_its_time_keeps_its_slices_until_its_site_says_that_it_ended() -> None:
    (found,) = _plan([Capacity("a", True, 10)], [Held("overdue", "a", 10, NOW - HOUR)], [_request("r", 1)])
    assert found.start == NOW + OVERDUE


def test_fewer_nodes_in_service_than_are_held_delay_and_do_not_overbook() -> None:
    held = [Held("one", "a", 8, NOW + HOUR), Held("two", "a", 8, NOW + 2 * HOUR)]
    (found,) = _plan([Capacity("a", True, 10)], held, [_request("r", 4)])
    assert found.start == NOW + 2 * HOUR


def test_between_two_allocations_a_request_waits_for_the_second() -> None:
    gap = (Candidate("a", 5, 0, NOW), Candidate("a", 5, NOW + HOUR, NEVER))
    (found,) = _plan([Capacity("a", True, 10)], [], [Request("r", HOUR, NEVER, gap)])
    assert (found.start, found.starts_now, found.expired) == (NOW + HOUR, False, False)
    assert [reason.verdict for reason in found.reasons] == ["waits_for_allocation"]
    full = (Candidate("a", 5, 0, NOW + 9), Candidate("a", 5, NOW + 3 * HOUR, NEVER))
    (found,) = _plan([Capacity("a", True, 10)], [Held("h", "a", 10, NOW + HOUR)], [Request("r", HOUR, NEVER, full)])
    assert found.start == NOW + 3 * HOUR


def test_a_request_with_two_partitions_takes_the_one_that_is_free_first() -> None:
    capacities = [Capacity("a", True, 10), Capacity("b", True, 10)]
    both = (Candidate("a", 5, 0, NEVER), Candidate("b", 7, 0, NEVER))
    held = [Held("running", "a", 10, NOW + HOUR)]
    (found,) = _plan(capacities, held, [Request("r", HOUR, NEVER, both, elsewhere=(("c", "has no devices"),))])
    assert (found.partition_id, found.slices, found.starts_now) == ("b", 7, True)
    assert [reason.verdict for reason in found.reasons] == ["elsewhere", "waits_for_slices", "fits_now"]
