"""A factory that stays: `aifn up` and `aifn down`, and what `aifn demo --keep` leaves to look around in."""

import asyncio
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer
from aifn_client.context import Context, config_folder
from aifn_client.errors import ClientError
from pydantic import BaseModel
from rich.console import Console

from aifn_local import processes, stack
from aifn_local.errors import StackError, explain
from aifn_local.factory import API_SERVICES, Factory, Site
from aifn_local.home import locked, make_folder, stack_folder

STACK = "default"
FACTORY = "lumi-aif"
SITES = (Site("lumi", {"lumi-g": 20, "lumi-c": 12}),)
PATIENCE_SECONDS = 90.0


class Process(BaseModel):
    """A process as it can be found again: an id alone may be reused. `settings` is a digest of what it was told."""

    pid: int
    created: float
    settings: str


class Laptop(BaseModel):
    """What `aifn up` keeps in its state file: the secret of its databases, its ports, and its processes."""

    secret: str
    ports: dict[str, int] = {}
    processes: dict[str, Process] = {}


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (StackError, ClientError) as wrong:
        typer.echo(f"aifn: {wrong}", err=True)
        raise typer.Exit(1) from None


def up(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the services; 0 takes a free one.")] = 0,
) -> None:
    """Start one factory in the background: Kafka, PostgreSQL, all services in one process, a development issuer."""
    console = Console()
    with _one_line(), _alone():
        state = stack.up(STACK, say=lambda text: console.print(f"  {text}", highlight=False))
        context = asyncio.run(_up(state, port))
    _tell(context, console)
    console.print("Sign in with `aifn login --as pi`, stop with `aifn down`.", highlight=False)


def down() -> None:
    """Stop what `aifn up` started; its data stay."""
    with _one_line(), _alone():
        known = _read()
        ended = known is not None and _end(known, known.processes)
        if known is not None and _context(known) == _saved():
            Context.forget()
        ended = stack.down(STACK) or ended
    typer.echo("stopped" if ended else "nothing was running")


async def keep_running(factory: Factory, console: Console) -> None:
    """Leave a factory as it is until somebody interrupts, and say where it answers."""
    before = _saved()
    clock = f"{factory.clock.factor:,} simulated seconds in a real one" if factory.clock else None
    context = Context(
        factory=factory.name,
        issuer=factory.issuer,
        services={name: factory.url(name) for name in API_SERVICES},
        clock=clock,
    )
    context.save()
    _tell(context, console)
    console.print("Sign in with `aifn login --as auditor` in another terminal; Ctrl-C here stops everything.")
    try:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
    finally:
        if before.services:
            before.save()
        else:
            Context.forget()


def _tell(context: Context, console: Console) -> None:
    for name, url in {"issuer": context.issuer, **context.services}.items():
        console.print(f"  {name:<11} {url}", highlight=False)


def _saved() -> Context:
    """The context file alone, without the environment over it."""
    return Context.load(config_folder(), environment={})


def _context(known: Laptop) -> Context:
    base = f"http://127.0.0.1:{known.ports.get('services', 0)}"
    return Context(
        factory=FACTORY,
        issuer=f"http://127.0.0.1:{known.ports.get('issuer', 0)}",
        services={name: f"{base}/{name}" for name in API_SERVICES},
    )


async def _up(state: stack.StackState, port: int) -> Context:
    known = _read() or Laptop(secret=secrets.token_hex(16))
    _choose_ports(known, port)
    factory = Factory.on(state, FACTORY, SITES, secret=known.secret)
    factory.ports = known.ports
    await factory.prepare()
    services, issuer = factory.port("services"), factory.port("issuer")
    _have(known, "issuer", ["aifn_local.issuer", "--port", str(issuer)], {})
    _have(known, "services", ["aifn_local.all_in_one"], {**factory.all_in_one(), "AIFN_PORT": str(services)})
    context = _context(known)
    await _wait_for("issuer", f"{context.issuer}/personas", known)
    for service in API_SERVICES:
        await _wait_for("services", f"{context.services[service]}/readyz", known)
    context.save()
    return context


def _choose_ports(known: Laptop, wanted: int) -> None:
    """Keep the ports of last time, but for one that another program has taken since."""
    if wanted:
        known.ports["services"] = wanted
    for name, port in list(known.ports.items()):
        ours = _alive(known, name) and (name != "services" or known.processes[name].settings.endswith(f":{port}"))
        if not ours and processes.answers("127.0.0.1", port):
            if port == wanted:
                raise StackError(f"port {port} is taken by another program: choose another --port")
            del known.ports[name]


def _have(known: Laptop, name: str, arguments: list[str], env: dict[str, str]) -> None:
    """Keep a process that was told the same, start any other anew."""
    digest = hashlib.sha256(json.dumps([arguments, env], sort_keys=True).encode()).hexdigest()
    settings = f"{digest}:{known.ports[name]}"
    if _alive(known, name) and known.processes[name].settings == settings:
        return
    _end(known, [name])
    process = _launch(name, arguments, env)
    known.processes[name] = Process(pid=process.pid, created=process.create_time(), settings=settings)
    _write(known)


def _launch(name: str, arguments: list[str], env: dict[str, str]) -> psutil.Popen:
    with _log(name).open("ab") as log:
        return psutil.Popen(
            [sys.executable, "-m", *arguments],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _wait_for(name: str, url: str, known: Laptop) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        while True:
            with suppress(httpx.HTTPError):
                if (await http.get(url)).status_code == 200:
                    return
            if not _alive(known, name):
                _end(known, known.processes)
                raise explain(name, _log(name).read_text(errors="replace")[-20_000:], log=_log(name))
            if time.monotonic() > deadline:
                _end(known, known.processes)
                raise StackError(f"{name} did not become ready: see {_log(name)}")
            await asyncio.sleep(0.2)


def _alive(known: Laptop, name: str) -> bool:
    one = known.processes.get(name)
    with suppress(psutil.Error):
        if one is not None:
            process = psutil.Process(one.pid)
            return abs(process.create_time() - one.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    return False


def _end(known: Laptop, names: Iterable[str]) -> bool:
    """End these processes, politely and then by force. Returns whether any lived."""
    wanted = list(names)
    living = [psutil.Process(known.processes[name].pid) for name in wanted if _alive(known, name)]
    for process in living:
        process.send_signal(signal.SIGTERM)
    for process in psutil.wait_procs(living, timeout=20)[1]:
        process.kill()
    for name in wanted:
        known.processes.pop(name, None)
    _write(known)
    return bool(living)


def _alone() -> AbstractContextManager[None]:
    """One `up` or `down` at a time."""
    return locked(_file().with_suffix(""))


def _log(name: str) -> Path:
    return _file().with_name(f"{name}.log")


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
        target.write(known.model_dump_json())
