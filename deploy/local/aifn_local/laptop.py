"""A factory that stays: `aifn up` and `aifn down`, and what `aifn demo --keep` leaves to look around in."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer
from aifn_client.context import Context
from pydantic import BaseModel
from rich.console import Console

from aifn_local import stack
from aifn_local.errors import StackError
from aifn_local.factory import API_SERVICES, Factory, Site
from aifn_local.home import make_folder, stack_folder

STACK = "default"
FACTORY = "lumi-aif"
SITES = (Site("lumi", {"lumi-g": 20, "lumi-c": 12}),)
PATIENCE_SECONDS = 90.0


class Laptop(BaseModel):
    """What `aifn up` keeps in its state file: the secret of its databases, its ports, and its processes."""

    secret: str
    ports: dict[str, int]
    pids: dict[str, tuple[int, float]] = {}


def up(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the services; 0 takes a free one.")] = 0,
) -> None:
    """Start one factory in the background: Kafka, PostgreSQL, all services in one process, a development issuer."""
    console = Console()
    try:
        state = stack.up(STACK, say=lambda text: console.print(f"  {text}", highlight=False))
        context = asyncio.run(_up(state, port))
    except StackError as wrong:
        typer.echo(f"aifn: {wrong}", err=True)
        raise typer.Exit(1) from None
    _tell(context, console)
    console.print("Sign in with `aifn login --as pi`, stop with `aifn down`.", highlight=False)


def down() -> None:
    """Stop what `aifn up` started; its data stay."""
    try:
        ended = _end(_read())
        ended = stack.down(STACK) or ended
    except StackError as wrong:
        typer.echo(f"aifn: {wrong}", err=True)
        raise typer.Exit(1) from None
    typer.echo("stopped" if ended else "nothing was running")


async def keep_running(factory: Factory, console: Console) -> None:
    """Leave a factory as it is until somebody interrupts, and say where it answers."""
    context = Context(
        factory=factory.name,
        issuer=factory.issuer,
        services={name: factory.url(name) for name in API_SERVICES},
    )
    context.save()
    _tell(context, console)
    console.print("Sign in with `aifn login --as auditor` in another terminal; Ctrl-C here stops everything.")
    with suppress(asyncio.CancelledError, KeyboardInterrupt):
        await asyncio.Event().wait()


def _tell(context: Context, console: Console) -> None:
    for name, url in {"issuer": context.issuer, **context.services}.items():
        console.print(f"  {name:<11} {url}", highlight=False)


async def _up(state: stack.StackState, port: int) -> Context:
    known = _read() or Laptop(secret=secrets.token_hex(16), ports={})
    factory = Factory.on(state, FACTORY, SITES, secret=known.secret)
    if port and known.ports.get("services") != port:
        _end(known)
        known.ports["services"] = port
    factory.ports = known.ports
    await factory.prepare()
    services, issuer = factory.port("services"), factory.port("issuer")
    programs = {
        "issuer": (["aifn_local.issuer", "--port", str(issuer)], {}),
        "services": (["aifn_local.all_in_one"], {**factory.all_in_one(), "AIFN_PORT": str(services)}),
    }
    for name, (arguments, env) in programs.items():
        if not _alive(known, name):
            known.pids[name] = _launch(name, arguments, env)
            _write(known)
    base = f"http://127.0.0.1:{services}"
    await _wait_for(base, known)
    context = Context(
        factory=FACTORY, issuer=factory.issuer, services={name: f"{base}/{name}" for name in API_SERVICES}
    )
    context.save()
    return context


def _launch(name: str, arguments: list[str], env: dict[str, str]) -> tuple[int, float]:
    log = (_file().parent / f"{name}.log").open("ab")
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid, psutil.Process(process.pid).create_time()


async def _wait_for(base: str, known: Laptop) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        for service in API_SERVICES:
            while True:
                with suppress(httpx.HTTPError):
                    if (await http.get(f"{base}/{service}/readyz")).status_code == 200:
                        break
                if time.monotonic() > deadline or not _alive(known, "services"):
                    _end(known)
                    raise StackError(f"the services did not become ready: see {_file().parent / 'services.log'}")
                await asyncio.sleep(0.2)


def _alive(known: Laptop, name: str) -> bool:
    pid, created = known.pids.get(name, (0, 0.0))
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    return False


def _end(known: Laptop | None) -> bool:
    if known is None:
        return False
    living = [psutil.Process(known.pids[name][0]) for name in known.pids if _alive(known, name)]
    for process in living:
        process.send_signal(signal.SIGTERM)
    for process in psutil.wait_procs(living, timeout=20)[1]:
        process.kill()
    known.pids.clear()
    _write(known)
    return bool(living)


def _file() -> Path:
    return make_folder(stack_folder(STACK)) / "laptop.json"


def _read() -> Laptop | None:
    try:
        return Laptop.model_validate_json(_file().read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise StackError(f"{_file()} is damaged: remove it, and `aifn stack down --wipe`") from None


def _write(known: Laptop) -> None:
    with open(os.open(_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as target:
        target.write(json.dumps(known.model_dump()))
