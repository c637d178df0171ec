"""The local stack: one Kafka and one PostgreSQL, started, found again and stopped together."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil

from aifn_local import compose
from aifn_local.errors import StackError, explain_os_error
from aifn_local.home import lock_file, locked, stack_folder
from aifn_local.kafka import DEFAULT_HEAP_MB, LocalKafka
from aifn_local.postgres import LocalPostgres, StopMode
from aifn_local.stack_containers import project, up_docker
from aifn_local.stack_processes import (
    Say,
    answers,
    anything_runs,
    drop_data,
    keeper_of,
    servers,
    stop_processes,
    up_processes,
)
from aifn_local.stack_state import Kind, Part, StackState, process_part, read_state, state_file, write_state

__all__ = ["Part", "PartStatus", "StackState", "down", "find", "logs", "running", "status", "up"]


@dataclass(frozen=True)
class PartStatus:
    """How one server does now. `memory_mb` is resident, with children; None where it is no process of ours."""

    part: str
    kind: Kind
    address: str
    running: bool
    pid: int | None
    memory_mb: int | None
    log: Path | None


def up(
    name: str = "default",
    heap_mb: int = DEFAULT_HEAP_MB,
    home: Path | None = None,
    *,
    docker: bool = False,
    own: bool = False,
    say: Say = lambda _: None,
) -> StackState:
    """Have a stack running, and leave it running. What runs already is kept; a part that died is started again.

    AIFN_KAFKA (host:port) and AIFN_POSTGRES (an administrator's URL) name servers to use instead of starting any.

    Args:
        heap_mb: Kafka's Java heap.
        home: where everything is kept; else AIFN_HOME, else the user's cache folder.
        docker: containers instead of processes.
        own: start servers even where the environment names some.
        say: told in a few words what takes time.
    Raises: StackError, in one line; whatever this call had started is stopped then.
    """
    folder = stack_folder(name, home)
    with locked(folder):
        if docker:
            return up_docker(name, folder, say)
        keeper = keeper_of(folder, home)
        try:
            state = up_processes(name, folder, heap_mb, home, say, own=own)
        except BaseException:
            keeper.act()
            raise
        keeper.dismiss()
        return state


@contextmanager
def running(
    name: str | None = None, *, heap_mb: int = DEFAULT_HEAP_MB, home: Path | None = None, say: Say = lambda _: None
) -> Iterator[StackState]:
    """A new stack of one's own for the length of a `with`; it and its data are gone afterwards.

    That holds for an exception, SIGTERM and kill -9 of this process too: a keeper process sees to it. It may be
    entered in one thread and left in another, so `asyncio.to_thread` may do both.

    Raises: StackError, also when a stack of that name is up already.
    """
    own = name or f"run-{os.getpid()}-{secrets.token_hex(3)}"
    folder = stack_folder(own, home)
    # A name of one's own is never used again; a given one may have others waiting for its lock.
    traces = [folder] if name else [folder, lock_file(folder)]
    with locked(folder):
        if anything_runs(folder, home):
            raise StackError(f"the stack {own!r} is up already: stop it with `aifn stack down --name {own}`")
        drop_data(folder, home)
        keeper = keeper_of(folder, home, forget=traces)
        try:
            state = up_processes(own, folder, heap_mb, home, say)
        except BaseException:
            keeper.act()
            raise
    try:
        yield state
    finally:
        with locked(folder):
            stop_processes(folder, home, quick=True)
            drop_data(folder, home)
            keeper.dismiss()
        if name is None:
            lock_file(folder).unlink(missing_ok=True)


def down(name: str = "default", home: Path | None = None, *, wipe: bool = False) -> bool:
    """Stop a stack, also one whose starter crashed; `wipe` drops its data. Returns whether anything ran."""
    folder = stack_folder(name, home)
    if not folder.exists():
        return False
    with locked(folder):
        state = read_state(folder)
        ran = anything_runs(folder, home)
        if state and state.in_containers:
            ran = bool(compose.compose_running(project(name)))
            compose.compose_down(project(name), wipe=wipe)
        stop_processes(folder, home, quick=wipe)
        state_file(folder).unlink(missing_ok=True)
        if wipe:
            drop_data(folder, home)
        return ran


def status(name: str = "default", home: Path | None = None) -> list[PartStatus]:
    """How each part of a stack does now; empty when the stack is down."""
    folder = stack_folder(name, home)
    state = read_state(folder)
    if state is None:
        return []
    containers = compose.compose_running(project(name)) if state.in_containers else set()
    kafka, postgres = servers(folder, home, state.heap_mb)
    return [
        _part_status("kafka", state.kafka, kafka.running, containers, kafka.log),
        _part_status("postgres", state.postgres, postgres.running, containers, postgres.log),
    ]


def find(name: str = "default", home: Path | None = None) -> StackState | None:
    """The state of a stack that `up` left running; None when it is down or a part of it died."""
    parts = status(name, home)
    return read_state(stack_folder(name, home)) if parts and all(part.running for part in parts) else None


def logs(
    part: Literal["kafka", "postgres"], name: str = "default", home: Path | None = None, *, lines: int = 50
) -> str:
    """The last lines of one part's log. Raises StackError when there is none."""
    folder = stack_folder(name, home)
    state = read_state(folder)
    if state and state.in_containers:
        return compose.compose_logs(project(name), part, lines)
    missing = StackError(f"{part} of the stack {name!r} has no log yet: start it with `aifn stack up`")
    if not folder.exists():
        raise missing
    kafka, postgres = servers(folder, home)
    log = {"kafka": kafka.log, "postgres": postgres.log}[part]
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        raise missing from None
    except OSError as error:
        raise explain_os_error(error, doing=f"reading {part}'s log", path=log) from error


def stop_kafka(state: StackState, *, kill: bool = False) -> None:
    """Stop the broker and keep its data; `kill` is a power cut."""
    _own_kafka(state).stop(kill=kill)


def start_kafka(state: StackState) -> StackState:
    """Start the broker again with its data and on its port; a running one stays. Returns the new state."""
    kafka = _own_kafka(state)
    if kafka.running():
        return state
    assert state.kafka.port is not None
    assert state.controller_port is not None
    pid = kafka.launch(state.kafka.port, state.controller_port)
    kafka.wait_ready(pid, state.kafka.port)
    return write_state(state.model_copy(update={"kafka": process_part(state.kafka.address, state.kafka.port, pid)}))


def restart_kafka(state: StackState, *, kill: bool = False) -> StackState:
    """Stop the broker (`kill`: by force) and start it again with its data and on its port. Returns the new state."""
    stop_kafka(state, kill=kill)
    return start_kafka(state)


def stop_postgres(state: StackState, mode: StopMode = "fast") -> None:
    """Stop the database server and keep its data."""
    _own_postgres(state).stop(mode)


def start_postgres(state: StackState) -> StackState:
    """Start the database server again with its data and on its port; a running one stays. Returns the new state."""
    postgres = _own_postgres(state)
    if postgres.running():
        return state
    assert state.postgres.port is not None
    pid = postgres.launch(state.postgres.port)
    postgres.wait_ready(pid)
    return write_state(
        state.model_copy(update={"postgres": process_part(state.postgres.address, state.postgres.port, pid)})
    )


def restart_postgres(state: StackState, mode: StopMode = "fast") -> StackState:
    """Stop the database server in the given mode and start it again. Returns the new state."""
    stop_postgres(state, mode)
    return start_postgres(state)


def _own_kafka(state: StackState) -> LocalKafka:
    if state.kafka.kind != "process":
        raise StackError("this Kafka is not a process of the local stack: stop and start it where it was made")
    return LocalKafka(state.folder / "kafka", home=state.home, heap_mb=state.heap_mb)


def _own_postgres(state: StackState) -> LocalPostgres:
    if state.postgres.kind != "process":
        raise StackError("this PostgreSQL is not a process of the local stack: stop and start it where it was made")
    return LocalPostgres(state.folder / "postgres", home=state.home)


def _part_status(
    part: str, known: Part, pid_of: Callable[[], int | None], containers: set[str], log: Path
) -> PartStatus:
    if known.kind == "container":
        return PartStatus(part, known.kind, known.address, part in containers, None, None, None)
    if known.kind == "existing":
        target = known.address.split(",")[0] if part == "kafka" else urlsplit(known.address).netloc.rpartition("@")[2]
        return PartStatus(part, known.kind, known.address, answers(target), None, None, None)
    pid = pid_of()
    return PartStatus(part, known.kind, known.address, pid is not None, pid, _memory_mb(pid) if pid else None, log)


def _memory_mb(pid: int) -> int | None:
    """Resident memory of a process and its children; what they share counts once where the system says so."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(_private_bytes(member) for member in family) // 2**20
    except psutil.NoSuchProcess:
        return None


def _private_bytes(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
