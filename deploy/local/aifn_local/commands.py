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
from aifn_local.kafka import DEFAULT_HEAP_MB

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
) -> None:
    """Start Kafka and PostgreSQL and leave them running; what runs already is kept."""
    with _one_line():
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
        typer.echo("stopped" if stack.down(name, wipe=wipe) else "nothing was running")


@stack_app.command("status")
def status_command(
    name: Name = "default",
    as_json: Annotated[bool, typer.Option("--json", help="For scripts; addresses then carry their password.")] = False,
) -> None:
    """Say what runs, where, and in how much memory. Exit status 3 when a part is down."""
    with _one_line():
        parts = stack.status(name)
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
