"""Commands from other packages: added by entry point, loaded when called, never in the way."""

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from aifn_client import plugins
from aifn_client.main import app
from typer.testing import CliRunner, Result

PLUGIN = '''
import typer

nameless = typer.Typer(help="A group without a name.")
named = typer.Typer(name="otherwise", help="A group with a name.")

@nameless.command("up")
def up(port: int = 80) -> None:
    """Start it."""
    typer.echo(f"up on {port}")

@named.command("down")
def down() -> None:
    """Stop it."""
    typer.echo("down")

def hello(name: str, loud: bool = False) -> None:
    """Greet somebody."""
    typer.echo(name.upper() if loud else name)

def wrong(thing: "Nowhere") -> None:
    pass

number = 7
'''


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[EntryPoint]]:
    """The plug-ins of this environment: those a test adds, and no others."""
    (tmp_path / "a_plugin.py").write_text(PLUGIN)
    (tmp_path / "a_leaving_plugin.py").write_text("raise SystemExit(4)")
    (tmp_path / "a_broken_plugin.py").write_text("raise RuntimeError('first line\\nsecond line')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found: list[EntryPoint] = []
    monkeypatch.setattr(plugins, "installed", lambda group=plugins.GROUP: found if group == plugins.GROUP else [])
    plugins.command_of.cache_clear()
    yield found
    plugins.command_of.cache_clear()
    for module in ("a_plugin", "a_broken_plugin"):
        sys.modules.pop(module, None)


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, plugins.GROUP)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})


def test_a_group_is_added_under_the_name_of_its_entry(entries: list[EntryPoint]) -> None:
    entries.append(entry("stack", "a_plugin:nameless"))
    assert run("stack", "up", "--port", "81").stdout == "up on 81\n"
    assert "aifn stack up" in run("stack", "up", "--help").stdout


def test_a_plain_function_becomes_a_command(entries: list[EntryPoint]) -> None:
    entries.append(entry("greet", "a_plugin:hello"))
    assert run("greet", "mari", "--loud").stdout == "MARI\n"
    assert "Greet somebody" in run("greet", "--help").stdout


def test_the_help_shows_plug_ins_beside_what_comes_with_aifn(entries: list[EntryPoint]) -> None:
    entries += [entry("stack", "a_plugin:nameless"), entry("greet", "a_plugin:hello")]
    shown = run("--help").stdout
    assert "A group without a name." in shown
    assert "Greet somebody." in shown
    assert "Machines of the network." in shown


def test_a_plug_in_is_imported_only_when_it_is_called(entries: list[EntryPoint]) -> None:
    entries += [entry("greet", "a_plugin:hello"), entry("bad", "a_broken_plugin:x")]
    assert run("machine", "list", "--help").exit_code == 0
    assert "a_plugin" not in sys.modules
    run("greet", "mari")
    assert "a_plugin" in sys.modules
    assert "a_broken_plugin" not in sys.modules


@pytest.mark.parametrize(
    "value",
    [
        "a_broken_plugin:app",
        "a_leaving_plugin:app",
        "no_such_module:app",
        "a_plugin:no_such_name",
        "a_plugin:number",
        "a_plugin:wrong",
    ],
)
def test_a_broken_plug_in_costs_one_line_and_nothing_else(value: str, entries: list[EntryPoint]) -> None:
    entries += [entry("bad", value), entry("greet", "a_plugin:hello")]
    shown = run("--help")
    assert shown.exit_code == 0
    assert "Greet somebody." in shown.stdout
    assert (shown.stderr.count("\n"), "'bad'" in shown.stderr) == (1, True)
    assert run("greet", "mari").stdout == "mari\n"
    assert run("bad").exit_code == 2


def test_a_plug_in_cannot_take_the_place_of_what_comes_with_aifn(entries: list[EntryPoint]) -> None:
    entries.append(entry("machine", "a_plugin:nameless"))
    assert "list" in run("machine", "--help").stdout
    assert "Start it." not in run("machine", "--help").stdout


def test_those_that_are_installed_are_found_by_their_group() -> None:
    assert [one.group for one in plugins.installed()] == [plugins.GROUP] * len(plugins.installed())
    assert "stack" in {one.name for one in plugins.installed()}
