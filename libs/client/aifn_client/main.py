"""The `aifn` command: puts all commands together."""

from importlib.metadata import version
from typing import Annotated

import typer

from aifn_client.commands import (
    access,
    accounting,
    corrections,
    datalab,
    jobs,
    operations,
    outputs,
    periods,
    pools,
    registry,
    sign_in,
    skills,
    webhooks,
)
from aifn_client.plugins import CommandsAndPlugins

app = typer.Typer(
    name="aifn",
    cls=CommandsAndPlugins,
    help="AI Factory Network: computing time, data and skills of Europe's AI Factories.",
    epilog="Exit status: 1 refused, 2 misused, 3 not reached. Lists and things take --json.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aifn {version('aifn-client')}")
        raise typer.Exit


@app.callback()
def _everywhere(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """AI Factory Network: computing time, data and skills of Europe's AI Factories."""


for command in (sign_in.login, sign_in.logout, sign_in.whoami):
    app.command()(command)
for group in (
    registry.machines,
    registry.partitions,
    registry.factories,
    access.modes,
    access.calls,
    access.applications,
    accounting.projects,
    pools.allocations,
    pools.pools,
    pools.caps,
    corrections.approvals,
    corrections.corrections,
    corrections.clearing,
    outputs.balances,
    outputs.statements,
    outputs.burns,
    outputs.usage,
    jobs.jobs,
    datalab.datasets,
    datalab.requests,
    skills.courses,
    skills.suggestions,
    accounting.events,
    accounting.ledger,
    outputs.register,
    outputs.exports,
    webhooks.webhooks,
    periods.periods,
    periods.rates,
    periods.gaps,
    operations.dead_letters,
):
    app.add_typer(group)


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="aifn")


if __name__ == "__main__":
    main()
