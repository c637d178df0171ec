"""`aifn job`: queue a job, see where it is and why."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from aifn_client import text
from aifn_client.commands.access import Key
from aifn_client.errors import Misuse
from aifn_client.http import path
from aifn_client.models import Job, JobCharges, Reason, UsageEvent, Why
from aifn_client.screen import (
    ROWS,
    All,
    AsJson,
    Column,
    Limit,
    asking,
    bound,
    print_table,
    show_list,
    show_one,
)

SERVICE = "scheduler"
jobs = typer.Typer(name="job", help="Jobs: queue them, follow them, ask why they wait.", no_args_is_help=True)


def _size(job: Job) -> str:
    sizes = ((job.devices, "device"), (job.cores, "core"), (job.nodes_wanted, "node"))
    return ", ".join(text.count(number, word) for number, word in sizes if number is not None)


def _state(job: Job) -> str:
    return job.outcome or job.state


_JOBS = (
    Column[Job]("job", lambda one: one.job_id, whole=True),
    Column[Job]("project", lambda one: one.project_id, whole=True),
    Column[Job]("name", lambda one: one.name, wide=True),
    Column[Job]("on", lambda one: one.partition_id or one.wanted_partition_id),
    Column[Job]("size", _size),
    Column[Job]("walltime", lambda one: text.stretch(one.walltime_seconds), right=True, wide=True),
    Column[Job]("state", _state),
    Column[Job]("submitted", lambda one: one.submitted_at, wide=True),
)
_REASONS = (
    Column[Reason]("partition", lambda one: one.partition_id),
    Column[Reason]("verdict", lambda one: one.verdict),
    Column[Reason]("because", lambda one: one.because),
    Column[Reason]("earliest start", lambda one: one.earliest_start),
    Column[Reason]("waits for", lambda one: one.waits_for, wide=True),
)
_CHARGES = (
    Column[UsageEvent]("segment", lambda one: one.segment, right=True),
    Column[UsageEvent]("revision", lambda one: one.revision, right=True),
    Column[UsageEvent]("ended", lambda one: one.ended_at),
    Column[UsageEvent]("allocation", lambda one: one.allocation_id),
    Column[UsageEvent]("slice-seconds", lambda one: one.amount, right=True),
    Column[UsageEvent]("rate card", lambda one: one.rate_card, wide=True),
)


@jobs.command("submit")
def submit_job(
    context: typer.Context,
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="A file with the job's script; - reads it from stdin.")
    ],
    project: Annotated[str, typer.Option(help="Who pays; see `aifn project list`.")],
    walltime: Annotated[str, typer.Option(help="How long at most: 90m, 2h, 1:30:00, 2-00:00:00.")],
    partition: Annotated[str | None, typer.Option(help="Where; any the project may use, if left out.")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Accelerators, as the batch system shows them.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Whole nodes.")] = None,
    name: Annotated[str | None, typer.Option(help="What you call it.")] = None,
    stack: Annotated[str | None, typer.Option(help="The software stack it needs: rocm, cuda, ...")] = None,
    workload: Annotated[
        str | None, typer.Option(help="What kind of work: training, fine_tuning, inference or other.")
    ] = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Queue a job. Say exactly one of --devices, --cores and --nodes."""
    with asking(context) as aifn:
        if sum(size is not None for size in (devices, cores, nodes)) != 1:
            raise Misuse("how large is it?", advice="say exactly one of --devices, --cores and --nodes")
        body = {
            "project_id": project, "name": name, "partition_id": partition, "devices": devices, "cores": cores,
            "nodes": nodes, "walltime_seconds": text.seconds_of(walltime), "script": _script(script),
            "software_stack": stack, "workload": workload,
        }  # fmt: skip
        said = {field: value for field, value in body.items() if value is not None}
        _show(Job.of(aifn.post(SERVICE, "/v1/jobs", said, key=key)), as_json=as_json)


def _script(place: str) -> str:
    try:
        return sys.stdin.read() if place == "-" else Path(place).read_text(encoding="utf-8")
    except OSError as fault:
        raise Misuse(f"{place} cannot be read: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise Misuse(f"{place} is no text") from None


@jobs.command("list")
def list_jobs(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    state: Annotated[str | None, typer.Option(help="queued, placed, dispatched, running or closed.")] = None,
    outcome: Annotated[str | None, typer.Option(help="completed, failed, cancelled, refused, ...")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Jobs of your projects, in the order of submission."""
    with asking(context) as aifn:
        found = aifn.many(
            Job, SERVICE, "/v1/jobs", at_most=bound(limit, everything),
            project_id=project, state=state, outcome=outcome,
        )  # fmt: skip
        show_list(found, _JOBS, as_json=as_json, limit=limit, everything=everything, nothing="no job fits")


@jobs.command("show")
def show_job(context: typer.Context, job_id: str, as_json: AsJson = False) -> None:
    """One job, with every moment of its life."""
    with asking(context) as aifn:
        _show(aifn.one(Job, SERVICE, path("/v1/jobs/{}", job_id)), as_json=as_json)


@jobs.command("why")
def explain_job(context: typer.Context, job_id: str, as_json: AsJson = False) -> None:
    """Why a job is where it is: the explanation kept with the latest decision."""
    with asking(context) as aifn:
        one = aifn.one(Why, SERVICE, path("/v1/jobs/{}/why", job_id))
        rows = (
            ("job", one.job_id),
            ("state", one.outcome or one.state),
            ("why", one.summary),
            ("planned", one.planned_start and f"{text.moment(one.planned_start)} on {one.planned_partition_id}"),
            ("moved from", one.moved_later_from),
            ("decided", one.decided_at),
        )
        show_one(one, rows, as_json=as_json)
        if not as_json and one.reasons:
            print_table(one.reasons, _REASONS, title="what the plan said of each partition")


@jobs.command("charges")
def show_charges(context: typer.Context, job_id: str, as_json: AsJson = False) -> None:
    """What a job holds and costs, segment by segment."""
    with asking(context) as aifn:
        one = aifn.one(JobCharges, "accounting", path("/v1/jobs/{}/charges", job_id))
        segments = text.ratio(one.segments_charged, one.segments_expected)
        rows = (
            ("job", one.job_id),
            ("project", one.project_id),
            ("paid by", one.allocation_id),
            ("outcome", one.outcome),
            ("held", f"{one.held} slice-seconds, {one.remaining} of them still"),
            ("charged", f"{one.charged} slice-seconds, for {segments} segments"),
            ("released", one.released_at),
        )
        show_one(one, rows, as_json=as_json)
        if not as_json and one.charges:
            print_table(one.charges, _CHARGES, title="charges")


@jobs.command("cancel")
def cancel_job(context: typer.Context, job_id: str, as_json: AsJson = False) -> None:
    """Take a job back. One that waits ends at once, one at its site when the site has stopped it."""
    with asking(context) as aifn:
        _show(Job.of(aifn.delete(SERVICE, path("/v1/jobs/{}", job_id))), as_json=as_json)


def _show(one: Job, *, as_json: bool) -> None:
    asked = ", its end has been asked for" if one.cancel_asked and one.state != "closed" else ""
    rows = (
        ("job", one.job_id),
        ("name", one.name),
        ("project", one.project_id),
        ("state", _state(one) + asked),
        ("because", one.reason),
        ("wants", f"{_size(one)} for {text.stretch(one.walltime_seconds)}"),
        ("stack", one.software_stack),
        ("workload", one.workload),
        ("on", one.partition_id or one.wanted_partition_id),
        ("takes", one.nodes and f"{text.count(one.nodes, 'node')}, {text.count(one.slices or 0, 'slice')}"),
        ("holds at most", one.amount and f"{one.amount} slice-seconds of {one.resource}"),
        ("submitted", f"{text.moment(one.submitted_at)} by {one.submitted_by}"),
        ("planned", one.planned_start if one.state == "queued" else None),
        ("placed", one.placed_at),
        ("dispatched", one.dispatched_at),
        ("started", one.started_at),
        ("ended", one.ended_at),
        ("closed", one.closed_at),
    )
    show_one(one, rows, as_json=as_json)
