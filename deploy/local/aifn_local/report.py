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

from aifn_local import story
from aifn_local.demo import Outcome

_OUTCOMES = ("completed", "timeout", "failed", "cancelled", "refused")


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
        left = column in ("project", "firm", "partition", "asked for", "resource")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def _assumptions(outcome: Outcome, console: Console) -> None:
    _heading(console, "The run")
    slices = ", ".join(f"{one.nodes} nodes of {one.name}" for one in (*story.PARTITIONS, story.CPU_PARTITION))
    console.print(
        f"{outcome.workload.origin}\n"
        f"In service: {slices}; a slice of each machine, so that jobs compete.\n"
        "Walltimes the log does not tell: the next usual value above duration x a seeded factor from 1 to 2, "
        "at most 48 h. One GPU of the log is one device as the batch system shows it (8 in a LUMI-G node).\n"
        f"One second here is {outcome.factor:,} s in the run: each 100 ms on the way add "
        f"{outcome.factor / 600:.0f} min to a wait.",
        highlight=False,
        soft_wrap=True,
    )


def _projects(outcome: Outcome, console: Console) -> None:
    _heading(console, "Projects: hours as granted and accounted (GPU-hours; node-hours for CPU)")
    by_project: dict[str, Counter[str]] = {}
    for job in outcome.jobs:
        by_project.setdefault(job["project_id"], Counter())[job["outcome"]] += 1
    table = _table(
        "project", "asked for", "jobs", "done", "timeout", "refused", "granted", "held", "charged", "released"
    )
    calls = {firm.project: f"{firm.call.removeprefix('aif-')}, {firm.partition.name}" for firm in outcome.firms}
    for row in outcome.ledger:
        counts = by_project.get(row["project_id"], Counter())
        table.add_row(
            row["project_id"],
            calls.get(row["project_id"], f"{row['pool']} grant, {row['resource'].split('/')[1]}"),
            f"{sum(counts.values()):,}",
            f"{counts['completed']:,}",
            f"{counts['timeout']:,}",
            f"{counts['refused']:,}",
            *(_hours(row, name) for name in ("granted", "was_held", "charged", "was_released")),
        )
    console.print(table)
    counts = Counter(job["outcome"] for job in outcome.jobs)
    told = ", ".join(f"{counts[name]:,} {name}" for name in _OUTCOMES if counts[name])
    console.print(f"{len(outcome.jobs):,} jobs: {told}.", highlight=False)
    if outcome.refused_at_submission:
        why = ", ".join(f"{count:,} x {code}" for code, count in outcome.refused_at_submission.items())
        console.print(f"Refused when they were asked for: {why}.", highlight=False)
    refused = next((job for job in outcome.jobs if job["outcome"] == "refused"), None)
    if refused:
        console.print(f"For example {refused['name']}: {refused['reason']}.", highlight=False, soft_wrap=True)


def _hours(row: Mapping[str, Any], name: str) -> str:
    per_hour = Decimal(row["units_per_node"]) * 3600 / (row["gpus_per_node"] or 1)
    return f"{Decimal(row[name]) / per_hour:,.1f}"


def _partitions(outcome: Outcome, console: Console) -> None:
    _heading(console, "Partitions: waits in simulated minutes, from asking to starting")
    table = _table("partition", "jobs run", "wait p50", "wait p90", "longest", "utilisation")
    sizes = {one.name: one.nodes for one in (*story.PARTITIONS, story.CPU_PARTITION)}
    units = {row["resource"].split("/")[1]: row["units_per_node"] for row in outcome.ledger}
    for name, nodes in sizes.items():
        ran = [job for job in outcome.jobs if job["partition_id"] == name and job["started_at"]]
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
            f"{used / whole:.0%}",
        )
    console.print(table)


def _moment(job: Mapping[str, Any], name: str) -> datetime:
    return datetime.fromisoformat(job[name])


def _knowledge(outcome: Outcome, console: Console) -> None:
    _heading(console, "Access, data and skills")
    failed = [finding for finding in outcome.university["findings"] if not finding["passed"]]
    source = failed[0]["source"].split(";")[0]
    lines = [f"A university asked for Playground and was refused: {failed[0]['because']} ({source})."]
    for answer in outcome.access:
        by = "a data steward" if answer["decided_by"] == "steward" else "rule"
        lines.append(f"Dataset {answer['dataset_id']}: {answer['state']} to {answer['project_id']} by {by}.")
    courses = Counter(one["course_id"] for one in outcome.suggestions)
    lines += [f"Course {course} suggested {count} time{'s' if count > 1 else ''}." for course, count in courses.items()]
    rocm = next((one for one in outcome.suggestions if one["course_id"] == "rocm-porting"), None)
    if rocm:
        lines.append(f"For example to {rocm['project_id']}: {rocm['because']} (cause: {rocm['cause']['topic']}).")
    lines.append(f"A seat was booked in {outcome.seat['session_id']}.")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _first_job(outcome: Outcome, console: Console) -> None:
    _heading(console, "From a complete Playground request to its first running job")
    total = sum(took for _, took in outcome.first_job)
    if not total:
        console.print("no Playground job started")
        return
    for name, took in outcome.first_job:
        share = took / total
        console.print(
            f"  {took / outcome.factor:6.2f} s  {share:4.0%}  {'▇' * round(share * 30):<30} {name}", highlight=False
        )
    console.print(
        f"  {total / outcome.factor:6.2f} s  in all, real time; the batch system itself ran in simulated time.",
        highlight=False,
    )


def _checks(outcome: Outcome, console: Console) -> None:
    _heading(console, "What must be true")
    for one in outcome.checks:
        mark = Text("  ✓ " if one.holds else "  ✗ ", style="green" if one.holds else "bold red")
        console.print(mark + Text(f"{one.statement}: {one.numbers}", style="" if one.holds else "bold red"))
    if outcome.restarts:
        again = ", ".join(f"{name} {count}x" for name, count in outcome.restarts.items())
        console.print(f"  Started again after they had ended: {again}.", highlight=False)
    times = ", ".join(f"{name} {took:.0f} s" for name, took in outcome.seconds.items())
    console.print(f"\n{times}. Memory of all processes together at its peak: {outcome.peak_mb:,} MiB.", highlight=False)
