"""A stack as processes of this machine: both servers are started together, and end with whoever wanted them."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from aifn_local import processes
from aifn_local.errors import PortTaken, StackError
from aifn_local.home import make_folder
from aifn_local.kafka import DEFAULT_HEAP_MB, KILL_STEPS, LocalKafka
from aifn_local.keeper import Keeper
from aifn_local.postgres import STOP_STEPS, LocalPostgres
from aifn_local.stack_state import Part, StackState, process_part, read_state, write_state

Say = Callable[[str], None]

_PORT_ATTEMPTS = 3


def up_processes(
    name: str, folder: Path, heap_mb: int, home: Path | None, say: Say, *, own: bool = False
) -> StackState:
    """Start what is missing; whoever calls this ends what it had started when it fails.

    `own`: do not use the servers that the environment names.
    """
    before = read_state(folder)
    if before and before.in_containers:
        raise StackError(f"the stack {name!r} runs in containers: stop it with `aifn stack down --name {name}` first")
    make_folder(folder)
    kafka, postgres = servers(folder, home, heap_mb)
    started: list[Callable[[], None]] = []
    for _ in range(_PORT_ATTEMPTS - 1):
        try:
            return _start_parts(name, folder, kafka, postgres, before, started, say, own)
        except PortTaken:
            # Between choosing a free port and listening on it another program was quicker.
            while started:
                started.pop()()
    return _start_parts(name, folder, kafka, postgres, before, started, say, own)


def _start_parts(
    name: str,
    folder: Path,
    kafka: LocalKafka,
    postgres: LocalPostgres,
    known: StackState | None,
    started: list[Callable[[], None]],
    say: Say,
    own: bool,
) -> StackState:
    """Start both servers, unless they run, then wait for both, for each takes seconds."""
    kafka_part = (None if own else _existing("AIFN_KAFKA")) or _still_running(
        known.kafka if known else None, kafka.mark
    )
    postgres_part = (None if own else _existing("AIFN_POSTGRES")) or _still_running(
        known.postgres if known else None, postgres.mark
    )
    controller_port = known.controller_port if known else None
    new_kafka, new_postgres = kafka_part is None, postgres_part is None

    if kafka_part is None:
        kafka.prepare(say)
        kafka.stop(kill=True)  # one whose state file is gone
        port = processes.free_port(known.kafka.port if known else None)
        controller_port = processes.free_port(controller_port)
        say("starting Kafka")
        started.append(lambda: kafka.stop(kill=True))
        pid = kafka.launch(port, controller_port)
        kafka_part = process_part(f"127.0.0.1:{port}", port, pid)
    if postgres_part is None:
        postgres.stop("immediate")
        port = processes.free_port(known.postgres.port if known else None)
        say("starting PostgreSQL")
        started.append(lambda: postgres.stop("immediate"))
        pid = postgres.launch(port)
        postgres_part = process_part(postgres.url(port), port, pid)
        postgres.wait_ready(pid)
    if new_kafka:
        assert kafka_part.pid is not None
        assert kafka_part.port is not None
        kafka.wait_ready(kafka_part.pid, kafka_part.port)
    state = StackState(
        name=name,
        folder=folder,
        kafka=kafka_part,
        postgres=postgres_part,
        controller_port=controller_port,
        heap_mb=kafka.heap_mb,
    )
    if new_kafka or new_postgres or state != known:
        write_state(state)
    return state


def _existing(setting: str) -> Part | None:
    """The server an environment variable names, None when it is unset. Raises StackError when nobody answers there."""
    address = os.environ.get(setting, "").strip()
    if not address:
        return None
    targets = address.split(",") if setting == "AIFN_KAFKA" else [urlsplit(address).netloc.rpartition("@")[2]]
    if not any(answers(target) for target in targets):
        raise StackError(
            f"{setting} names {', '.join(targets)}, where nobody answers: start that server or unset {setting}"
        )
    return Part(kind="existing", address=address)


def answers(target: str) -> bool:
    parts = urlsplit(f"//{target.strip()}")
    try:
        host, port = parts.hostname or "127.0.0.1", parts.port or 5432
    except ValueError:
        raise StackError(f"{target!r} is no address: write host:port") from None
    return processes.answers(host, port, timeout=3.0)


def _still_running(part: Part | None, mark: processes.Mark) -> Part | None:
    return part if part and part.kind == "process" and processes.is_alive(part.pid, mark) else None


def servers(folder: Path, home: Path | None, heap_mb: int = DEFAULT_HEAP_MB) -> tuple[LocalKafka, LocalPostgres]:
    return LocalKafka(folder / "kafka", home=home, heap_mb=heap_mb), LocalPostgres(folder / "postgres", home=home)


def keeper_of(folder: Path, home: Path | None, *, forget: Sequence[Path] = ()) -> Keeper:
    """Watch over what this call starts, and `forget` its traces. What ran before is not its to end."""
    kafka, postgres = servers(folder, home)
    orders = []
    if forget or not postgres.running():
        orders.append((postgres.mark, STOP_STEPS["immediate"]))
    if forget or not kafka.running():
        orders.append((kafka.mark, KILL_STEPS))
    return Keeper(orders, remove=[postgres.folder, *forget] if forget else [])


def anything_runs(folder: Path, home: Path | None) -> bool:
    return any(server.running() for server in servers(folder, home))


def stop_processes(folder: Path, home: Path | None, *, quick: bool) -> None:
    """Stop both; `quick` when their data is of no use any more."""
    kafka, postgres = servers(folder, home)
    try:
        postgres.stop("immediate" if quick else "fast")
    finally:
        kafka.stop(kill=quick)


def drop_data(folder: Path, home: Path | None) -> None:
    kafka, postgres = servers(folder, home)
    postgres.wipe()
    kafka.wipe()
    shutil.rmtree(folder, ignore_errors=True)
