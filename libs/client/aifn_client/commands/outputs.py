"""`aifn balance`, `statement`, `burn`, `usage`, `register` and `export`: what accounting tells others."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from aifn_client import text
from aifn_client.commands.accounting import SERVICE, show_balance, show_statement
from aifn_client.errors import ClientError
from aifn_client.http import path
from aifn_client.models import UsageEvent
from aifn_client.output_models import (
    Actor,
    Burn,
    BurnDay,
    MonthOfBooks,
    Movement,
    RegisteredAward,
    Sum,
    Trace,
    TracedCharge,
    UsageReport,
)
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
    show_list,
    show_one,
)

balances = typer.Typer(name="balance", help="What a project may still use.", no_args_is_help=True)
statements = typer.Typer(name="statement", help="The books of an allocation.", no_args_is_help=True)
burns = typer.Typer(name="burn", help="How a budget burns down, and how long it may last.", no_args_is_help=True)
usage = typer.Typer(name="usage", help="What was used: lists, sums, and the way between them.", no_args_is_help=True)
register = typer.Typer(name="register", help="The public register: awards and hours, no person.", no_args_is_help=True)
exports = typer.Typer(name="export", help="Files for other programs.", no_args_is_help=True)

balances.command("show")(show_balance)
statements.command("show")(show_statement)


class FileFormat(StrEnum):
    """Formats of tables."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class HourUnit(StrEnum):
    """Hours of what."""

    GPU = "gpu-hours"
    NODE = "node-hours"


Since = Annotated[str | None, typer.Option(help="First day, e.g. 2026-11-01; else of this month.")]
Until = Annotated[str | None, typer.Option(help="Day after the last; else of this month.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; else the standard output.")]
Kind = Annotated[FileFormat, typer.Option("--format", "-f", help="How the table is written.")]

_EVENTS = (
    Column[UsageEvent]("ended", lambda one: one.ended_at),
    Column[UsageEvent]("project", lambda one: one.project_id, whole=True),
    Column[UsageEvent]("job", lambda one: one.job_id, whole=True),
    Column[UsageEvent]("slice-seconds", lambda one: one.amount, right=True),
    Column[UsageEvent]("revision", lambda one: one.revision, right=True, wide=True),
    Column[UsageEvent]("resource", lambda one: one.resource, wide=True),
)
_SUMS = (
    Column[Sum]("what", lambda one: one.key or "in all", whole=True),
    Column[Sum]("resource", lambda one: one.resource),
    Column[Sum]("GPU-hours", lambda one: one.gpu_hours, right=True),
    Column[Sum]("node-hours", lambda one: one.node_hours, right=True),
    Column[Sum]("jobs", lambda one: one.jobs, right=True),
    Column[Sum]("slice-seconds", lambda one: one.amount, right=True, wide=True),
)
_TRACE = (
    Column[TracedCharge]("record", lambda one: f"{one.local_job_id}.{one.segment} r{one.revision}"),
    Column[TracedCharge]("slice-seconds", lambda one: one.amount, right=True),
    Column[TracedCharge]("counts", lambda one: not one.superseded),
    Column[TracedCharge]("allocation", lambda one: one.allocation_id),
    Column[TracedCharge]("award", lambda one: one.award_id),
    Column[TracedCharge]("pool", lambda one: one.pool),
    Column[TracedCharge]("rate card", lambda one: one.rate_card, wide=True),
    Column[TracedCharge]("ledger lines", lambda one: one.transfers, wide=True),
)
_MOVEMENTS = (
    Column[Movement]("kind", lambda one: one.kind),
    Column[Movement]("balance", lambda one: one.balance),
    Column[Movement]("change", lambda one: one.change, right=True),
    Column[Movement]("transfers", lambda one: one.transfers, right=True),
)
_DAYS = (
    Column[BurnDay]("day", lambda one: one.day),
    Column[BurnDay]("used", lambda one: one.used, right=True),
    Column[BurnDay]("left", lambda one: one.left, right=True),
)
_AWARDS = (
    Column[RegisteredAward]("award", lambda one: one.award_id, whole=True),
    Column[RegisteredAward]("title", lambda one: one.title),
    Column[RegisteredAward]("actor", lambda one: one.actor),
    Column[RegisteredAward]("country", lambda one: one.country),
    Column[RegisteredAward](
        "node-hours", lambda one: text.lines(a.granted_node_hours for a in one.amounts), right=True
    ),
    Column[RegisteredAward]("used", lambda one: text.lines(a.used_node_hours for a in one.amounts), right=True),
    Column[RegisteredAward]("mode", lambda one: one.mode, wide=True),
)
_ACTORS = (
    Column[Actor]("actor", lambda one: one.actor, whole=True),
    Column[Actor]("resource", lambda one: one.amount.resource),
    Column[Actor]("awards", lambda one: one.awards, right=True),
    Column[Actor]("node-hours", lambda one: one.amount.granted_node_hours, right=True),
    Column[Actor]("used", lambda one: one.amount.used_node_hours, right=True),
)


@statements.command("month")
def show_month(
    context: typer.Context,
    allocation_id: Annotated[str, typer.Argument(help="See `aifn balance show`.")],
    month: Annotated[str, typer.Argument(help="E.g. 2026-11.")],
    as_json: AsJson = False,
) -> None:
    """A month of the books: opening, what moved, closing."""
    with asking(context) as aifn:
        one = aifn.one(MonthOfBooks, SERVICE, path("/v1/allocations/{}/months/{}", allocation_id, month))
        rows = [
            (f"{when} {name}", getattr(balances, name))
            for when, balances in (("opening", one.opening), ("closing", one.closing))
            for name in ("granted", "available", "held", "charged", "overrun")
        ]
        show_one(one, [("resource", one.resource), ("in", f"{one.unit}s"), *rows], as_json=as_json)
        if not as_json and one.movements:
            print_table(one.movements, _MOVEMENTS, title=f"{one.month}, {one.unit}s")


@burns.command("show")
def show_burn(
    context: typer.Context,
    allocation_id: Annotated[str, typer.Argument(help="See `aifn balance show`.")],
    days: Annotated[int, typer.Option(min=1, max=10_000, help="Show so many of the last days.")] = 14,
    as_json: AsJson = False,
) -> None:
    """Day by day, and a forecast with its band."""
    with asking(context) as aifn:
        one = aifn.one(Burn, SERVICE, path("/v1/allocations/{}/burn", allocation_id))
        if as_json:
            put_json(one.raw)
            return
        print_table(one.days[-days:], _DAYS, title=f"{one.allocation_id}, {one.unit}s of {one.resource}")
        guess = one.forecast
        if guess is None:
            print_line("no forecast: fewer than seven whole days, or it is over")
            return
        ends = one.ends_at.astimezone().date()
        print_line(f"about {guess.level} a day, from {text.count(guess.days_seen, 'day')} ({guess.method})")
        print_line(
            f"used up on {guess.exhausted_on}" if guess.exhausted_on else f"not used up before it ends on {ends}"
        )
        if guess.exhausted_earliest:
            latest = guess.exhausted_latest or f"after {ends}"
            print_line(f"with 80 % of certainty between {guess.exhausted_earliest} and {latest}")


@usage.command("list")
def list_usage(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Every charge, oldest first."""
    with asking(context) as aifn:
        found = aifn.many(UsageEvent, SERVICE, "/v1/usage-events", at_most=bound(limit, everything), project=project)
        show_list(
            found, _EVENTS, as_json=as_json, limit=limit, everything=everything, nothing="nothing was charged yet"
        )


@usage.command("report")
def report_usage(
    context: typer.Context,
    by: Annotated[
        str, typer.Option(help="factory, machine, pool, authority, mode, actor, project, job, ...")
    ] = "project",
    only: Annotated[list[str] | None, typer.Option(help="A filter, e.g. pool:union; may be repeated.")] = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Sums; take what a line says as a filter to see what is behind it."""
    with asking(context) as aifn:
        question: dict[str, Any] = {"by": by, "since": since, "until": until, "only": only or None}
        pages = [aifn.get(SERVICE, "/v1/reports/usage", **question, limit=200)]
        while pages[-1].get("next"):
            pages.append(aifn.get(SERVICE, "/v1/reports/usage", **question, limit=200, after=pages[-1]["next"]))
        whole = UsageReport.of({**pages[0], "items": [item for page in pages for item in page["items"]], "next": None})
        if as_json:
            put_json(whole.raw)
        elif whole.items:
            print_table([*whole.items, *whole.total], _SUMS, title=f"{whole.since} until {whole.until}, by {whole.by}")
        else:
            note("nothing was used in that time")


@usage.command("trace")
def trace_job(context: typer.Context, job_id: str, as_json: AsJson = False) -> None:
    """From a job back to its award, its pool and its lines of the ledger."""
    with asking(context) as aifn:
        one = aifn.one(Trace, SERVICE, path("/v1/jobs/{}/trace", job_id))
        if as_json:
            put_json(one.raw)
        else:
            print_table(one.charges, _TRACE)


@register.command("awards")
def list_awards(context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False) -> None:
    """Every award: to which kind of actor, by whom, how much."""
    with asking(context) as aifn:
        found = aifn.many(RegisteredAward, SERVICE, "/v1/register/awards", at_most=bound(limit, everything))
        show_list(found, _AWARDS, as_json=as_json, limit=limit, everything=everything, nothing="no award yet")


@register.command("actors")
def list_actors(context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False) -> None:
    """Hours by kind of actor."""
    with asking(context) as aifn:
        found = aifn.many(Actor, SERVICE, "/v1/register/actors", at_most=bound(limit, everything))
        show_list(found, _ACTORS, as_json=as_json, limit=limit, everything=everything, nothing="no award yet")


@exports.command("usage")
def export_usage(
    context: typer.Context, since: Since = None, until: Until = None, kind: Kind = FileFormat.CSV, out: Out = None
) -> None:
    """What was charged, one row for each run and resource."""
    _download(context, "/v1/exports/usage", out, since=since, until=until, format=kind.value)


@exports.command("focus")
def export_focus(
    context: typer.Context, since: Since = None, until: Until = None, kind: Kind = FileFormat.CSV, out: Out = None
) -> None:
    """What was used, in FOCUS 1.2: nothing is billed, list cost is as the operator says."""
    _download(context, "/v1/exports/focus", out, since=since, until=until, format=kind.value)


@exports.command("usage-records")
def export_usage_records(context: typer.Context, since: Since = None, until: Until = None, out: Out = None) -> None:
    """What was charged, as OGF usage records 2.0 (XML)."""
    _download(context, "/v1/exports/usage-records", out, since=since, until=until)


@exports.command("ondemand")
def export_ondemand(
    context: typer.Context,
    machine: Annotated[str, typer.Argument(help="Whose portal.")],
    unit: Annotated[HourUnit, typer.Option(help="Of all values.")] = HourUnit.GPU,
    out: Out = None,
) -> None:
    """Balances for Open OnDemand (JSON)."""
    _download(context, "/v1/exports/ondemand", out, machine=machine, unit=unit.value)


def _download(context: typer.Context, place: str, out: Path | None, **query: Any) -> None:
    """Write an answer to a file as a whole, or to the standard output as it comes."""
    with asking(context) as aifn:
        if out is None:
            aifn.download(SERVICE, place, sys.stdout.buffer.write, **query)
            sys.stdout.flush()
            return
        part = out.with_name(out.name + ".part")
        try:
            with part.open("wb") as file:
                aifn.download(SERVICE, place, file.write, **query)
            part.replace(out)
        except OSError as fault:
            raise ClientError(
                f"{out} cannot be written: {fault.strerror}", advice="choose another file with --out"
            ) from None
        finally:
            part.unlink(missing_ok=True)
        note(f"written to {out}")
