"""Puts answers on the screen: tables for people, JSON for scripts, errors in a line or two on stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aifn_client import text
from aifn_client.context import Context
from aifn_client.errors import ClientError, Problem
from aifn_client.http import Aifn
from aifn_client.models import View

V = TypeVar("V", bound=View)
WIDE = 100
ROWS = 100
_GAP = 2
_NARROWEST = 8
_COLOURS = {
    "refused": "red", "failed": "red", "rejected": "red", "timeout": "red", "node_fail": "red", "out_of_memory": "red",
    "queued": "yellow", "placed": "yellow", "dispatched": "yellow", "pending": "yellow", "eligible": "yellow",
    "running": "cyan", "completed": "green", "awarded": "green", "granted": "green", "passed": "green",
    "operating": "green",
}  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts: just what the API gave.")]
Limit = Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Show so many at most.")]
All = Annotated[bool, typer.Option("--all", help="Show all, however many there are.")]


@dataclass(frozen=True)
class Column(Generic[V]):
    """One column of a table: how a row fills it, and whether it needs a wide screen, or stays in one piece."""

    heading: str
    value: Callable[[V], object]
    wide: bool = False
    right: bool = False
    whole: bool = False

    @property
    def unbroken(self) -> bool:
        """Whether its values are one word each: names, and numbers, which stand at the right edge."""
        return self.whole or self.right


@contextmanager
def asking(context: typer.Context) -> Iterator[Aifn]:
    """A connection for one command; what goes wrong is said in a line or two, and the exit status tells which kind.

    A transport in the command's context object is used instead of the network.
    """
    with saying_errors(context), Aifn(Context.load(), transport=context.find_object(httpx.BaseTransport)) as aifn:
        yield aifn


@contextmanager
def saying_errors(context: typer.Context) -> Iterator[None]:
    """Turns errors of this client into a line or two on stderr, and the exit status of their kind."""
    try:
        yield
    except ClientError as error:
        say(error, or_else=_where_to_look(context, error))
        raise typer.Exit(error.exit_status) from None


def say(error: ClientError, *, or_else: str = "") -> None:
    """An error on stderr, with its code and what to do about it."""
    code = f" [{error.code}]" if isinstance(error, Problem) else ""
    note(f"aifn: {_one_line(f'{error}{code}')}")
    advice = error.advice or or_else
    if advice:
        note(f"      {_one_line(advice)}")


def note(line: str) -> None:
    """A line on stderr, where it does not disturb a script that reads the output."""
    typer.echo(line, err=True)


def show_list(
    views: Iterable[V], columns: Sequence[Column[V]], *, as_json: bool, everything: bool = False, limit: int = ROWS,
    nothing: str = "nothing to show",
) -> None:  # fmt: skip
    """A list as a table, or as one JSON list of the objects the API gave. `views` may hold one more than `limit`."""
    found = list(views)
    shown = found if everything else found[:limit]
    if as_json:
        put_json([view.raw for view in shown])
    elif shown:
        print_table(shown, columns)
    else:
        note(nothing)
    if len(found) > len(shown):
        note(f"there are more than {limit}: --all shows all, --limit N as many as you like")


def bound(limit: int, everything: bool) -> int | None:
    """How many to fetch so that `show_list` can tell whether there are more."""
    return None if everything else limit + 1


def show_one(view: View, rows: Sequence[tuple[str, object]], *, as_json: bool) -> None:
    """One thing as names and values, or as the object the API gave."""
    if as_json:
        put_json(view.raw)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None and value != () and value != "":
            table.add_row(name, _cell(value))
    _console().print(table)


def print_table(views: Iterable[V], columns: Sequence[Column[V]], *, title: str = "") -> None:
    """A table; columns for wide screens are left out on narrow ones. Long words are folded, none is cut off."""
    console = _console()
    kept = [column for column in columns if console.width >= WIDE or not column.wide]
    rows = [[_cell(column.value(view)) for column in kept] for view in views]
    longest = [max(len(column.heading), *(len(row[place].plain) for row in rows)) for place, column in enumerate(kept)]
    # Rich crops a column that must not wrap once there is no room for it: then everything may wrap.
    needed = sum(
        length if column.unbroken else min(length, _NARROWEST) for column, length in zip(kept, longest, strict=True)
    )
    roomy = needed + _GAP * (len(kept) - 1) <= console.width
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for column in kept:
        table.add_column(
            column.heading,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=roomy and column.unbroken,
        )
    for row in rows:
        table.add_row(*row)
    if title:
        console.print(Text(f"\n{title}", style="bold underline"))
    console.print(table)


def put_json(value: Any) -> None:
    """JSON on stdout, in ASCII: it survives every terminal and every locale."""
    typer.echo(json.dumps(value, indent=2))


def put_json_line(value: Any) -> None:
    """One object of a stream, on a line of its own, at once."""
    typer.echo(json.dumps(value))
    sys.stdout.flush()


def print_line(words: str) -> None:
    """A sentence on stdout."""
    typer.echo(text.plain(words))


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _cell(value: object) -> Text:
    words = text.plain(value)
    return Text(words, style=_COLOURS.get(words, ""))


def _one_line(words: str) -> str:
    return text.plain(" ".join(words.split())) if words else ""


def _where_to_look(context: typer.Context, error: ClientError) -> str:
    """For a name nobody knows: the command that lists those there are."""
    group = context.parent
    if not isinstance(error, Problem) or error.status != 404 or group is None:
        return ""
    listed = "list" in getattr(group.command, "commands", {}) and context.info_name != "list"
    return f"`{group.command_path} list` shows what there is" if listed else ""
