"""Everything that is made from code and kept in the repository: contracts, OpenAPI, the settings table."""

import json
from pathlib import Path
from typing import Annotated

import typer
from aifn_common.answering import describe_api
from aifn_common.settings import ServiceSettings, is_secret
from aifn_events import publish
from aifn_fedgate.settings import FedgateSettings
from pydantic_core import PydanticUndefined

from aifn_local import observability
from aifn_local.factory import API_SERVICES, service_of
from aifn_local.fleet import ROOMS

_INTRODUCTION = """\
# Configuration

Made from code by `make schemas`. Every setting is an environment variable; `AIFN_OTLP_ENDPOINT` and the like are read
once, at the start. A secret may lie in a file instead, and `<NAME>_FILE` says in which; a line feed at its end is no
part of it. Certificates are files as well, and are read again at every new connection, so that they can be renewed.

A process that cannot begin says why in one line on standard error, and ends with a status (those of `sysexits.h`):

| status | why | what to do |
| --- | --- | --- |
| 64 | the command line is wrong | see the line |
| 65 | the schema is for other programs, or a migration failed; nothing was changed | [upgrade](operations/upgrade.md) |
| 69 | `migrate` reached no database or no broker in a minute | see the reason in the line |
| 70 | a fault of ours; the log has it | tell us |
| 75 | `migrate` met a table in use or lost its database; nothing was changed | try again |
| 78 | a setting is missing or wrong, or the database refuses us | the line names the variable, with an example |

A server that is not there yet is waited for: the process answers `/livez` with 200 and `/readyz` with 503 and the
reason. `/livez` asks the event loop alone; `/startupz` asks for the database and its schema; `/readyz` asks for these
and for every subscription."""


def openapi(room: str) -> str:
    """The OpenAPI 3.1 document of a service."""
    return json.dumps(describe_api(service_of(room)).openapi(), indent=1, ensure_ascii=False) + "\n"


def settings_table() -> str:
    """docs/configuration.md: every setting of every service."""
    lines = [*_INTRODUCTION.splitlines(), "", "## Every service", "", *_rows(ServiceSettings, skip=set())]
    for room in ROOMS:
        settings = service_of(room).settings
        own = _rows(settings, skip=set(ServiceSettings.model_fields))
        if len(own) > 2:
            lines += ["", f"## {room}", "", *own]
    gate = _rows(FedgateSettings, skip=set(ServiceSettings.model_fields) - {"factory"})
    lines += ["", "## fedgate", "", "The gate to other members, see [federation.md](federation.md).", "", *gate]
    return "\n".join(lines) + "\n"


def _rows(settings: type[ServiceSettings], skip: set[str]) -> list[str]:
    rows = ["| variable | meaning | default | example |", "| --- | --- | --- | --- |"]
    for name, field in settings.model_fields.items():
        if name in skip:
            continue
        required = field.default is PydanticUndefined and field.default_factory is None
        default = "**required**" if required else f"`{field.default}`" if field.default not in ("", None) else "none"
        example = f"`{field.examples[0]}`" if field.examples else ""
        or_file = f"<br>`AIFN_{name.upper()}_FILE`" if is_secret(field) else ""
        rows.append(f"| `AIFN_{name.upper()}`{or_file} | {field.description} | {default} | {example} |")
    return rows


def documents() -> dict[str, str]:
    """Path and content of what this module makes; the contracts come from `aifn_events.publish`."""
    found = {f"docs/openapi/{room}.json": openapi(room) for room in API_SERVICES}
    return found | {"docs/configuration.md": settings_table()}


def schemas(
    check: Annotated[bool, typer.Option("--check", help="Only say what is not current.")] = False,
    root: Annotated[Path, typer.Option(help="The repository.")] = Path(),
) -> None:
    """Write what is generated from code: JSON Schemas, golden messages, AsyncAPI, OpenAPI, topics, settings."""
    made = documents() | observability.documents(root)
    stale = [path for path, text in made.items() if not (root / path).exists() or (root / path).read_text() != text]
    if check:
        wrong = [*publish.check(root), *(f"{path}: not current, run `make schemas`" for path in stale)]
        for line in wrong:
            typer.echo(line, err=True)
        raise typer.Exit(1 if wrong else 0)
    try:
        changed = publish.write(root)
    except publish.BreakingChange as breaking:
        for reason in breaking.reasons:
            typer.echo(reason, err=True)
        raise typer.Exit(1) from None
    for path in stale:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(made[path])
    for path in [*changed, *stale]:
        typer.echo(f"written {path}")
