"""The demo's firms and the jobs they ask for: who goes where, with which award, and that no job is lost."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aifn_local import story
from aifn_local.demo import ALL_SECONDS, ARRIVAL_SECONDS, Outcome, Workload, factor_for, first_job_steps
from aifn_local.errors import StackError
from aifn_local.people import Person
from aifn_local.story import (
    CPU_PARTITION,
    LONGEST_WALLTIME_SECONDS,
    MOST_PROJECTS,
    PARTITIONS,
    Venture,
    application_of,
    cpu_wishes,
    in_service,
    suggestions,
    ventures,
    wishes,
)
from aifn_local.workload import HOUR, TraceJob, philly
from aifn_registry import first_day
from hypothesis import given
from hypothesis import strategies as st

DAY = 24 * HOUR


def job(number: int = 1, *, run: int = HOUR, devices: int = 1, group: str = "g", **values: Any) -> TraceJob:
    found = {"submitted_second": 0, "requested_seconds": None} | values
    return TraceJob(number=number, run_seconds=run, devices=devices, group=group, **found)


def asking_for(gpu_hours: int, group: str) -> list[TraceJob]:
    """Jobs of one group that need exactly this on a machine whose every device is one GPU, or on LUMI-G."""
    return [
        job(number, run=HOUR, devices=8, group=group, requested_seconds=10 * HOUR) for number in range(gpu_hours // 80)
    ]


traces = st.lists(
    st.builds(
        TraceJob,
        number=st.integers(1, 10**6),
        submitted_second=st.integers(0, 3 * DAY),
        run_seconds=st.integers(1, 30 * DAY),
        devices=st.integers(1, 64),
        group=st.sampled_from([*(f"g{n}" for n in range(20)), "others", "more-others"]),
        requested_seconds=st.none() | st.integers(1, 30 * DAY),
    ),
    max_size=60,
    unique_by=lambda one: one.number,
)


@given(traces, st.integers(0, 99))
def test_every_job_is_in_exactly_one_of_at_most_eleven_projects(jobs: Sequence[TraceJob], seed: int) -> None:
    firms = ventures(jobs, seed=seed)
    assert len(firms) <= MOST_PROJECTS
    assert Counter(one.number for firm in firms for one in firm.jobs) == Counter(one.number for one in jobs)
    assert len({firm.group for firm in firms}) == len(firms)


@given(traces)
def test_an_award_is_what_its_mode_allows_and_a_walltime_what_the_partition_does(jobs: Sequence[TraceJob]) -> None:
    for firm in ventures(jobs, seed=1):
        assert len(firm.walltimes) == len(firm.jobs)
        assert all(60 <= walltime <= LONGEST_WALLTIME_SECONDS for walltime in firm.walltimes)
        if firm.call == "aif-playground":
            assert firm.gpu_hours == 5_000
        else:
            assert firm.call == "aif-fast-lane"
            assert 10_000 < firm.gpu_hours <= 50_000
            assert firm.needed_gpu_hours > 5_000


@given(traces)
def test_a_job_that_tells_no_walltime_asks_for_more_than_it_runs_unless_the_cap_forbids(jobs: list[TraceJob]) -> None:
    for firm in ventures(jobs, seed=1):
        for one, walltime in zip(firm.jobs, firm.walltimes, strict=True):
            if one.requested_seconds is None:
                assert walltime >= min(one.run_seconds, LONGEST_WALLTIME_SECONDS)


def test_the_same_seed_makes_the_same_firms_whatever_the_order_of_the_log() -> None:
    jobs = philly()[:300]
    first, again = ventures(jobs, seed=7), ventures(jobs[::-1], seed=7)
    assert [(firm.group, firm.walltimes) for firm in first] == [(firm.group, firm.walltimes) for firm in again]
    other = ventures(jobs, seed=8)
    assert [firm.walltimes for firm in first] != [firm.walltimes for firm in other]


def test_the_two_largest_groups_go_to_the_two_other_machines_and_the_rest_to_lumi() -> None:
    jobs = [job(n, run=HOUR * (10 - n), group=f"g{n}") for n in range(5)]
    firms = ventures(jobs, seed=1)
    assert [firm.group for firm in firms] == ["g0", "g1", "g2", "g3", "g4"]
    assert [firm.partition.name for firm in firms] == ["mn5-acc", "leonardo-booster", "lumi-g", "lumi-g", "lumi-g"]


def test_groups_beyond_the_eleventh_are_one_project_even_if_one_of_them_is_called_so() -> None:
    names = ["others", *(f"g{n}" for n in range(MOST_PROJECTS))]
    firms = ventures([job(n, run=100 * (99 - n), group=name) for n, name in enumerate(names)], seed=1)
    assert len(firms) == MOST_PROJECTS
    assert Counter(len(firm.jobs) for firm in firms) == {1: MOST_PROJECTS - 1, 2: 1}
    assert len({firm.group for firm in firms}) == MOST_PROJECTS


@pytest.mark.parametrize(
    ("need", "place", "call", "granted"),
    [
        (4_000, 0, "aif-playground", 5_000),
        (4_960, 1, "aif-playground", 5_000),
        (5_040, 0, "aif-fast-lane", 10_001),
        (5_040, 1, "aif-playground", 5_000),
        (9_600, 1, "aif-playground", 5_000),
        (10_080, 1, "aif-fast-lane", 10_584),
        (47_600, 0, "aif-fast-lane", 49_980),
        (64_000, 0, "aif-fast-lane", 50_000),
    ],
)
def test_the_mode_follows_the_need_and_the_hole_between_the_modes_is_met_from_both_sides(
    need: int, place: int, call: str, granted: int
) -> None:
    larger = asking_for(80_000, "larger") if place == 1 else []
    firm = next(one for one in ventures([*larger, *asking_for(need, "mine")], seed=1) if one.group == "mine")
    assert firm.partition == PARTITIONS[1 + place]
    assert firm.needed_gpu_hours == need
    assert (firm.call, firm.gpu_hours) == (call, granted)


def test_gpus_are_counted_as_accounting_does_and_a_job_above_one_node_takes_whole_nodes() -> None:
    lumi, mn5, _ = PARTITIONS
    assert Venture("g", lumi, [job(devices=2)], [HOUR]).needed_gpu_hours == 1
    assert Venture("g", lumi, [job(devices=9)], [HOUR]).needed_gpu_hours == 8
    assert Venture("g", mn5, [job(devices=3)], [HOUR]).needed_gpu_hours == 3
    assert Venture("g", mn5, [job(devices=5)], [HOUR]).needed_gpu_hours == 8
    assert Venture("g", mn5, [job(devices=1)], [1]).needed_gpu_hours == 1, "rounded up"


@given(traces)
def test_what_is_in_service_is_enough_for_the_largest_job(jobs: Sequence[TraceJob]) -> None:
    firms = ventures(jobs, seed=1)
    nodes = in_service(firms)
    assert all(nodes[one.name] >= one.nodes for one in PARTITIONS)
    for firm in firms:
        assert all(one.devices <= nodes[firm.partition.name] * firm.partition.devices_per_node for one in firm.jobs)


def test_no_more_than_the_usual_slice_is_in_service_when_it_suffices() -> None:
    assert in_service(ventures(philly(), seed=1)) == in_service(())
    assert in_service(ventures([job(devices=83)], seed=1)) == in_service(()) | {"mn5-acc": 21}


def test_no_more_is_in_service_than_the_passport_has() -> None:
    assert in_service(ventures([job(devices=1_000_000)], seed=1)) == in_service(()) | {"mn5-acc": 1120}
    described = {one.partition_id: one.nodes for machine in first_day.machines() for one in machine.partitions}
    for one in (*PARTITIONS, CPU_PARTITION):
        assert one.described == described[one.name]


def test_an_application_names_call_partition_and_hours() -> None:
    (firm,) = ventures([job()], seed=1)
    asked = application_of(firm)
    assert asked["call_id"] == "aif-playground"
    assert asked["asks"] == [{"partition_id": "mn5-acc", "gpu_hours": 5_000}]


@given(traces)
def test_wishes_are_all_jobs_in_order_with_their_own_run_time_in_the_script(jobs: Sequence[TraceJob]) -> None:
    firms = ventures(jobs, seed=1)
    for firm in firms:
        firm.project = f"p-{firm.group}"
    asked = wishes(firms)
    assert [one.second for one in asked] == sorted(one.submitted_second for one in jobs)
    by_number = {one.number: one for one in jobs}
    assert len(asked) == len(jobs)
    for one in asked:
        source = by_number[one.number]
        assert one.body["script"].splitlines()[-1] == f"sleep {source.run_seconds}"
        assert one.body["devices"] == source.devices
        assert one.project == one.body["project_id"]


def test_a_cpu_job_asks_for_cores_and_for_an_hour_when_nothing_else_is_known() -> None:
    known, unknown = cpu_wishes("p", [job(1, devices=96, requested_seconds=99 * DAY), job(2)])
    assert (known.body["cores"], known.body["walltime_seconds"]) == (96, LONGEST_WALLTIME_SECONDS)
    assert unknown.body["walltime_seconds"] == HOUR
    assert "devices" not in known.body


@given(traces)
def test_the_factor_lets_all_jobs_arrive_and_end_in_time(jobs: Sequence[TraceJob]) -> None:
    factor = factor_for(jobs)
    assert factor >= 60
    for one in jobs:
        assert one.submitted_second <= factor * ARRIVAL_SECONDS
        assert one.submitted_second + min(one.run_seconds, LONGEST_WALLTIME_SECONDS) <= factor * ALL_SECONDS


def test_the_factor_is_no_larger_than_needed() -> None:
    assert factor_for([]) == 60
    assert factor_for([job(run=30 * DAY)]) == -(-LONGEST_WALLTIME_SECONDS // ALL_SECONDS)
    assert factor_for([job(run=1, submitted_second=70_001)]) == 1001


# Courses because of an award


class Asking(Person):
    """Somebody to whom skills gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: list[dict[str, str]]) -> None:
        self.answers = list(answers)

    async def get(self, service: str, path: str, **query: Any) -> Any:
        assert (service, path, query) == ("skills", "/v1/suggestions", {"project_id": "p"})
        return {"items": self.answers.pop(0) if len(self.answers) > 1 else self.answers[0], "next": None}


async def test_suggestions_are_awaited_until_the_award_has_arrived() -> None:
    found = [{"course_id": "rocm-porting"}]
    pi = Asking([], [], found)
    assert await suggestions(pi, "p") == found
    assert pi.answers == [found]


async def test_suggestions_are_not_awaited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(StackError, match="nothing was suggested to p"):
        await suggestions(Asking([]), "p")


# From request to first job

START = datetime(2026, 11, 21, 9, tzinfo=UTC)


def at(second: float) -> str:
    return (START + timedelta(seconds=second)).isoformat()


def granted(project: str, call: str = "aif-playground", *, after: float = 10) -> Venture:
    firm = Venture(project, PARTITIONS[0], [], [], call, 5_000, project)
    firm.application = {"submitted_at": at(0), "award": {"awarded_at": at(after)}}
    firm.opened_at = START + timedelta(seconds=after + 20)
    return firm


def started(project: str, second: float | None) -> dict[str, Any]:
    moments = {"submitted_at": 50, "placed_at": 60, "dispatched_at": 65}
    return {"project_id": project, "started_at": None if second is None else at(second)} | {
        name: at(second) for name, second in moments.items()
    }


def outcome_of(firms: list[Venture], jobs: list[dict[str, Any]]) -> Outcome:
    return Outcome(Workload([], "made up"), 60, firms, jobs=list(jobs))


def test_the_way_to_the_first_job_is_told_step_by_step_and_the_steps_are_the_whole() -> None:
    steps = first_job_steps(outcome_of([granted("p1")], [started("p1", 90), started("p1", 70), started("p1", None)]))
    assert [took for _, took in steps] == [10, 20, 20, 10, 5, 5]
    assert sum(took for _, took in steps) == 70


def test_the_firm_that_was_served_soonest_is_told_of_and_only_playground_counts() -> None:
    firms = [granted("slow"), granted("quick"), granted("fast-lane", "aif-fast-lane"), granted("none")]
    jobs = [started("slow", 300), started("quick", 100.5), started("fast-lane", 66), started("none", None)]
    assert sum(took for _, took in first_job_steps(outcome_of(firms, jobs))) == 100.5


def test_there_is_no_way_to_tell_of_when_no_playground_job_started() -> None:
    assert first_job_steps(outcome_of([], [])) == []
    assert first_job_steps(outcome_of([granted("p1")], [started("p1", None)])) == []
