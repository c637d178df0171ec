"""`aifn project`, `ledger` and `event`: what projects may use, what they used, and whether the books are right."""

import time
from typing import Annotated

import typer

from aifn_client import text
from aifn_client.http import path
from aifn_client.models import Allocation, Check, Project, Transfer, UsageEvent, Verification
from aifn_client.plugins import LedgerCommands
from aifn_client.screen import (
    ROWS,
    All,
    AsJson,
    Column,
    Limit,
    asking,
    bound,
    note,
    print_line,
    print_table,
    put_json,
    put_json_line,
    show_list,
    show_one,
)

SERVICE = "accounting"
projects = typer.Typer(name="project", help="Projects and what they may still use.", no_args_is_help=True)
ledger = typer.Typer(
    name="ledger", cls=LedgerCommands, help="The books: statements, and whether they are right.", no_args_is_help=True
)
events = typer.Typer(name="event", help="What was charged, as it becomes known.", no_args_is_help=True)

_PROJECTS = (
    Column[Project]("project", lambda one: one.project_id, whole=True),
    Column[Project]("title", lambda one: one.title),
    Column[Project]("factory", lambda one: one.factory_id),
    Column[Project]("since", lambda one: one.created_at),
    Column[Project]("closed", lambda one: one.closed, wide=True),
)


def hours(allocation: Allocation) -> tuple[str, str, str, str, str, str]:
    """The unit and the five balances as the API words them: GPU-hours, else node-hours, else the smallest unit."""
    for unit, shown in (("GPU-hours", allocation.gpu_hours), ("node-hours", allocation.node_hours)):
        if shown is not None:
            return unit, shown.granted, shown.available, shown.held, shown.charged, shown.overrun
    balances = (
        allocation.granted, allocation.available, allocation.held, allocation.charged, allocation.overrun,
    )  # fmt: skip
    granted, available, held, charged, overrun = (str(balance) for balance in balances)
    return f"{allocation.unit}s", granted, available, held, charged, overrun


_BALANCES = (
    Column[Allocation]("allocation", lambda one: one.allocation_id, whole=True),
    Column[Allocation]("on", lambda one: one.partition_id),
    Column[Allocation]("in", lambda one: hours(one)[0]),
    Column[Allocation]("granted", lambda one: hours(one)[1], right=True),
    Column[Allocation]("left", lambda one: hours(one)[2], right=True),
    Column[Allocation]("held", lambda one: hours(one)[3], right=True),
    Column[Allocation]("charged", lambda one: hours(one)[4], right=True),
    Column[Allocation]("overrun", lambda one: hours(one)[5], right=True, wide=True),
    Column[Allocation]("until", lambda one: one.ends_at.astimezone().date(), wide=True),
)
_STATEMENT = (
    Column[Transfer]("no.", lambda one: one.transfer_id, right=True),
    Column[Transfer]("when", lambda one: one.recorded_at),
    Column[Transfer]("what", lambda one: one.kind),
    Column[Transfer]("slice-seconds", lambda one: one.postings[1].amount, right=True),
    Column[Transfer]("from", lambda one: one.postings[0].account),
    Column[Transfer]("to", lambda one: one.postings[1].account),
    Column[Transfer]("job", lambda one: one.job_id, wide=True),
)
_CHECKS = (
    Column[Check]("check", lambda one: one.check),
    Column[Check]("resource", lambda one: one.resource),
    Column[Check]("expected", lambda one: one.expected, right=True),
    Column[Check]("found", lambda one: one.found, right=True),
    Column[Check]("differing", lambda one: one.differing, right=True, wide=True),
    Column[Check]("says", lambda one: "passed" if one.passed else "failed"),
)


@projects.command("list")
def list_projects(
    context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False
) -> None:
    """Your projects, or all of your factory."""
    with asking(context) as aifn:
        found = aifn.many(Project, SERVICE, "/v1/projects", at_most=bound(limit, everything))
        nothing = "you are in no project: apply with `aifn application submit`"
        show_list(found, _PROJECTS, as_json=as_json, limit=limit, everything=everything, nothing=nothing)


@projects.command("show")
def show_project(context: typer.Context, project_id: str, as_json: AsJson = False) -> None:
    """One project and who belongs to it."""
    with asking(context) as aifn:
        one = aifn.one(Project, SERVICE, path("/v1/projects/{}", project_id))
        rows = (
            ("project", one.project_id),
            ("title", one.title),
            ("factory", one.factory_id),
            ("since", one.created_at),
            ("closed", one.closed or None),
            ("members", text.lines(f"{member.subject}, {member.role}" for member in one.members)),
        )
        show_one(one, rows, as_json=as_json)


@projects.command("close")
def close_project(
    context: typer.Context,
    project_id: str,
    reason: Annotated[str, typer.Option(help="Why, for those who ask later.")],
    as_json: AsJson = False,
) -> None:
    """Close a project of which no job holds budget. Late usage is charged still; nothing else happens any more."""
    with asking(context) as aifn:
        place = path("/v1/projects/{}", project_id)
        seen = aifn.one(Project, SERVICE, place)
        answer = aifn.post(SERVICE, f"{place}/closure", {"reason": reason}, if_match=f'"r{seen.revision}"')
        if as_json:
            put_json(answer)
        else:
            print_line(f"{project_id} is closed")


@projects.command("balance")
def show_balance(context: typer.Context, project_id: str, as_json: AsJson = False) -> None:
    """What a project was granted, holds, has used and may still use, in hours of GPUs or nodes."""
    with asking(context) as aifn:
        found = list(aifn.many(Allocation, SERVICE, path("/v1/projects/{}/allocations", project_id)))
        show_list(found, _BALANCES, as_json=as_json, everything=True, nothing=f"{project_id} was granted nothing yet")


@ledger.command("statement")
def show_statement(
    context: typer.Context,
    allocation_id: Annotated[str, typer.Argument(help="See `aifn project balance`.")],
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Every posting of an allocation, oldest first."""
    with asking(context) as aifn:
        found = aifn.many(
            Transfer, SERVICE, path("/v1/allocations/{}/statement", allocation_id), at_most=bound(limit, everything)
        )
        show_list(found, _STATEMENT, as_json=as_json, limit=limit, everything=everything, nothing="no posting yet")


@ledger.command("verify")
def verify_ledger(context: typer.Context, as_json: AsJson = False) -> None:
    """Check the whole ledger. Exit status 1 if something does not hold."""
    with asking(context) as aifn:
        one = aifn.one(Verification, SERVICE, "/v1/ledger/verify")
    if as_json:
        put_json(one.raw)
    else:
        if one.checks:
            print_table(one.checks, _CHECKS)
        print_line("the ledger holds" if one.passed else "the ledger does NOT hold")
    if not one.passed:
        raise typer.Exit(1)


@events.command("tail")
def tail_events(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=10_000, help="Begin with so many old ones.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new ones until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, max=60, help="Ask again every so many seconds.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """The latest charges, one a line. With --json one object a line, because a stream has no end."""
    with asking(context) as aifn:
        last: list[UsageEvent] = []
        after: str | None = None
        while True:
            page = aifn.page(UsageEvent, SERVICE, "/v1/usage-events", after=after, project=project)
            last = [*last, *page.items][-lines:] if lines else []
            if page.next is None:
                break
            after = page.next
        for event in last:
            _print_event(event, as_json=as_json)
        if not last and not follow:
            note("nothing was charged yet")
        while follow:
            page = aifn.page(UsageEvent, SERVICE, "/v1/usage-events", after=after, project=project)
            for event in page.items:
                _print_event(event, as_json=as_json)
            if page.next is None:
                time.sleep(every)
            else:
                after = page.next


def _print_event(event: UsageEvent, *, as_json: bool) -> None:
    if as_json:
        put_json_line(event.raw)
        return
    corrected = f", revision {event.revision}" if event.revision else ""
    print_line(
        f"{text.moment(event.ended_at)}  {event.project_id}  {event.job_id}.{event.segment}  "
        f"{event.amount} slice-seconds of {event.resource}{corrected}"
    )
