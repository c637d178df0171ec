"""The demo's report, for people: what was asked, what ran, what it cost, and whether everything adds up."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aifn_local.demo import OWN_PACE, Outcome


def show(outcome: Outcome, console: Console) -> None:
    """Print the whole report."""
    _assumptions(outcome, console)
    _projects(outcome, console)
    _partitions(outcome, console)
    _knowledge(outcome, console)
    _first_job(outcome, console)
    _checks(outcome, console)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(Text(text, style="bold"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        left = column in ("project", "award", "partition")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def _print(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _assumptions(outcome: Outcome, console: Console) -> None:
    _heading(console, "The run")
    slices = ", ".join(f"{count:,} nodes of {name}" for name, count in outcome.nodes.items())
    origin, unit = outcome.workload, outcome.workload.unit
    _print(console, origin.origin, f"In service: {slices}; a slice of each machine, so that jobs compete.")
    _print(console, f"Assumed: one {unit} of the source is one device of the batch system (LUMI-G: 8 in a node).")
    if any(job.requested_seconds is None for job in origin.jobs):
        _print(
            console,
            "Assumed: the source tells no walltimes; each is the next usual value above duration x a seeded factor "
            "from 1 to 2, at most 48 h.",
        )
    _print(
        console,
        f"One second here is {outcome.factor:,} s in the run: each 100 ms on the way add "
        f"{outcome.factor / 600:.0f} min to a wait.",
    )


def _projects(outcome: Outcome, console: Console) -> None:
    by_project: dict[str, Counter[str]] = {}
    for job in outcome.jobs:
        by_project.setdefault(job["project_id"], Counter())[job["outcome"]] += 1
    calls = {firm.project: firm.call.removeprefix("aif-").replace("-", " ") for firm in outcome.firms}
    jobs = _table("project", "award", "partition", "jobs", "done", "timeout", "refused")
    hours = _table("project", "granted", "held", "charged", "released", "GPU-hours charged")
    for row in outcome.ledger:
        counts = by_project.get(row["project_id"], Counter())
        jobs.add_row(
            row["project_id"],
            calls.get(row["project_id"], row["pool"]),
            row["resource"].split("/")[1],
            f"{sum(counts.values()):,}",
            *(f"{counts[name]:,}" for name in ("completed", "timeout", "refused")),
        )
        hours.add_row(
            row["project_id"],
            *(_hours(row, name) for name in ("granted", "was_held", "charged", "was_released")),
            _hours(row, "charged", per_node=row["gpus_per_node"]) if row["gpus_per_node"] else "-",
        )
    _heading(console, "Jobs by project")
    console.print(jobs)
    counts = Counter(job["outcome"] for job in outcome.jobs)
    told = ", ".join(f"{count:,} {name}" for name, count in counts.most_common())
    _print(console, f"{len(outcome.jobs):,} jobs{': ' if told else ''}{told}.")
    if outcome.refused_at_submission:
        why = ", ".join(f"{count:,} x {code}" for code, count in outcome.refused_at_submission.items())
        _print(console, f"Refused when they were asked for: {why}.")
    refused = next((job for job in outcome.jobs if job["outcome"] == "refused"), None)
    if refused:
        _print(console, f"For example {refused['name']}: {refused['reason']}.")
    _heading(console, "Budgets in node-hours")
    console.print(hours)


def _hours(row: Mapping[str, Any], name: str, *, per_node: int = 1) -> str:
    """Slice-seconds as hours of nodes, or of what a node has `per_node` of."""
    return f"{Decimal(row[name]) * per_node / (Decimal(row['units_per_node']) * 3600):,.1f}"


def _partitions(outcome: Outcome, console: Console) -> None:
    _heading(console, "Partitions: waits in simulated minutes, from asking to starting")
    table = _table("partition", "jobs run", "wait p50", "wait p90", "longest", "utilisation")
    units = {row["resource"].split("/")[1]: row["units_per_node"] for row in outcome.ledger}
    for name, nodes in outcome.nodes.items():
        ran = [job for job in outcome.jobs if job["partition_id"] == name and job["started_at"] and job["ended_at"]]
        if not ran:
            continue
        waits = sorted((_moment(job, "started_at") - _moment(job, "submitted_at")).total_seconds() / 60 for job in ran)
        begin = min(_moment(job, "submitted_at") for job in ran)
        end = max(_moment(job, "ended_at") for job in ran)
        used = sum(
            job["slices"] * (_moment(job, "ended_at") - _moment(job, "started_at")).total_seconds() for job in ran
        )
        whole = nodes * units[name] * (end - begin).total_seconds()
        table.add_row(
            name,
            f"{len(ran):,}",
            f"{median(waits):,.0f}",
            f"{waits[int(len(waits) * 0.9)]:,.0f}",
            f"{waits[-1]:,.0f}",
            f"{used / whole:.0%}" if whole else "-",
        )
    console.print(table)


def _moment(job: Mapping[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(job[name])


def _knowledge(outcome: Outcome, console: Console) -> None:
    _heading(console, "Access, data and skills")
    failed = [finding for finding in outcome.university.get("findings", ()) if not finding["passed"]]
    lines = [
        f"A university asked for Playground and was refused: {finding['because']} ({finding['source'].split(';')[0]})."
        for finding in failed[:1]
    ]
    for answer in outcome.access:
        by = "a data steward" if answer["decided_by"] == "steward" else "rule"
        lines.append(f"Dataset {answer['dataset_id']}: {answer['state']} to {answer['project_id']} by {by}.")
    courses = Counter(one["course_id"] for one in outcome.suggestions)
    lines += [f"Course {course} suggested {count} time{'s' if count > 1 else ''}." for course, count in courses.items()]
    rocm = next((one for one in outcome.suggestions if one["course_id"] == "rocm-porting"), None)
    if rocm:
        lines.append(f"For example to {rocm['project_id']}: {rocm['because']} (cause: {rocm['cause']['topic']}).")
    if outcome.seat:
        lines.append(f"A seat was booked in {outcome.seat['session_id']}.")
    _print(console, *lines)


def _first_job(outcome: Outcome, console: Console) -> None:
    _heading(console, "From a complete Playground request to its first running job")
    total = sum(took for _, took in outcome.first_job)
    if not total:
        _print(console, "No Playground job started.")
        return
    for name, took in outcome.first_job:
        share = took / total
        bar = "▇" * round(share * 20)
        _print(console, f"  {took / outcome.factor:6.2f} s  {share:4.0%}  {bar:<20} {name}")
    _print(console, f"  {total / outcome.factor:6.2f} s  in all, real time; batch systems run in simulated time.")
    served = sum(took for name, took in outcome.first_job if name != OWN_PACE)
    _print(
        console,
        f"  {served / outcome.factor:6.2f} s  of it in the services; when a job is asked for, the workload says.",
    )


def _checks(outcome: Outcome, console: Console) -> None:
    _heading(console, "What must be true")
    grid = Table.grid(padding=(0, 1))
    for one in outcome.checks:
        mark = Text("  ✓", style="green") if one.holds else Text("  ✗", style="bold red")
        grid.add_row(mark, Text(f"{one.statement}: {one.numbers}", style="" if one.holds else "bold red"))
    console.print(grid)
    if outcome.restarts:
        again = ", ".join(f"{name} {count}x" for name, count in outcome.restarts.items())
        _print(console, f"  Started again after they had ended: {again}.")
    wrong = sum(not one.holds for one in outcome.checks)
    _print(console, "", f"{wrong} of {len(outcome.checks)} do NOT hold." if wrong else "All of it holds.")
    times = ", ".join(f"{name} {took:.0f} s" for name, took in outcome.seconds.items())
    _print(console, f"Time: {times}." if times else "", f"Peak memory of all processes: {outcome.peak_mb:,} MiB.")
