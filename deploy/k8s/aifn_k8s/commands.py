"""`aifn k8s`: make the manifests that code knows better, and check all of them."""

import time
from pathlib import Path
from typing import Annotated

import typer
from aifn_local.errors import StackError

from aifn_k8s import generated, policy, reach, schemas, tools, validation
from aifn_k8s.render import Rendered, folders, render_all
from aifn_k8s.told import read_documents, untold
from aifn_k8s.workloads import settings_by_service

k8s = typer.Typer(help="Kubernetes manifests: generate, check.", no_args_is_help=True)
Root = Annotated[Path, typer.Option(help="The repository.")]
SNAPSHOT = "policy/who-may-speak-to-whom.md"


@k8s.command()
def generate(root: Root = Path()) -> None:
    """Write what is made from the catalogue, the members and the settings."""
    for path in generated.write(root / "deploy/k8s"):
        typer.echo(f"written deploy/k8s/{path}")


@k8s.command("tools")
def build_tools() -> None:
    """Have the programs at hand that `check` needs, building what is missing."""
    try:
        command, program = tools.renderer(_say), tools.validator(_say)
    except StackError as fault:
        typer.echo(f"aifn k8s tools: {fault}", err=True)
        raise typer.Exit(2) from None
    _say(f"rendered by {command[0]}, validated by {program}")


@k8s.command("schemas")
def fetch_schemas(
    made_elsewhere: Annotated[list[Path] | None, typer.Argument(help="Schemas that were generated.")] = None,
    root: Root = Path(),
) -> None:
    """Keep the operators' schemas: those of the listed Go modules, or the files that are named."""
    try:
        texts = {str(path): path.read_text(encoding="utf-8") for path in made_elsewhere or []}
        for source in () if made_elsewhere else schemas.sources():
            place = schemas.fetch(source)
            texts |= {path: (place / path).read_text(encoding="utf-8") for path in source.paths}
    except (StackError, OSError) as wrong:
        typer.echo(f"aifn k8s schemas: {wrong}", err=True)
        raise typer.Exit(2) from None
    for name in schemas.write(root / "deploy/k8s/schemas", texts):
        typer.echo(f"written deploy/k8s/schemas/{name}")


@k8s.command()
def check(
    root: Root = Path(),
    accept: Annotated[bool, typer.Option("--accept", help="Take who may speak to whom as it is now.")] = False,
) -> None:
    """Render every overlay and hold it against the schemas, the policy, the settings and the snapshot."""
    tree = root / "deploy/k8s"
    try:
        wrong = [f"deploy/k8s/{path}: not current, run `aifn k8s generate`" for path in generated.stale(tree)]
        command, program = tools.renderer(_say), tools.validator(_say)
        began = time.monotonic()
        rendered = render_all(folders(tree), command)
        count = sum(len(one.objects) for one in rendered)
        _say(f"{len(rendered)} overlays, {count} objects rendered in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        wrong += validation.problems(rendered, program, tree / "schemas")
        _say(f"validated in {time.monotonic() - began:.0f} s")
        wrong += policy.breaches(rendered, policy.waivers(tree / "policy/waivers.toml"))
        wrong += untold(rendered, settings_by_service(), read_documents(root))
        wrong += _snapshot(tree, rendered, accept=accept)
    except StackError as fault:
        typer.echo(f"aifn k8s check: {fault}", err=True)
        raise typer.Exit(2) from None
    for line in wrong:
        typer.echo(line, err=True)
    typer.echo(f"{len(wrong)} problems" if wrong else "every overlay is as it should be")
    raise typer.Exit(1 if wrong else 0)


def _snapshot(tree: Path, rendered: list[Rendered], *, accept: bool) -> list[str]:
    tables: dict[str, list[str]] = {}
    for one in rendered:
        if any(each["kind"] == "NetworkPolicy" for each in one.objects):
            tables.setdefault(reach.table(reach.allowed(one.objects)), []).append(one.name)
    text, path = reach.document(tables), tree / SNAPSHOT
    if accept:
        path.write_text(text, encoding="utf-8")
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return []
    kept = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    now = set(text.splitlines())
    lines = [f"who may speak to whom has changed: + {line}" for line in sorted(now - kept)]
    lines += [f"who may speak to whom has changed: - {line}" for line in sorted(kept - now)]
    return lines or ["who may speak to whom has changed its order: see `aifn k8s check --accept`"]


def _say(words: str) -> None:
    typer.echo(words)
