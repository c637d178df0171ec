"""What `aifn demo` accepts, how it refuses, and what its report tells."""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from aifn_local import demo, demo_command, report, stack, story, workload
from aifn_local.demo_command import choose
from aifn_local.errors import StackError
from aifn_local.invariants import Check
from aifn_local.people import Refused
from aifn_local.story import Venture
from aifn_local.workload import BadTrace
from rich.console import Console
from typer.testing import CliRunner

app = typer.Typer()
app.command()(demo_command.demo)

JOB = "1 0 5 60 4 -1 -1 4 900 -1 1 7 7 -1 -1 -1 -1 -1\n"


@pytest.fixture(autouse=True)
def _nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextmanager
    def running(**_: Any) -> Iterator[None]:
        raise AssertionError("a stack was started")
        yield

    monkeypatch.setattr(stack, "running", running)
    monkeypatch.setenv("AIFN_HOME", str(tmp_path / "home"))


def refused(*arguments: str) -> str:
    """The one line of a command that is refused with status 1."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 1, result.output
    assert result.output.count("\n") == 1
    assert "Traceback" not in result.output
    return result.output


def test_two_sources_of_jobs_are_refused_in_one_line(tmp_path: Path) -> None:
    assert "take one" in refused("--trace", str(tmp_path / "x.swf"), "--generate")


def test_a_trace_that_is_not_there_is_named_in_one_line(tmp_path: Path) -> None:
    assert "absent.swf" in refused("--trace", str(tmp_path / "absent.swf"))


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    assert "cannot be read" in refused("--trace", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 2 3\n", "line 1: 3 columns"),
        (JOB.replace(" 60 ", " x "), "line 1: column 4"),
        ("; nothing\n", "no job that ran"),
    ],
)
def test_a_broken_log_is_refused_in_one_line_that_says_where(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "log.swf"
    path.write_text(text)
    assert told in refused("--trace", str(path))


def test_a_log_is_cut_at_the_number_of_jobs_and_named(tmp_path: Path) -> None:
    path = tmp_path / "log.swf"
    path.write_text(JOB * 5)
    chosen = choose(path, generate=False, jobs=3, seed=1)
    assert (len(chosen.jobs), chosen.unit) == (3, "processor")
    assert chosen.origin == "3 jobs of log.swf."


def test_generated_jobs_name_their_model_and_seed() -> None:
    chosen = choose(None, generate=True, jobs=25, seed=9)
    assert len(chosen.jobs) == 25
    assert "Lublin and Feitelson" in chosen.origin
    assert "seed 9" in chosen.origin
    assert chosen.jobs == choose(None, generate=True, jobs=25, seed=9).jobs


def test_real_jobs_are_the_default_with_source_and_licence() -> None:
    chosen = choose(None, generate=False, jobs=40, seed=1)
    assert chosen.jobs == workload.philly()[:40]
    assert all(word in chosen.origin for word in ("40 real", "Philly", "CC BY 4.0"))
    assert chosen.unit == "GPU"


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (StackError("the disk is full"), 1, "aifn: the disk is full\n"),
        (Refused(409, {"code": "not_eligible", "detail": "no"}), 1, "aifn: 409 not_eligible: no\n"),
        (ExceptionGroup("g", [ExceptionGroup("g", [StackError("deep")])]), 1, "aifn: deep\n"),
        (BadTrace("x", line=0, reason="y"), 1, "aifn: x: y\n"),
        (KeyboardInterrupt(), 130, "aifn: interrupted; everything is stopped\n"),
    ],
)
def test_what_goes_wrong_in_a_run_is_one_line(
    raised: BaseException, status: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> bool:
        raise raised

    monkeypatch.setattr(demo_command, "run", run)
    result = CliRunner().invoke(app, ["--jobs", "1"])
    assert (result.exit_code, result.output) == (status, told)


def test_our_own_fault_is_not_dressed_up_as_one_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> bool:
        raise ExceptionGroup("g", [ZeroDivisionError("ours")])

    monkeypatch.setattr(demo_command, "run", run)
    with pytest.raises(ExceptionGroup):
        CliRunner().invoke(app, ["--jobs", "1"], catch_exceptions=False)


@pytest.mark.parametrize(("good", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_says_whether_all_invariants_hold(
    good: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_command, "run", lambda *_, **__: good)
    assert CliRunner().invoke(app, ["--jobs", "1"]).exit_code == status


# The report

START = datetime(2026, 11, 21, 9, tzinfo=UTC)
HOLDS = Check("the ledger sums to zero in every resource", True, "12 postings in 2 resources")
FAILS = Check("every outbox is empty", False, "8 databases, but 1 in skills")


def made_up(*, jobs: int = 3, checks: tuple[Check, ...] = (HOLDS,)) -> demo.Outcome:
    firm = Venture("g", story.PARTITIONS[0], [], [], "aif-fast-lane", 12_000, "aif-2026-0001")
    outcome = demo.Outcome(demo.Workload(workload.philly()[:jobs], "Jobs of a test.", unit="GPU"), 600, [firm])
    outcome.ledger = [
        {
            "project_id": "aif-2026-0001",
            "resource": "lumi/lumi-g/gpu-time",
            "pool": "union",
            "granted": 12_000 * 16 * 3600,
            "charged": 16 * 3600,
            "was_held": 3 * 8 * 3600,
            "was_released": 8 * 3600,
            "units_per_node": 64,
            "gpus_per_node": 4,
        }
    ]
    outcome.jobs = [ran(number) for number in range(jobs)]
    outcome.university = {
        "findings": [
            {"passed": True, "because": "fine", "source": "a"},
            {"passed": False, "because": "academia is excluded", "source": "slide deck (2025); page 3"},
        ]
    }
    outcome.access = [{"dataset_id": "d", "state": "granted", "project_id": "aif-2026-0001", "decided_by": "rule"}]
    cause = {"topic": "aifn-award-granted-v1"}
    outcome.suggestions = [
        {"course_id": "rocm-porting", "project_id": "aif-2026-0001", "because": "AMD", "cause": cause}
    ]
    outcome.seat = {"session_id": "rocm-porting-1"}
    steps = [("eligibility and award", 60.0), (demo.OWN_PACE, 180.0), ("placed", 360.0)]
    outcome.first_job = steps if jobs else []
    outcome.checks = list(checks)
    outcome.seconds = {"jobs": 12.0}
    return outcome


def ran(number: int) -> dict[str, Any]:
    begin = START + timedelta(minutes=number)
    return {
        "name": f"j{number}",
        "project_id": "aif-2026-0001",
        "partition_id": "lumi-g",
        "outcome": "completed",
        "reason": "",
        "slices": 8,
        "submitted_at": begin.isoformat(),
        "started_at": (begin + timedelta(minutes=30)).isoformat(),
        "ended_at": (begin + timedelta(minutes=90)).isoformat(),
    }


def shown(outcome: demo.Outcome, *, width: int = 80) -> str:
    out = io.StringIO()
    report.show(outcome, Console(file=out, width=width))
    return out.getvalue()


def cells(text: str, beginning: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(beginning)]


def test_the_report_tells_jobs_budgets_waits_and_utilisation_in_hours() -> None:
    text = shown(made_up())
    assert cells(text, "aif-2026-0001") == [
        ["aif-2026-0001", "fast", "lane", "lumi-g", "3", "3", "0", "0"],
        ["aif-2026-0001", "3,000.0", "0.4", "0.2", "0.1", "1.0"],
    ]
    # Three hours of 8 slices, of 36 nodes of 64 slices for 92 minutes.
    assert cells(text, "lumi-g") == [["lumi-g", "3", "30", "30", "30", "1%"]]
    assert "3 jobs: 3 completed." in text


def test_the_report_tells_who_was_refused_what_was_granted_and_suggested_and_why() -> None:
    text = shown(made_up(), width=200)
    assert "was refused: academia is excluded (slide deck (2025))." in text
    assert "Dataset d: granted to aif-2026-0001 by rule." in text
    assert "For example to aif-2026-0001: AMD (cause: aifn-award-granted-v1)." in text
    assert "A seat was booked in rocm-porting-1." in text


def test_the_report_tells_the_way_to_the_first_job_in_real_seconds_with_shares() -> None:
    lines = cells(shown(made_up()), "  ")
    assert ["0.10", "s", "10%", "▇▇", "eligibility", "and", "award"] in lines
    assert ["0.60", "s", "60%", "▇" * 12, "placed"] in lines
    assert any(line[:4] == ["1.00", "s", "in", "all,"] for line in lines)
    assert any(line[:4] == ["0.70", "s", "of", "it"] for line in lines), "without the time in which nobody asked"


def test_the_report_prints_its_assumptions_and_only_those_that_were_made() -> None:
    outcome = made_up()
    assert "Assumed: the source tells no walltimes" in shown(outcome)
    told = [workload.TraceJob(1, 0, 60, 1, "g", 900)]
    outcome.workload = demo.Workload(told, "A log.")
    assert "no walltimes" not in shown(outcome)
    assert "Assumed: one processor of the source" in shown(outcome)


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_of_the_report_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    outcome = made_up(jobs=5, checks=(HOLDS, FAILS))
    amounts = ("granted", "charged", "was_held", "was_released")
    outcome.ledger = [dict(outcome.ledger[0]) | dict.fromkeys(amounts, 49_999 * 64 * 3600)]
    outcome.refused_at_submission = Counter({"no_allocation": 3})
    text = shown(outcome, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert text.count("49,999.0") == 4


def test_a_job_that_was_refused_is_shown_with_its_reason() -> None:
    outcome = made_up()
    outcome.jobs = [*outcome.jobs, ran(9) | {"outcome": "refused", "reason": "out of [budget]", "started_at": None}]
    outcome.refused_at_submission = Counter({"too_large": 2})
    text = shown(outcome)
    assert "4 jobs: 3 completed, 1 refused." in text
    assert "Refused when they were asked for: 2 x too_large." in text
    assert "For example j9: out of [budget]." in text


def test_a_run_without_jobs_has_a_report_too() -> None:
    text = shown(made_up(jobs=0))
    assert "0 jobs." in text
    assert "No Playground job started." in text
    empty = demo.Outcome(demo.Workload([], "Nothing."), 60, [])
    assert "What must be true" in shown(empty)


def test_a_check_that_fails_is_shown_and_the_run_is_not_good() -> None:
    outcome = made_up(checks=(HOLDS, FAILS))
    text = shown(outcome)
    assert "✓ the ledger sums to zero" in text
    assert "✗ every outbox is empty: 8 databases, but 1 in skills" in text
    assert "1 of 2 do NOT hold." in text
    assert not outcome.good
    assert made_up().good
    assert "All of it holds." in shown(made_up())
    assert not made_up(checks=()).good, "a run that checked nothing is not good"


def test_datasets_and_courses_are_checked_with_their_numbers() -> None:
    outcome = made_up()
    granted = dict(outcome.access[0])
    outcome.access = [granted, granted | {"decided_by": "steward"}]
    checked = demo.check_knowledge(outcome)
    assert checked.holds
    assert checked.numbers == "2 of 2 granted; 1 courses to 1 of 1 projects, 1 on ROCm"
    course = dict(outcome.suggestions[0])
    wrongs: list[dict[str, Any]] = [
        {"access": [granted]},
        {"access": [granted, granted | {"state": "refused"}]},
        {"suggestions": []},
        {"suggestions": [course | {"course_id": "slurm-first-steps"}]},
        {"suggestions": [course | {"cause": {"topic": "aifn-machine-described-v1"}}]},
        {"suggestions": [course | {"project_id": "another"}]},
    ]
    for wrong in wrongs:
        assert not demo.check_knowledge(replace(outcome, **wrong)).holds


def test_a_run_with_nobody_on_amd_gpus_needs_no_course_on_porting() -> None:
    outcome = made_up()
    outcome.access *= 2
    outcome.firms[0].partition = story.PARTITIONS[1]
    outcome.suggestions = [dict(outcome.suggestions[0]) | {"course_id": "multi-gpu-training"}]
    assert demo.check_knowledge(outcome).holds


def test_restarts_and_memory_are_told() -> None:
    outcome = made_up()
    outcome.restarts, outcome.peak_mb = {"skills-api": 2}, 1234
    text = shown(outcome)
    assert "Started again after they had ended: skills-api 2x." in text
    assert "Peak memory of all processes: 1,234 MiB." in text
