"""The demo's jobs: the slice is what its README says, logs are read strictly, the model is the published one."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from aifn_local.workload import (
    HOUR,
    USUAL_WALLTIMES,
    BadTrace,
    TraceJob,
    generate,
    parse_csv,
    parse_swf,
    philly,
    read_csv,
    read_swf,
    requested_walltime,
)
from hypothesis import given, settings
from hypothesis import strategies as st

TRACES = Path(__file__).resolve().parents[3] / "shared" / "data" / "traces"
HEADING = "job,submitted_at,duration_seconds,gpus,virtual_cluster"
GOOD_ROW = "1,2017-11-07T00:01:56Z,17,2,11cb48"


def _swf(*, submit: object = 100, run: object = 60, allocated: object = 4, asked: object = 4, time: object = -1) -> str:
    return f"1 {submit} 5 {run} {allocated} -1 -1 {asked} {time} -1 1 7 7 -1 -1 -1 -1 -1"


def _trace(name: str) -> Path:
    path = TRACES / name
    if not path.exists():
        pytest.skip(f"the trace {name} is not beside the repository")
    return path


def test_the_carried_slice_is_what_its_readme_says() -> None:
    jobs = philly()
    assert [job.number for job in jobs] == list(range(1, 2_001))
    assert Counter(job.devices for job in jobs) == {1: 1_759, 2: 51, 4: 89, 8: 91, 16: 9, 32: 1}
    assert len({job.group for job in jobs}) == 11
    assert sum(job.devices * job.run_seconds for job in jobs) == 105_620_666
    assert sum(job.run_seconds > 48 * HOUR for job in jobs) == 42
    assert (jobs[0].submitted_second, jobs[-1].submitted_second) == (0, 2 * 86_400 + 9 * HOUR + 12 * 60 + 18)


def test_the_carried_slice_is_in_order_of_submission_and_names_no_walltime() -> None:
    submitted = [job.submitted_second for job in philly()]
    assert submitted == sorted(submitted)
    assert {job.requested_seconds for job in philly()} == {None}


def test_a_csv_of_the_same_columns_is_read_from_a_path_plain_or_gzipped(tmp_path: Path) -> None:
    text = f"{HEADING}\n{GOOD_ROW}\n2,2017-11-07T01:02:00+01:00,9,1,other\n"
    plain, zipped = tmp_path / "jobs.csv", tmp_path / "jobs.csv.gz"
    plain.write_text(text)
    zipped.write_bytes(gzip.compress(text.encode()))
    second = TraceJob(number=2, submitted_second=4, run_seconds=9, devices=1, group="other", requested_seconds=None)
    assert read_csv(plain) == read_csv(zipped)
    assert read_csv(plain)[1] == second


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2,2017-11-07T00:01:56Z,17,2", "4 columns, expected 5"),
        ("", "0 columns, expected 5"),
        ("2,yesterday,17,2,11cb48", "submitted_at is no time"),
        ("2,2017-11-07T00:01:56,17,2,11cb48", "names no time zone"),
        ("2,2017-11-07T00:01:56Z,0,2,11cb48", "duration_seconds is no whole number above zero"),
        ("2,2017-11-07T00:01:56Z,17.5,2,11cb48", "duration_seconds is no whole number above zero"),
        ("2,2017-11-07T00:01:56Z,17,-1,11cb48", "gpus is no whole number above zero"),
        ("two,2017-11-07T00:01:56Z,17,2,11cb48", "job is no whole number above zero"),
        ("2,2017-11-07T00:01:56Z,17,2,", "virtual_cluster is empty"),
    ],
)
def test_a_row_that_cannot_be_a_job_is_refused_with_its_line(row: str, reason: str) -> None:
    with pytest.raises(BadTrace, match=reason) as refused:
        parse_csv(f"{HEADING}\n{GOOD_ROW}\n{row}\n{GOOD_ROW}\n", source="test")
    assert refused.value.line == 3


@pytest.mark.parametrize("text", ["", "job,duration\n1,2\n", GOOD_ROW])
def test_a_csv_without_the_right_heading_is_refused(text: str) -> None:
    with pytest.raises(BadTrace, match="expected the heading job,submitted_at") as refused:
        parse_csv(text, source="test")
    assert refused.value.line == 1


def test_a_workload_without_any_job_is_refused() -> None:
    with pytest.raises(BadTrace, match="holds no job that ran"):
        parse_csv(HEADING, source="test")
    with pytest.raises(BadTrace, match="holds no job that ran"):
        parse_swf(["; nothing", _swf(run=0)], source="test")


def test_a_file_that_is_not_there_or_broken_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.swf.gz"
    broken.write_bytes(gzip.compress(_swf().encode() * 100)[:-12])
    for path in (tmp_path / "none.swf", broken):
        with pytest.raises(BadTrace, match="cannot be read") as refused:
            read_swf(path)
        assert refused.value.line == 0


def test_an_swf_line_becomes_a_job_counted_from_the_first() -> None:
    lines = ["; Version: 2.2", "", _swf(submit=500, time=90), "  " + _swf(submit=100) + "  ; a remark"]
    assert parse_swf(lines, source="test") == [
        TraceJob(1, submitted_second=0, run_seconds=60, devices=4, group="user-7", requested_seconds=None),
        TraceJob(1, submitted_second=400, run_seconds=60, devices=4, group="user-7", requested_seconds=90),
    ]


def test_an_swf_job_that_never_ran_or_has_no_size_is_left_out() -> None:
    lines = [_swf(run=0), _swf(run=-1), _swf(allocated=-1, asked=-1), _swf(run=5)]
    assert [job.run_seconds for job in parse_swf(lines, source="test")] == [5]


def test_the_requested_processors_stand_in_for_unknown_allocated_ones() -> None:
    assert parse_swf([_swf(allocated=-1, asked=16)], source="test")[0].devices == 16


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1 2 3", "3 columns, expected 18"),
        (_swf() + " 1", "19 columns, expected 18"),
        (_swf(run="soon"), "column 4 is no whole number: 'soon'"),
        (_swf(run="60.5"), "column 4 is no whole number"),
        (_swf(allocated="9" * 19), "column 5 is no whole number"),
        (_swf(submit=-7), "submitted before the log began: -7"),
    ],
)
def test_an_swf_line_that_cannot_be_read_is_refused_with_its_line(line: str, reason: str) -> None:
    with pytest.raises(BadTrace, match=reason) as refused:
        parse_swf(["; a comment", _swf(), line], source="test")
    assert refused.value.line == 3


@given(run=st.integers(1, 10**6), estimate=st.integers(1, 10**6))
def test_a_job_that_outran_its_estimate_is_cut_at_the_estimate(run: int, estimate: int) -> None:
    job = parse_swf([_swf(run=run, time=estimate)], source="test")[0]
    assert (job.run_seconds, job.requested_seconds) == (min(run, estimate), estimate)


@given(st.lists(st.text(alphabet="0123456789-;. \tx\r", max_size=80), max_size=5))
def test_any_text_is_either_jobs_or_a_refusal(lines: list[str]) -> None:
    try:
        jobs = parse_swf([*lines, _swf()], source="test")
    except BadTrace as error:
        refused_line, jobs = error.line, []
    else:
        refused_line = 0
    assert refused_line <= len(lines)
    assert bool(jobs) is (refused_line == 0)
    assert all(job.run_seconds >= 1 and job.devices >= 1 and job.submitted_second >= 0 for job in jobs)


@given(run=st.integers(1, 10**7), seed=st.integers(0, 2**32))
def test_a_made_up_walltime_is_usual_and_covers_the_run_unless_the_limit_is_in_the_way(run: int, seed: int) -> None:
    asked = requested_walltime(run, Random(seed))
    assert asked in USUAL_WALLTIMES
    assert asked >= run or asked == 48 * HOUR
    below = [usual for usual in USUAL_WALLTIMES if usual < asked]
    assert not below or below[-1] < 2 * run


def test_made_up_walltimes_come_from_the_seed_only() -> None:
    first, second = ([requested_walltime(run, Random(seed)) for run in range(1, 90_000, 997)] for seed in (3, 3))
    assert first == second
    assert first != [requested_walltime(run, Random(4)) for run in range(1, 90_000, 997)]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    jobs=st.integers(0, 60),
    largest=st.integers(16, 5_000),
    groups=st.integers(1, 12),
    rate=st.floats(0.1, 1_000),
)
def test_generated_jobs_are_possible_jobs(seed: int, jobs: int, largest: int, groups: int, rate: float) -> None:
    made = generate(seed, jobs, largest=largest, groups=groups, rate=rate)
    assert [job.number for job in made] == list(range(1, jobs + 1))
    assert all(1 <= job.devices <= largest and 1 <= job.run_seconds <= 162_754 for job in made)
    assert {job.group for job in made} <= {f"group-{rank}" for rank in range(1, groups + 1)}
    assert all(job.requested_seconds is not None and job.requested_seconds >= job.run_seconds for job in made)
    submitted = [job.submitted_second for job in made]
    assert submitted == sorted(submitted)
    assert submitted[:1] in ([], [0])


def test_the_same_seed_generates_the_same_jobs_and_another_seed_others() -> None:
    assert generate(7, 50) == generate(7, 50)
    assert generate(7, 50) != generate(8, 50)


def test_generated_sizes_follow_the_published_shares() -> None:
    made = generate(1, 20_000)
    serial = sum(job.devices == 1 for job in made) / len(made)
    powers = sum(job.devices & (job.devices - 1) == 0 and job.devices > 1 for job in made) / len(made)
    assert serial == pytest.approx(0.2927, abs=0.01)
    # a size that is not rounded on purpose may still be a power of two by chance
    assert 0.6686 - 0.01 <= powers <= 1 - 0.2927


def test_larger_generated_jobs_run_longer_and_choose_the_long_gamma_more_often() -> None:
    made = generate(2, 20_000)
    small, large = ([j for j in made if j.devices == 1], [j for j in made if j.devices >= 64])
    # the long gamma has mean 639.1 x 0.0156 = 9.97 in the logarithm and is narrow, so e**9 parts the two
    share_small, share_large = (sum(j.run_seconds > 8_103 for j in group) / len(group) for group in (small, large))
    assert 0.30 <= share_small <= 0.40
    assert share_large >= share_small + 0.1


def test_generated_arrivals_have_a_daily_cycle_that_peaks_after_noon_and_is_low_at_night() -> None:
    per_hour = Counter(job.submitted_second // HOUR % 24 for job in generate(3, 20_000))
    afternoon, night = (sum(per_hour[hour] for hour in hours) for hours in ((12, 13, 14, 15), (2, 3, 4, 5)))
    assert afternoon > 3 * night


def test_a_higher_rate_brings_the_same_number_of_jobs_in_less_time() -> None:
    slow, fast = (generate(5, 2_000, rate=rate)[-1].submitted_second for rate in (1.0, 10.0))
    assert fast * 8 < slow < fast * 12


@pytest.mark.parametrize(
    "wrong", [{"jobs": -1}, {"largest": 15}, {"groups": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"rate": 1e9}]
)
def test_arguments_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cannot generate"):
        generate(**{"seed": 1, "jobs": 1, **wrong})  # type: ignore[arg-type]


def test_the_kth_log_is_read_whole() -> None:
    path = _trace("KTH-SP2-1996-2.1-cln.swf.gz")
    with gzip.open(path, "rt") as log:
        assert sum(not line.startswith(";") for line in log) == 28_476
    jobs = read_swf(path)
    assert len(jobs) == 28_476 - 8 - 1  # eight never ran, one has no size
    assert max(job.devices for job in jobs) == 100
    assert all(job.requested_seconds and job.run_seconds <= job.requested_seconds for job in jobs)


def test_the_theta_log_is_read_whole() -> None:
    jobs = read_swf(_trace("ALCF-Theta-2022.swf.gz"))
    assert len(jobs) == 23_387
    assert max(job.devices for job in jobs) == 4_392


def test_the_carried_slice_is_a_run_of_consecutive_jobs_of_the_log() -> None:
    with gzip.open(_trace("philly-2017-jobs.csv.gz"), "rt") as log:
        rows = [line.rstrip("\n").split(",") for line in log][1:]
    later = sorted((row for row in rows if row[0] >= "2017-11-07"), key=lambda row: row[0])[:2_000]
    carried = [(job.run_seconds, job.devices, job.group) for job in philly()]
    assert carried == [(-int(-float(row[1]) // 1), int(row[2]), row[4]) for row in later]
