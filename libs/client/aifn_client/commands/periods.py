"""`aifn period`, `rate` and `gap`: months of the books, what use costs, and whether all of it has arrived."""

from typing import Annotated

import typer

from aifn_client.http import path
from aifn_client.period_models import Gap, LinkedEntry, MonthTotal, Period, PeriodCheck, Quote, RateCard
from aifn_client.screen import ROWS, All, AsJson, Column, Limit, asking, bound, show_list, show_one

SERVICE = "accounting"
periods = typer.Typer(name="period", help="Months of the books: closed, and what came later.", no_args_is_help=True)
rates = typer.Typer(name="rate", help="Rate cards: how use is charged.", no_args_is_help=True)
gaps = typer.Typer(name="gap", help="Days on which usage of a site is missing.", no_args_is_help=True)

Month = Annotated[str, typer.Argument(help="As 2026-10.")]

_PERIODS = (
    Column[Period]("month", lambda one: one.month, whole=True),
    Column[Period]("state", lambda one: one.state),
    Column[Period]("records", lambda one: one.records, right=True),
    Column[Period]("entries since", lambda one: one.entries, right=True),
    Column[Period]("closed", lambda one: one.closed_at),
    Column[Period]("by", lambda one: one.closed_by, wide=True),
    Column[Period]("holds carried", lambda one: one.holds_carried, wide=True, right=True),
)
_TOTALS = (
    Column[MonthTotal]("allocation", lambda one: one.allocation_id, whole=True),
    Column[MonthTotal]("resource", lambda one: one.resource),
    Column[MonthTotal]("slice-seconds", lambda one: one.amount, right=True),
    Column[MonthTotal]("records", lambda one: one.records, right=True),
)
_ENTRIES = (
    Column[LinkedEntry]("no.", lambda one: one.entry, right=True),
    Column[LinkedEntry]("what", lambda one: one.kind),
    Column[LinkedEntry]("slice-seconds", lambda one: one.change, right=True),
    Column[LinkedEntry]("job", lambda one: one.job_id),
    Column[LinkedEntry]("revision", lambda one: one.revision, right=True),
    Column[LinkedEntry]("corrects", lambda one: one.corrects_revision, right=True),
    Column[LinkedEntry]("stands in", lambda one: one.recorded_in, wide=True),
    Column[LinkedEntry]("allocation", lambda one: one.allocation_id, wide=True),
)
_CHECKS = (
    Column[PeriodCheck]("allocation", lambda one: one.allocation_id, whole=True),
    Column[PeriodCheck]("frozen", lambda one: one.frozen, right=True),
    Column[PeriodCheck]("entered", lambda one: one.entered, right=True),
    Column[PeriodCheck]("counted", lambda one: one.counted, right=True),
    Column[PeriodCheck]("says", lambda one: "passed" if one.passed else "failed"),
)
_CARDS = (
    Column[RateCard]("card", lambda one: one.id, whole=True),
    Column[RateCard]("resource", lambda one: one.resource),
    Column[RateCard]("version", lambda one: one.version, right=True),
    Column[RateCard]("from", lambda one: one.valid_from.date()),
    Column[RateCard]("rule", lambda one: one.title),
    Column[RateCard]("confirmed", lambda one: one.confirmed),
    Column[RateCard]("source", lambda one: one.source, wide=True),
)
_GAPS = (
    Column[Gap]("site", lambda one: one.machine_id, whole=True),
    Column[Gap]("day", lambda one: one.day, whole=True),
    Column[Gap]("state", lambda one: one.state),
    Column[Gap]("reason", lambda one: one.reason),
    Column[Gap]("stated", lambda one: one.stated_records, right=True),
    Column[Gap]("arrived", lambda one: one.records, right=True),
    Column[Gap]("since", lambda one: one.opened_at, wide=True),
    Column[Gap]("mended", lambda one: one.closed_at, wide=True),
)


@periods.command("list")
def list_periods(context: typer.Context, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False) -> None:
    """The months of the books, oldest first."""
    with asking(context) as aifn:
        found = aifn.many(Period, SERVICE, "/v1/periods", at_most=bound(limit, everything))
        show_list(found, _PERIODS, as_json=as_json, limit=limit, everything=everything, nothing="no month yet")


@periods.command("close")
def close_period(
    context: typer.Context,
    month: Month,
    reason: Annotated[str, typer.Option(help="For those who ask later.")],
    carry_holds: Annotated[bool, typer.Option("--carry-holds", help="Although holds are open.")] = False,
    accept_gaps: Annotated[bool, typer.Option("--accept-gaps", help="Although usage is missing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Close a month. What is heard of it later is entered apart."""
    words = {"reason": reason, "carry_holds": carry_holds, "accept_gaps": accept_gaps}
    with asking(context) as aifn:
        one = Period.of(aifn.post(SERVICE, path("/v1/periods/{}/close", month), words))
        rows = (
            ("month", one.month),
            ("state", one.state),
            ("closed", one.closed_at),
            ("records", one.records),
            ("holds carried", one.holds_carried),
            ("gaps accepted", one.gaps_accepted),
            ("digest", one.digest),
        )
        show_one(one, rows, as_json=as_json)


@periods.command("totals")
def list_totals(
    context: typer.Context, month: Month, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False
) -> None:
    """What belongs to a month, by allocation."""
    with asking(context) as aifn:
        found = aifn.many(MonthTotal, SERVICE, path("/v1/periods/{}/totals", month), at_most=bound(limit, everything))
        show_list(found, _TOTALS, as_json=as_json, limit=limit, everything=everything, nothing="nothing was used")


@periods.command("entries")
def list_entries(
    context: typer.Context, month: Month, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False
) -> None:
    """What was entered into a month after its closing."""
    with asking(context) as aifn:
        found = aifn.many(LinkedEntry, SERVICE, path("/v1/periods/{}/entries", month), at_most=bound(limit, everything))
        show_list(found, _ENTRIES, as_json=as_json, limit=limit, everything=everything, nothing="nothing since")


@periods.command("verify")
def verify_period(
    context: typer.Context, month: Month, limit: Limit = ROWS, everything: All = False, as_json: AsJson = False
) -> None:
    """Count a closed month anew. Exit status 1 if something does not hold."""
    with asking(context) as aifn:
        found = list(
            aifn.many(PeriodCheck, SERVICE, path("/v1/periods/{}/verify", month), at_most=bound(limit, everything))
        )
        show_list(found, _CHECKS, as_json=as_json, limit=limit, everything=everything, nothing="nothing was used")
    if not all(one.passed for one in found):
        raise typer.Exit(1)


@rates.command("list")
def list_rates(
    context: typer.Context,
    resource: Annotated[str | None, typer.Option(help="Only of this resource.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Rate cards, all versions, each with its source."""
    with asking(context) as aifn:
        found = aifn.many(RateCard, SERVICE, "/v1/rate-cards", at_most=bound(limit, everything), resource=resource)
        show_list(found, _CARDS, as_json=as_json, limit=limit, everything=everything, nothing="no rate card")


@rates.command("quote")
def quote_rate(
    context: typer.Context,
    resource: Annotated[str, typer.Argument(help="As lumi/lumi-g/gpu-time.")],
    seconds: Annotated[int, typer.Option(min=1, help="How long it runs.")],
    nodes: Annotated[int, typer.Option(min=1)] = 1,
    slices: Annotated[int | None, typer.Option(min=0, help="Shares of nodes, all together.")] = None,
    cores: Annotated[int | None, typer.Option(min=0, help="Of all nodes.")] = None,
    devices: Annotated[int | None, typer.Option(min=0, help="Of all nodes.")] = None,
    memory_mib: Annotated[int | None, typer.Option(min=0, help="Of all nodes.")] = None,
    exclusive: Annotated[bool | None, typer.Option(help="Whole nodes to itself.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a run would cost now; nothing is held."""
    words = {"resource": resource, "nodes": nodes, "seconds": seconds}
    said = {"slices": slices, "cores": cores, "devices": devices, "memory_mib": memory_mib, "exclusive": exclusive}
    with asking(context) as aifn:
        body = words | {name: value for name, value in said.items() if value is not None}
        one = Quote.of(aifn.post(SERVICE, "/v1/rate-cards/quote", body))
        rows = (
            ("resource", one.resource),
            ("rate card", one.rate_card),
            ("slice-seconds", one.amount),
            ("node-hours", one.node_hours),
            ("GPU-hours", one.gpu_hours),
        )
        show_one(one, rows, as_json=as_json)


@gaps.command("list")
def list_gaps(
    context: typer.Context,
    machine: Annotated[str | None, typer.Option(help="Only of this site.")] = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that are not mended.")] = False,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Days on which what arrived is not what the site states."""
    with asking(context) as aifn:
        found = aifn.many(
            Gap, SERVICE, "/v1/gaps", at_most=bound(limit, everything), machine=machine, only_open=only_open or None
        )
        show_list(found, _GAPS, as_json=as_json, limit=limit, everything=everything, nothing="all usage has arrived")
