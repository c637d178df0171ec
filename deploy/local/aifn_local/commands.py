"""The commands `aifn stack ...`, added to `aifn` by entry point."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from aifn_local import stack
from aifn_local.errors import StackError
from aifn_local.federation import lifecycle
from aifn_local.federation.members import name_relays, read_members
from aifn_local.kafka import DEFAULT_HEAP_MB
from aifn_local.memory import together_mb

stack_app = typer.Typer(
    name="stack", help="Kafka and PostgreSQL on this machine, without Docker.", no_args_is_help=True
)

Name = Annotated[str, typer.Option("--name", help="Which stack: several may run side by side.")]


class Service(StrEnum):
    """The parts of a stack that have a log."""

    KAFKA = "kafka"
    POSTGRES = "postgres"


@contextmanager
def _one_line() -> Iterator[None]:
    """What is missing is said in one line, without a traceback."""
    try:
        yield
    except StackError as error:
        typer.echo(f"aifn: {error}", err=True)
        raise typer.Exit(1) from error


@stack_app.command("up")
def up_command(
    name: Name = "default",
    docker: Annotated[bool, typer.Option("--docker", help="Containers instead of processes.")] = False,
    heap: Annotated[int, typer.Option("--heap", min=128, help="Kafka's Java heap in MB.")] = DEFAULT_HEAP_MB,
    members: Annotated[
        str, typer.Option("--members", help="A whole federation: ids with commas, e.g. ju,lumi-aif,bsc-aif,l-aif.")
    ] = "",
    relays: Annotated[int, typer.Option("--relays", min=1, max=4, help="Of a federation.")] = 2,
) -> None:
    """Start Kafka and PostgreSQL and leave them running; what runs already is kept.

    With --members each member gets servers, services, gate and mirror of its own, and relays lie between them.
    """
    with _one_line():
        if members:
            _up_federation(name, members, relays, docker=docker)
            return
        state = stack.up(name, heap, docker=docker, say=lambda text: typer.echo(f"  {text}", err=True))
        typer.echo(f"AIFN_KAFKA={state.kafka_bootstrap}")
        typer.echo(f"AIFN_POSTGRES={state.postgres_url}")


@stack_app.command("down")
def down_command(
    name: Name = "default",
    wipe: Annotated[bool, typer.Option("--wipe", help="Drop the data too.")] = False,
) -> None:
    """Stop them; their data stays for the next `up`."""
    with _one_line():
        ran = lifecycle.down(name, wipe=wipe)
        ran = stack.down(name, wipe=wipe) or ran
        typer.echo("stopped" if ran else "nothing was running")


@stack_app.command("status")
def status_command(
    name: Name = "default",
    as_json: Annotated[bool, typer.Option("--json", help="For scripts; addresses then carry their password.")] = False,
) -> None:
    """Say what runs, where, and in how much memory. Exit status 3 when a part is down."""
    with _one_line():
        parts = [*stack.status(name), *lifecycle.status(name)]
    if as_json:
        typer.echo(json.dumps([asdict(part) for part in parts], default=str, indent=2))
    elif parts:
        Console().print(_table(parts))
    else:
        typer.echo(f"the stack {name!r} is down: start it with `aifn stack up`")
    if not parts or not all(part.running for part in parts):
        raise typer.Exit(3)


@stack_app.command("logs")
def logs_command(
    service: Annotated[Service, typer.Argument(help="Whose log.")],
    name: Name = "default",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines of its end.")] = 50,
) -> None:
    """Print the end of a log."""
    with _one_line():
        typer.echo(stack.logs(service.value, name, lines=lines))


def _up_federation(name: str, members: str, relays: int, *, docker: bool) -> None:
    if docker:
        raise StackError("a federation runs as processes: leave --docker away, or --members")
    # Services are imported only where they are started: the other commands of a stack should answer at once.
    from aifn_local.federation.start import start

    found = start(name, read_members(members), name_relays(relays), say=lambda text: typer.echo(f"  {text}", err=True))
    for one in found.instances.values():
        for program in one.programs().values():
            typer.echo(f"{one.member.id:<20} {program.folder.name:<9} {program.url}")
    typer.echo(f"memory in all: {together_mb(found.pids()):,} MB in {len(found.pids())} processes")


def _table(parts: list[stack.PartStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("part", "state", "address", "process", "memory", "log"):
        table.add_column(heading, overflow="fold")
    for part in parts:
        table.add_row(
            part.part,
            "running" if part.running else "down",
            _without_password(part.address),
            _text(part.pid, part.kind),
            _text(part.memory_mb and f"{part.memory_mb} MB", ""),
            _text(part.log, ""),
        )
    return table


def _without_password(address: str) -> str:
    return urlsplit(address).netloc.rpartition("@")[2] if "://" in address else address


def _text(value: Any, otherwise: str) -> str:
    return otherwise if value is None else str(value)
