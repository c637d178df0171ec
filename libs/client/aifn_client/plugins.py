"""Commands that other packages add to `aifn`, by entry points of the group `aifn.commands`.

To `aifn ledger` they add theirs by the group `aifn.commands.ledger`.

An entry is a `typer.Typer` (a group of commands) or a plain function (one command). It is imported only when it is
called or help is shown, so that a heavy plug-in slows nobody else; a broken one costs a line on stderr.
"""

from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group
from typer.models import DefaultPlaceholder

from aifn_client.screen import note

GROUP = "aifn.commands"


def installed(group: str = GROUP) -> Sequence[EntryPoint]:
    """The plug-ins of this environment for a group of entry points, by name."""
    return sorted(entry_points(group=group), key=lambda entry: entry.name)


class CommandsAndPlugins(TyperGroup):
    """The commands of `aifn`, then those of plug-ins. What comes with `aifn` cannot be replaced by a plug-in."""

    plugins = GROUP

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        own = super().list_commands(ctx)
        return own + sorted({entry.name for entry in installed(self.plugins)} - set(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by its name; None if there is none, or its plug-in is broken."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in installed(self.plugins):
            if entry.name == cmd_name:
                return command_of(entry)
        return None


class LedgerCommands(CommandsAndPlugins):
    """The same for `aifn ledger`: who runs accounting has more to do with its books than to ask."""

    plugins = f"{GROUP}.ledger"


@cache
def command_of(entry: EntryPoint) -> Any:
    """The command of a plug-in; None, with a line on stderr, if it is broken."""
    try:
        value = entry.load()
        # get_command would turn a group of one command into that command.
        command = get_group(value) if isinstance(value, typer.Typer) else get_command(_alone(value))
    except (Exception, SystemExit) as fault:
        why = " ".join(str(fault).split())
        note(f"aifn: the plug-in {entry.name!r} ({entry.value}) is broken: {type(fault).__name__}: {why}")
        return None
    command.name = command.name if isinstance(value, typer.Typer) and _has_name(value) else entry.name
    return command


def _alone(function: Any) -> typer.Typer:
    """An application of one command. Raises TypeError for what cannot be called."""
    if not callable(function):
        raise TypeError(f"neither a Typer nor a function, but {type(function).__name__}")
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return app


def _has_name(app: typer.Typer) -> bool:
    name = app.info.name
    return bool(name.value if isinstance(name, DefaultPlaceholder) else name)
