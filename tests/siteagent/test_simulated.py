"""The rules of the simulated batch system, checked against a slow second one and by properties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from aifn_siteagent.domain import Ended, Happening, Job, Partition, SegmentEnded, Started
from aifn_siteagent.simulated import LONGEST_SECONDS, advance, occupancy, read_script, requeue_after
from hypothesis import given, settings
from hypothesis import strategies as st

BEGIN = datetime(2026, 11, 21, 9, tzinfo=UTC)
UNITS = 8
NODES = 4
FAR = 100_000
GPUS = Partition("gpus", "m/gpus/gpu-time", UNITS, NODES, nodes_in_service=NODES)


def second(number: int) -> datetime:
    return BEGIN + timedelta(seconds=number)


def seconds(moment: datetime) -> int:
    return (moment - BEGIN) // timedelta(seconds=1)


def job(
    number: int,
    *,
    nodes: int = 1,
    slices: int = UNITS,
    runs: int = 10,
    walltime: int = 100,
    submitted: int = 1,
    cancel: int | None = None,
    requeue: int | None = None,
    exit_code: int = 0,
) -> Job:
    return Job(
        local_job_id=number,
        job_id=f"job-{number}",
        project_id="p",
        partition_id=GPUS.partition_id,
        resource=GPUS.resource,
        local_user="u0",
        nodes=nodes,
        slices=nodes * UNITS if nodes > 1 else slices,
        walltime_seconds=walltime,
        run_seconds=runs,
        exit_code=exit_code,
        requeue_after_seconds=requeue,
        segment=0,
        submitted_at=second(submitted),
        cancel_at=None if cancel is None else second(cancel),
        cancel_reason="" if cancel is None else "unwanted",
    )


def play(jobs: Sequence[Job], cuts: Sequence[int] = (), *, until: int = FAR) -> tuple[list[Happening], list[Job]]:
    """Everything that happens, looked at once for each cut; a job is shown only once its submission is to come."""
    happenings: list[Happening] = []
    alive: list[Job] = []
    since = 0
    for now in [*sorted(set(cuts) | {until})]:
        fresh = [one for one in jobs if since < seconds(one.submitted_at) <= now]
        done = advance(GPUS, [*alive, *fresh], since=second(since), until=second(now), nodes_in_service=NODES)
        happenings += done.happenings
        alive = list(done.alive)
        since = now
    return happenings, alive


def told(happenings: Sequence[Happening]) -> list[tuple[object, ...]]:
    """What happened as plain values."""
    found: list[tuple[object, ...]] = []
    for one in happenings:
        number = one.job.local_job_id
        if isinstance(one, Started):
            found.append((seconds(one.started_at), "starts", number, one.job.segment, one.job.on_nodes))
        elif isinstance(one, SegmentEnded):
            found.append((seconds(one.ended_at), one.state, number, one.job.segment, one.amount))
        else:
            found.append((seconds(one.ended_at), one.outcome, number, one.segments))
    return found


@st.composite
def workloads(draw: st.DrawFn, most: int = 18) -> list[Job]:
    moments = sorted(draw(st.lists(st.integers(1, 30), max_size=most)))
    jobs = []
    for number, submitted in enumerate(moments, start=1):
        runs = draw(st.sampled_from([0, 1, 5]) | st.integers(10, 40))
        walltime = draw(st.integers(1, 45))
        planned = min(runs, walltime)
        jobs.append(
            job(
                number,
                nodes=draw(st.sampled_from([1, 1, 1, 2, 3, NODES])),
                slices=draw(st.integers(1, UNITS)),
                runs=runs,
                walltime=walltime,
                submitted=submitted,
                cancel=draw(st.none() | st.integers(submitted, submitted + 50)),
                requeue=draw(st.none() | st.integers(1, planned - 1)) if planned > 1 else None,
                exit_code=draw(st.sampled_from([0, 0, 1])),
            )
        )
    return jobs


@given(workloads())
def test_no_node_ever_gives_more_slices_than_it_has(jobs: list[Job]) -> None:
    free = [UNITS] * NODES
    for one in play(jobs)[0]:
        if isinstance(one, Started):
            for node in one.job.on_nodes:
                free[node] -= one.job.slices // one.job.nodes
                assert free[node] >= 0
        elif isinstance(one, SegmentEnded):
            for node in one.job.on_nodes:
                free[node] += one.job.slices // one.job.nodes
    assert free == [UNITS] * NODES


@given(workloads())
def test_every_job_ends_exactly_once_and_says_how_many_segments_it_had(jobs: list[Job]) -> None:
    happenings, alive = play(jobs)
    ended = [one for one in happenings if isinstance(one, Ended)]
    ran = Counter(one.job.local_job_id for one in happenings if isinstance(one, SegmentEnded))
    assert alive == []
    assert sorted(one.job.local_job_id for one in ended) == [one.local_job_id for one in jobs]
    assert all(one.segments == ran[one.job.local_job_id] for one in ended)


@given(workloads())
def test_what_is_reported_is_what_was_occupied_times_how_long(jobs: list[Job]) -> None:
    began: dict[tuple[int, int], int] = {}
    for one in play(jobs)[0]:
        if isinstance(one, Started):
            began[one.job.local_job_id, one.job.segment] = seconds(one.started_at)
        elif isinstance(one, SegmentEnded):
            took = seconds(one.ended_at) - began.pop((one.job.local_job_id, one.job.segment))
            whole_nodes = one.job.nodes * UNITS if one.job.nodes > 1 else one.job.slices
            assert one.amount == whole_nodes * took
    assert began == {}


@given(workloads())
def test_a_job_left_alone_runs_as_long_as_its_script_and_its_walltime_say(jobs: list[Job]) -> None:
    for one in play(jobs)[0]:
        if not isinstance(one, SegmentEnded) or one.state == "CANCELLED":
            continue
        took = seconds(one.ended_at) - seconds(one.started_at)
        if one.kind == "requeued":
            assert took == one.job.requeue_after_seconds
        else:
            assert took == min(one.job.run_seconds, one.job.walltime_seconds)
            assert (one.state == "TIMEOUT") == (one.job.run_seconds > one.job.walltime_seconds)


@given(workloads(), st.lists(st.integers(1, 150), max_size=30))
def test_how_often_one_looks_changes_nothing(jobs: list[Job], cuts: list[int]) -> None:
    assert told(play(jobs, cuts)[0]) == told(play(jobs)[0])


@given(workloads(), st.integers(1, 150))
def test_looking_twice_at_one_instant_shows_nothing_new(jobs: list[Job], now: int) -> None:
    here = [one for one in jobs if seconds(one.submitted_at) <= now]
    once = advance(GPUS, here, since=second(0), until=second(now), nodes_in_service=NODES)
    twice = advance(GPUS, once.alive, since=second(now), until=second(now), nodes_in_service=NODES)
    assert twice.happenings == []
    assert list(twice.alive) == list(once.alive)


@settings(max_examples=200)
@given(workloads())
def test_it_does_what_the_policy_says_second_by_second(jobs: list[Job]) -> None:
    assert told(play(jobs)[0]) == slow_play(jobs)


@given(workloads(), st.integers(1, 100))
def test_the_occupancy_is_that_of_the_jobs_that_run(jobs: list[Job], now: int) -> None:
    alive = play(jobs, until=now)[1]
    seen = occupancy(GPUS, alive, at=second(now))
    used = Counter[int]()
    for one in alive:
        used.update(dict.fromkeys(one.on_nodes, one.slices // one.nodes))
    assert seen.slices_idle == NODES * UNITS - used.total()
    assert seen.nodes_idle == NODES - len(used)
    assert seen.jobs_running == sum(bool(one.on_nodes) for one in alive)
    assert seen.jobs_waiting == len(alive) - seen.jobs_running


@dataclass
class Slow:
    """One job as the slow player keeps it."""

    job: Job
    state: str = "coming"
    segment: int = 0
    queued: int = 0
    began: int = 0
    ends: int = 0
    on: tuple[int, ...] = ()


def slow_play(jobs: Sequence[Job]) -> list[tuple[object, ...]]:
    """The policy again, written as naively as can be: every second, every job, every node."""
    slow = [Slow(one, queued=seconds(one.submitted_at)) for one in jobs]
    found: list[tuple[object, ...]] = []
    for now in range(1, 30 + 18 * 90):
        if all(one.state == "gone" for one in slow):
            break
        busy = True
        while busy:
            busy = _end_at(slow, now, found)
            _cancel_at(slow, now, found)
            for one in slow:
                if one.state == "coming" and one.queued == now:
                    one.state = "waiting"
            _start_at(slow, now, found)
            busy = busy or any(one.state == "running" and one.ends == now for one in slow)
    assert all(one.state == "gone" for one in slow)
    return found


def _end_at(slow: list[Slow], now: int, found: list[tuple[object, ...]]) -> bool:
    due = [one for one in slow if one.state == "running" and one.ends == now]
    for one in due:
        amount = one.job.slices * (now - one.began)
        number = one.job.local_job_id
        if one.segment == 0 and one.job.requeue_after_seconds is not None:
            found.append((now, "REQUEUED", number, 0, amount))
            one.state, one.segment, one.queued = "waiting", 1, now
            continue
        outcome = "failed" if one.job.exit_code else "completed"
        if one.job.run_seconds > one.job.walltime_seconds:
            outcome = "timeout"
        found.append((now, outcome.upper(), number, one.segment, amount))
        found.append((now, outcome, number, one.segment + 1))
        one.state = "gone"
    return bool(due)


def _cancel_at(slow: list[Slow], now: int, found: list[tuple[object, ...]]) -> None:
    for one in slow:
        if one.job.cancel_at != second(now) or one.state == "gone":
            continue
        ran = one.state == "running"
        if ran:
            amount = one.job.slices * (now - one.began)
            found.append((now, "CANCELLED", one.job.local_job_id, one.segment, amount))
        found.append((now, "cancelled", one.job.local_job_id, one.segment + ran))
        one.state = "gone"


def _start_at(slow: list[Slow], now: int, found: list[tuple[object, ...]]) -> None:
    for one in sorted(slow, key=lambda one: (one.queued, one.job.local_job_id)):
        if one.state != "waiting":
            continue
        free = [UNITS] * NODES
        for other in slow:
            if other.state == "running":
                for node in other.on:
                    free[node] -= other.job.slices // other.job.nodes
        if one.job.nodes > 1:
            on = tuple([node for node in range(NODES) if free[node] == UNITS][: one.job.nodes])
        else:
            fitting = [node for node in range(NODES) if free[node] >= one.job.slices]
            on = tuple(sorted(fitting, key=lambda node: (free[node], node))[:1])
        if len(on) < one.job.nodes:
            continue
        planned = min(one.job.run_seconds, one.job.walltime_seconds)
        if one.segment == 0 and one.job.requeue_after_seconds is not None:
            planned = one.job.requeue_after_seconds
        one.state, one.began, one.ends, one.on = "running", now, now + planned, on
        found.append((now, "starts", one.job.local_job_id, one.segment, on))


def test_a_share_goes_to_the_node_where_it_leaves_least_free() -> None:
    jobs = [job(1, slices=3), job(2, slices=6), job(3, slices=2), job(4, slices=5)]
    placed = {one.job.local_job_id: one.job.on_nodes for one in play(jobs)[0] if isinstance(one, Started)}
    assert placed == {1: (0,), 2: (1,), 3: (1,), 4: (0,)}


def test_a_later_job_that_fits_passes_one_that_does_not() -> None:
    happenings, _ = play([job(1, nodes=3, runs=50), job(2, nodes=2), job(3, slices=4)], until=2)
    assert [one.job.local_job_id for one in happenings] == [1, 3]


def test_one_slice_less_can_make_the_difference() -> None:
    full = [job(number, slices=UNITS - 3, runs=50) for number in range(1, NODES + 1)]
    happenings, _ = play([*full, job(8, slices=4), job(9, slices=3)], until=2)
    assert [one.job.local_job_id for one in happenings] == [1, 2, 3, 4, 9]


def test_one_node_less_can_make_the_difference() -> None:
    happenings, _ = play([job(1, nodes=2, runs=50), job(8, nodes=3), job(9, nodes=2)], until=2)
    assert [one.job.local_job_id for one in happenings] == [1, 9]


def test_a_requeued_job_waits_again_and_its_second_segment_is_complete() -> None:
    happenings, _ = play([job(1, runs=10, requeue=4)])
    parts = [one for one in happenings if isinstance(one, SegmentEnded)]
    assert [(one.kind, one.state, one.amount) for one in parts] == [
        ("requeued", "REQUEUED", 4 * UNITS),
        ("run", "COMPLETED", 10 * UNITS),
    ]
    assert [seconds(one.job.submitted_at) for one in parts] == [1, 5]
    assert [one.segments for one in happenings if isinstance(one, Ended)] == [2]


def test_a_job_cancelled_after_its_requeue_keeps_the_segment_it_had() -> None:
    blocked = [job(1, runs=10, requeue=4), job(2, nodes=NODES, runs=80, submitted=2)]
    happenings, _ = play([replace(blocked[0], cancel_at=second(5)), blocked[1]])
    assert next((one.outcome, one.segments) for one in happenings if isinstance(one, Ended)) == ("cancelled", 1)


def test_an_end_at_the_instant_of_its_cancellation_counts_as_an_end() -> None:
    happenings, _ = play([job(1, runs=10, cancel=11)])
    assert told(happenings)[-1] == (11, "completed", 1, 1)


def test_nodes_that_leave_service_end_their_jobs_and_take_no_more() -> None:
    first = advance(GPUS, [job(1, nodes=4, runs=10)], since=second(0), until=second(2), nodes_in_service=2)
    smaller = replace(GPUS, nodes_in_service=2)
    assert occupancy(smaller, first.alive, at=second(2)).slices_idle == 0
    later = [*first.alive, job(2, nodes=3, submitted=3), job(3, nodes=2, submitted=3)]
    done = advance(smaller, later, since=second(2), until=second(30), nodes_in_service=2)
    assert [one.job.local_job_id for one in done.happenings if isinstance(one, Ended)] == [1, 3]
    assert [one.job_id for one in done.alive] == ["job-2"]


def test_nodes_that_come_into_service_take_what_waits_at_that_instant() -> None:
    empty = replace(GPUS, nodes_in_service=0)
    done = advance(empty, [job(1, runs=0)], since=second(0), until=second(7), nodes_in_service=1)
    assert told(done.happenings) == [(7, "starts", 1, 0, (0,)), (7, "COMPLETED", 1, 0, 0), (7, "completed", 1, 1)]


def test_a_number_in_a_script_may_be_absurd() -> None:
    assert read_script("sleep " + "9" * 60_000).run_seconds == LONGEST_SECONDS
    assert read_script("sleep 1\n" * 8_000).run_seconds == 8_000
    assert read_script("sleep -5\nsleep 1.5\nsleep ٣\n# sleep 9").run_seconds == 0


@given(st.text(max_size=12), st.integers(0, 100_000), st.integers(0, 1000))
def test_a_requeue_cuts_a_run_and_never_empties_it(job_id: str, planned: int, per_mille: int) -> None:
    cut = requeue_after(job_id, planned, per_mille=per_mille, seed="s")
    assert cut is None or 1 <= cut < planned
    assert cut == requeue_after(job_id, planned, per_mille=per_mille, seed="s")
    assert per_mille or cut is None
    assert cut is not None or planned < 2 or per_mille < 1000


def test_about_as_many_jobs_are_requeued_as_configured() -> None:
    cut = sum(requeue_after(f"job-{number}", 100, per_mille=50, seed="s") is not None for number in range(10_000))
    assert 400 < cut < 600
