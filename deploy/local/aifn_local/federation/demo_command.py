"""`aifn demo-federation`: four members and two relays on this machine, one story, one report."""

import asyncio
import signal
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aifn_local.errors import StackError
from aifn_local.federation.demo import Demo, Outcome
from aifn_local.federation.gates import View
from aifn_local.federation.members import name_relays, read_members
from aifn_local.federation.start import Federation, running
from aifn_local.memory import Peak
from aifn_local.people import Refused

MEMBERS = "ju,lumi-aif,bsc-aif,l-aif"


def demo_federation(
    members: Annotated[
        str, typer.Option("--members", help="Ids with commas; three factories or more, and the JU.")
    ] = MEMBERS,
    relays: Annotated[int, typer.Option("--relays", min=2, max=4, help="How many relays.")] = 2,
) -> None:
    """Watch factories find each other's data and machines, and notice and repair what goes wrong between them."""
    console = Console()
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"  {text}", highlight=False, markup=False)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        chosen = read_members(members)
        factories = [one.id for one in chosen if one.kind == "factory"]
        authorities = [one.id for one in chosen if one.kind == "ju"]
        if len(factories) < 3 or not authorities:
            raise StackError(f"the demo needs three factories and the JU: --members {MEMBERS}")
        with running(chosen, name_relays(relays), say=say) as federation:
            home, owner, third, *_ = factories
            outcome = asyncio.run(_play(Demo(federation, home, owner, third, authorities[0], say), federation))
    except KeyboardInterrupt:
        typer.echo("aifn: interrupted; everything is stopped", err=True)
        raise typer.Exit(130) from None
    except (StackError, Refused) as wrong:
        typer.echo(f"aifn: {wrong}", err=True)
        raise typer.Exit(1) from None
    show(outcome, console)
    console.print(f"All in all {time.monotonic() - began:.0f} s.", highlight=False)
    raise typer.Exit(0 if outcome.good else 1)


async def _play(demo: Demo, federation: Federation) -> Outcome:
    peak = Peak(federation.pids)
    watching = asyncio.create_task(peak.watch(10))
    try:
        outcome = await demo.run()
    finally:
        watching.cancel()
    outcome.peak_mb = peak.mb
    return outcome


def show(outcome: Outcome, console: Console) -> None:
    """Print the report: what each gate knows of the others, then every check."""
    for view in outcome.views.values():
        console.print(_peers(view))
    table = Table(title="What was checked", title_justify="left", box=None, pad_edge=False)
    for column in ("", "statement", "numbers"):
        table.add_column(column)
    for one in outcome.checks:
        table.add_row("holds" if one.holds else "FAILS", one.statement, one.numbers)
    console.print(table)
    console.print(f"Memory of all processes at its peak: {outcome.peak_mb:,} MiB.", highlight=False)


def _peers(view: View) -> Table:
    table = Table(title=f"{view.member} hears", title_justify="left", box=None, pad_edge=False)
    for column in ("member", "stream", "last event", "place", "gaps", "verdicts"):
        table.add_column(column, justify="right" if column in ("last event", "place", "gaps") else "left")
    for one in view.streams:
        if one.origin == view.member:
            continue
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(one.verdicts.items()))
        place = f"{one.epoch}/{one.seq}"
        table.add_row(one.origin, one.stream, f"{one.last_event_seconds:.0f} s", place, str(one.missing), verdicts)
    return table
