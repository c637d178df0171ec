"""Where the demo's jobs come from: the slice of real jobs we carry, a log in the standard format, or a model."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import NoReturn

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60
HOUR = 3_600
USUAL_WALLTIMES = (15 * MINUTE, 30 * MINUTE, *(hours * HOUR for hours in (1, 2, 4, 6, 12, 24, 48)))
SWF_COLUMNS = 18
CSV_COLUMNS = ["job", "submitted_at", "duration_seconds", "gpus", "virtual_cluster"]


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One job of a workload.

    Args:
        number: the job's number in its source.
        submitted_second: seconds after the first job of the workload, >= 0.
        run_seconds: how long it runs if nothing stops it, >= 1.
        devices: scheduler-visible devices (or processors) it needs together, >= 1.
        group: who submitted it: a virtual cluster, a user of the log, or a made-up group.
        requested_seconds: the walltime its user asked for; None if the source does not tell.
    """

    number: int
    submitted_second: int
    run_seconds: int
    devices: int
    group: str
    requested_seconds: int | None


class BadTrace(ValueError):
    """A workload file says something that cannot be a job; `line` counts from 1, 0 stands for the whole file."""

    def __init__(self, source: str, *, line: int, reason: str) -> None:
        super().__init__(f"{source}, line {line}: {reason}" if line else f"{source}: {reason}")
        self.source = source
        self.line = line
        self.reason = reason


def philly() -> list[TraceJob]:
    """The 2,000 real deep-learning jobs that come with this package; `data/README.md` tells all about them."""
    name = "philly-2000.csv"
    return parse_csv(files("aifn_local").joinpath("data", name).read_text(encoding="utf-8"), source=name)


def read_csv(path: Path) -> list[TraceJob]:
    """Read jobs from a file with the columns of `data/philly-2000.csv`. Raises BadTrace."""
    return parse_csv(_read(path), source=path.name)


def read_swf(path: Path) -> list[TraceJob]:
    """Read jobs from a log in the Standard Workload Format, plain or gzipped. Raises BadTrace."""
    return parse_swf(_read(path).split("\n"), source=path.name)


def parse_csv(text: str, *, source: str) -> list[TraceJob]:
    """Turn rows of job, submitted_at (ISO 8601 with zone), duration_seconds, gpus, virtual_cluster into jobs.

    Raises: BadTrace, with the line, for a wrong heading, a missing or extra column, or a value that cannot be.

    >>> parse_csv('''job,submitted_at,duration_seconds,gpus,virtual_cluster
    ... 1,2017-11-07T00:01:56Z,17,2,11cb48
    ... 2,2017-11-07T00:02:00Z,90,1,6214e9''', source="two jobs")[1].submitted_second
    4
    """
    rows = csv.reader(io.StringIO(text))
    try:
        if next(rows, None) != CSV_COLUMNS:
            raise BadTrace(source, line=1, reason=f"expected the heading {','.join(CSV_COLUMNS)}")
        return _from_the_first([_csv_job(row, source, rows.line_num) for row in rows], source)
    except csv.Error as error:
        raise BadTrace(source, line=rows.line_num, reason=str(error)) from error


def parse_swf(lines: Iterable[str], *, source: str) -> list[TraceJob]:
    """Turn lines of the Standard Workload Format into jobs, in order of submission.

    18 columns, `;` begins a comment, -1 is unknown. Used: 1 number, 2 submit, 4 run, 5 allocated processors (or 8,
    the requested ones, if 5 is unknown), 9 requested time, 12 user. A job that never ran (run <= 0) or whose size is
    unknown cannot be played again and is left out; a job that outran its estimate is cut at the estimate.

    Raises: BadTrace, with the line and what is wrong with it.
    Source: Chapin et al., "Benchmarks and Standards for the Evaluation of Parallel Job Schedulers", JSSPP 1999.

    >>> line = "15 599850 192180 3477 4 -1 -1 4 1800 -1 1 12 12 -1 -1 -1 -1 -1"
    >>> parse_swf([line], source="one job")[0].run_seconds
    1800
    """
    return _from_the_first(list(_swf_jobs(lines, source)), source)


def requested_walltime(run_seconds: int, rng: Random) -> int:
    """The walltime a user might have asked for, where the log does not tell: an assumption, to be printed as one.

    People round up: the duration times a factor drawn evenly from [1.0, 2.0], then the next usual value at or above
    it (15 or 30 minutes; 1, 2, 4, 6, 12, 24 or 48 hours). Nobody may ask for more than 48 hours, so a longer job
    runs into its limit.

    >>> requested_walltime(50 * MINUTE, Random(1)) // HOUR
    1
    >>> requested_walltime(500 * HOUR, Random(1)) // HOUR
    48
    """
    wanted = run_seconds * rng.uniform(1.0, 2.0)
    return next((usual for usual in USUAL_WALLTIMES if usual >= wanted), USUAL_WALLTIMES[-1])


def generate(seed: int, jobs: int, *, largest: int = 128, groups: int = 8, rate: float = 1.0) -> list[TraceJob]:
    """Make up jobs by the workload model of Lublin and Feitelson, with its published parameters for batch jobs.

    Args:
        seed: the same seed gives the same jobs.
        jobs: how many, >= 0.
        largest: devices of the largest job, >= 16.
        groups: how many groups submit, >= 1.
        rate: arrivals in this multiple of the published rate, 0.001 to 1,000; the daily cycle stays.

    Three parts, as published: the size is 1 with a fixed probability, else 2 to the power of a two-stage uniform
    number, which is rounded (a power of two) with another fixed probability; the natural logarithm of the run time
    is hyper-gamma, and larger jobs choose the longer of its two gammas more often; the logarithm of the time between
    arrivals is gamma, stretched by a daily cycle of 48 half-hours that starts at midnight.

    Source: U. Lublin and D. G. Feitelson, "The workload on parallel supercomputers: modeling the characteristics of
    rigid jobs", Journal of Parallel and Distributed Computing 63(11), 2003. The parameters are those of the authors'
    program, in the Parallel Workloads Archive (`m_lublin99`).

    Simplified here: batch jobs only, no interactive ones; the model was fitted to machines of up to some hundred
    processors before 2000, and for another `largest` only the two upper ends of the size distribution move with it,
    by the authors' rule, while sizes rounded beyond `largest` are cut. The model knows no users: groups are ours,
    drawn with weight 1/rank. It knows no estimates either: `requested_walltime` makes them.

    Raises: ValueError for arguments outside their range.
    """
    if jobs < 0 or largest < 16 or groups < 1 or not 0.001 <= rate <= 1_000:
        raise ValueError(f"cannot generate {jobs} jobs of up to {largest} devices for {groups} groups at rate {rate}")
    rng = Random(seed)  # noqa: S311  (the jobs are to be the same again, not secret)
    names = [f"group-{rank}" for rank in range(1, groups + 1)]
    weights = [1 / rank for rank in range(1, groups + 1)]
    arrivals = _arrivals(rng, rate)
    made = []
    for number in range(1, jobs + 1):
        devices = _size(rng, largest)
        run_seconds = _run_seconds(rng, devices)
        made.append(
            TraceJob(
                number=number,
                submitted_second=next(arrivals),
                run_seconds=run_seconds,
                devices=devices,
                group=rng.choices(names, weights)[0],
                requested_seconds=requested_walltime(run_seconds, rng),
            )
        )
    return _from_the_first(made, "generated") if made else []


# Size: probabilities of a serial job and of a power of two, and the two-stage uniform of the base-2 logarithm.
SERIAL_SHARE = 0.2927
POWER_OF_TWO_SHARE = 0.6686
LOG2_LOW = 1.2
LOG2_MIDDLE_BELOW_TOP = 2.0  # 5 where the largest job has 2**7; the authors allow 1.5 to 3.5
LOWER_STAGE_SHARE = 0.875

# Run time: two gammas (shape, scale) of the natural logarithm; the share of the first falls with the size.
SHORT_RUNS = (6.57, 0.823)
LONG_RUNS = (639.1, 0.0156)
SHORT_SHARE_PER_DEVICE = -0.003
SHORT_SHARE_BASE = 0.6986
LONGEST_LOG_RUN = 12.0

# Arrivals: gamma of the logarithm of the gap in rush hours (the shape times a factor for all hours of the day), and
# the gamma that says how the arrivals of a day spread over its half-hours.
GAP_SHAPE = 6.0415 * 1.0519
GAP_SCALE = 0.8531
LONGEST_LOG_GAP = 13.0
DAY_SHAPE = 6.1271
DAY_SCALE = 5.2740
HALF_HOURS = 48
FIRST_HALF_HOUR = 11  # the fitted day begins at half past five
HALF_HOUR_SECONDS = 1_800


def _size(rng: Random, largest: int) -> int:
    """Draw the devices of one job, 1 to `largest`."""
    kind = rng.random()
    if kind <= SERIAL_SHARE:
        return 1
    top = math.log2(largest)
    middle = top - LOG2_MIDDLE_BELOW_TOP
    in_lower_stage = rng.random() <= LOWER_STAGE_SHARE
    exponent = rng.uniform(LOG2_LOW, middle) if in_lower_stage else rng.uniform(middle, top)
    if kind <= SERIAL_SHARE + POWER_OF_TWO_SHARE:
        exponent = math.floor(exponent + 0.5)
    return min(largest, math.floor(2**exponent + 0.5))


def _run_seconds(rng: Random, devices: int) -> int:
    """Draw the run time of one job, from 1 second to about 45 hours."""
    share = min(1.0, max(0.0, SHORT_SHARE_PER_DEVICE * devices + SHORT_SHARE_BASE))
    shape, scale = SHORT_RUNS if rng.random() <= share else LONG_RUNS
    return max(1, math.floor(math.exp(_gamma_up_to(rng, shape, scale, LONGEST_LOG_RUN))))


def _arrivals(rng: Random, rate: float) -> Iterator[int]:
    """Draw arrival after arrival, in whole seconds after midnight of the first day; never ends.

    A gap in rush hours is worth that many half-hours at weight 1. It is spent on the clock's half-hours, each of
    which costs its own weight: a quiet half-hour costs little, so a gap of the night lasts longer.
    """
    weights = _half_hour_weights()
    clock = 0.0  # in half-hours since the first midnight
    while True:
        budget = math.exp(_gamma_up_to(rng, GAP_SHAPE, GAP_SCALE, LONGEST_LOG_GAP)) / HALF_HOUR_SECONDS / rate
        half_hour = math.floor(clock)
        while budget > (cost := (half_hour + 1 - clock) * weights[half_hour % HALF_HOURS]):
            budget -= cost
            half_hour += 1
            clock = float(half_hour)
        clock = min(clock + budget / weights[half_hour % HALF_HOURS], half_hour + 1)
        yield math.floor(clock * HALF_HOUR_SECONDS)


def _half_hour_weights() -> list[float]:
    """How busy each half-hour of the day is, shape (48,), mean 1, from midnight."""
    weights = [0.0] * HALF_HOURS
    for at in range(FIRST_HALF_HOUR, FIRST_HALF_HOUR + HALF_HOURS):
        upto, before = (_gamma_distribution((at + side) / DAY_SCALE, DAY_SHAPE) for side in (0.5, -0.5))
        weights[(at - 1) % HALF_HOURS] = upto - before
    mean = sum(weights) / HALF_HOURS
    return [weight / mean for weight in weights]


def _gamma_up_to(rng: Random, shape: float, scale: float, longest: float) -> float:
    """Draw from a gamma distribution until the value is not above `longest`."""
    while (value := rng.gammavariate(shape, scale)) > longest:
        pass
    return value


def _gamma_distribution(x: float, shape: float) -> float:
    """The chance that a gamma variable of scale 1 is at most x >= 0, by its power series.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 6.5.29.

    >>> round(_gamma_distribution(1.0, 1.0), 6) == round(1 - math.exp(-1), 6)
    True
    """
    if x <= 0:
        return 0.0
    term = total = 1 / shape
    step = shape
    while term > total * 1e-15:
        step += 1
        term *= x / step
        total += term
    return total * math.exp(shape * math.log(x) - x - math.lgamma(shape))


def _read(path: Path) -> str:
    """The text of a file, unzipped if it is gzipped. Raises BadTrace if it cannot be read."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise BadTrace(str(path), line=0, reason=f"cannot be read ({error})") from error
    return content.decode("utf-8", errors="replace")


def _csv_job(row: list[str], source: str, line: int) -> TraceJob:
    """One row of the CSV; `submitted_second` is still counted from 1970."""

    def refuse(reason: str) -> NoReturn:
        raise BadTrace(source, line=line, reason=reason)

    if len(row) != len(CSV_COLUMNS):
        refuse(f"{len(row)} columns, expected {len(CSV_COLUMNS)}")
    number, submitted, duration, gpus, group = row
    try:
        moment = datetime.fromisoformat(submitted)
    except ValueError:
        refuse(f"submitted_at is no time: {submitted!r}")
    if moment.tzinfo is None:
        refuse(f"submitted_at names no time zone: {submitted!r}")
    for name, text in (("job", number), ("duration_seconds", duration), ("gpus", gpus)):
        if not _is_whole(text) or int(text) < 1:
            refuse(f"{name} is no whole number above zero: {text!r}")
    if not group:
        refuse("virtual_cluster is empty")
    return TraceJob(
        number=int(number),
        submitted_second=(moment - EPOCH) // timedelta(seconds=1),
        run_seconds=int(duration),
        devices=int(gpus),
        group=group,
        requested_seconds=None,
    )


def _swf_jobs(lines: Iterable[str], source: str) -> Iterator[TraceJob]:
    """The jobs of a log that can be played again; `submitted_second` still counts from the log's own start."""
    for line, text in enumerate(lines, start=1):
        columns = text.partition(";")[0].split()
        if not columns:
            continue
        if len(columns) != SWF_COLUMNS:
            raise BadTrace(source, line=line, reason=f"{len(columns)} columns, expected {SWF_COLUMNS}")
        used = {}
        for name, column in (("job", 1), ("submit", 2), ("run", 4), ("allocated", 5), ("requested", 8), ("time", 9)):
            value = columns[column - 1]
            if not _is_whole(value):
                raise BadTrace(source, line=line, reason=f"column {column} is no whole number: {value!r}")
            used[name] = int(value)
        if used["submit"] < 0:
            raise BadTrace(source, line=line, reason=f"column 2: submitted before the log began: {used['submit']}")
        devices = used["allocated"] if used["allocated"] > 0 else used["requested"]
        if used["run"] <= 0 or devices <= 0:
            continue
        requested = used["time"] if used["time"] > 0 else None
        yield TraceJob(
            number=used["job"],
            submitted_second=used["submit"],
            run_seconds=used["run"] if requested is None else min(used["run"], requested),
            devices=devices,
            group="user-unknown" if columns[11] == "-1" else f"user-{columns[11]}",
            requested_seconds=requested,
        )


def _is_whole(text: str) -> bool:
    """Whether a text is a whole number in plain digits, with or without a minus."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 18


def _from_the_first(jobs: list[TraceJob], source: str) -> list[TraceJob]:
    """The jobs in order of submission, counted from the first. Raises BadTrace if there is none."""
    if not jobs:
        raise BadTrace(source, line=0, reason="holds no job that ran")
    first = min(job.submitted_second for job in jobs)
    ordered = sorted(jobs, key=lambda job: job.submitted_second)
    return [replace(job, submitted_second=job.submitted_second - first) for job in ordered]
