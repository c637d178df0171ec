"""The local stack: one Kafka and one PostgreSQL, started, found again and stopped together."""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from aifn_local import compose, processes
from aifn_local.errors import PortTaken, StackError, explain_os_error
from aifn_local.home import lock_file, locked, make_folder, stack_folder
from aifn_local.kafka import DEFAULT_HEAP_MB, KILL_STEPS, LocalKafka
from aifn_local.keeper import Keeper
from aifn_local.postgres import STOP_STEPS, LocalPostgres, StopMode

Say = Callable[[str], None]
Kind = Literal["process", "container", "existing"]

_PORT_ATTEMPTS = 3


class Part(BaseModel):
    """One server of a stack. `pid` and `created` (seconds since the epoch) only where we started a process."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    address: str
    port: int | None = None
    pid: int | None = None
    created: float | None = None


class StackState(BaseModel):
    """What a stack consists of; also the content of its state file."""

    model_config = ConfigDict(frozen=True)

    name: str
    folder: Path
    kafka: Part
    postgres: Part
    controller_port: int | None = None
    heap_mb: int = DEFAULT_HEAP_MB

    @property
    def kafka_bootstrap(self) -> str:
        """host:port of the broker, as clients take it."""
        return self.kafka.address

    @property
    def postgres_url(self) -> str:
        """Address of the database server's administrator, with its password."""
        return self.postgres.address

    @property
    def home(self) -> Path:
        """The folder that holds the downloads and all stacks."""
        return self.folder.parent.parent


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
    say: Say = lambda _: None,
) -> StackState:
    """Have a stack running, and leave it running. What runs already is kept; a part that died is started again.

    AIFN_KAFKA (host:port) and AIFN_POSTGRES (an administrator's URL) name servers to use instead of starting any.

    Args:
        heap_mb: Kafka's Java heap.
        home: where everything is kept; else AIFN_HOME, else the user's cache folder.
        docker: containers instead of processes.
        say: told in a few words what takes time.
    Raises: StackError, in one line; whatever this call had started is stopped then.
    """
    folder = stack_folder(name, home)
    with locked(folder):
        if docker:
            return _up_docker(name, folder, say)
        keeper = _keeper(folder, home)
        try:
            state = _up_processes(name, folder, heap_mb, home, say)
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
        if _anything_runs(folder, home):
            raise StackError(f"the stack {own!r} is up already: stop it with `aifn stack down --name {own}`")
        _wipe(folder, home)
        keeper = _keeper(folder, home, forget=traces)
        try:
            state = _up_processes(own, folder, heap_mb, home, say)
        except BaseException:
            keeper.act()
            raise
    try:
        yield state
    finally:
        with locked(folder):
            _stop_processes(folder, home, quick=True)
            _wipe(folder, home)
            keeper.dismiss()
        if name is None:
            lock_file(folder).unlink(missing_ok=True)


def down(name: str = "default", home: Path | None = None, *, wipe: bool = False) -> bool:
    """Stop a stack, also one whose starter crashed; `wipe` drops its data. Returns whether anything ran."""
    folder = stack_folder(name, home)
    if not folder.exists():
        return False
    with locked(folder):
        state = _read_state(folder)
        ran = _anything_runs(folder, home)
        if state and _in_containers(state):
            ran = bool(compose.compose_running(_project(name)))
            compose.compose_down(_project(name), wipe=wipe)
        _stop_processes(folder, home, quick=wipe)
        _state_file(folder).unlink(missing_ok=True)
        if wipe:
            _wipe(folder, home)
        return ran


def status(name: str = "default", home: Path | None = None) -> list[PartStatus]:
    """How each part of a stack does now; empty when the stack is down."""
    folder = stack_folder(name, home)
    state = _read_state(folder)
    if state is None:
        return []
    containers = compose.compose_running(_project(name)) if _in_containers(state) else set()
    kafka, postgres = _servers(folder, home, state.heap_mb)
    return [
        _part_status("kafka", state.kafka, kafka.running, containers, kafka.log),
        _part_status("postgres", state.postgres, postgres.running, containers, postgres.log),
    ]


def find(name: str = "default", home: Path | None = None) -> StackState | None:
    """The state of a stack that `up` left running; None when it is down or a part of it died."""
    parts = status(name, home)
    return _read_state(stack_folder(name, home)) if parts and all(part.running for part in parts) else None


def logs(
    part: Literal["kafka", "postgres"], name: str = "default", home: Path | None = None, *, lines: int = 50
) -> str:
    """The last lines of one part's log. Raises StackError when there is none."""
    folder = stack_folder(name, home)
    state = _read_state(folder)
    if state and _in_containers(state):
        return compose.compose_logs(_project(name), part, lines)
    missing = StackError(f"{part} of the stack {name!r} has no log yet: start it with `aifn stack up`")
    if not folder.exists():
        raise missing
    kafka, postgres = _servers(folder, home)
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
    return _write_state(state.model_copy(update={"kafka": _process_part(state.kafka.address, state.kafka.port, pid)}))


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
    return _write_state(
        state.model_copy(update={"postgres": _process_part(state.postgres.address, state.postgres.port, pid)})
    )


def restart_postgres(state: StackState, mode: StopMode = "fast") -> StackState:
    """Stop the database server in the given mode and start it again. Returns the new state."""
    stop_postgres(state, mode)
    return start_postgres(state)


def _up_processes(name: str, folder: Path, heap_mb: int, home: Path | None, say: Say) -> StackState:
    """Start what is missing; whoever calls this ends what it had started when it fails."""
    before = _read_state(folder)
    if before and _in_containers(before):
        raise StackError(f"the stack {name!r} runs in containers: stop it with `aifn stack down --name {name}` first")
    make_folder(folder)
    kafka, postgres = _servers(folder, home, heap_mb)
    started: list[Callable[[], None]] = []
    for _ in range(_PORT_ATTEMPTS - 1):
        try:
            return _start_parts(name, folder, kafka, postgres, before, started, say)
        except PortTaken:
            # Between choosing a free port and listening on it another program was quicker.
            while started:
                started.pop()()
    return _start_parts(name, folder, kafka, postgres, before, started, say)


def _start_parts(
    name: str,
    folder: Path,
    kafka: LocalKafka,
    postgres: LocalPostgres,
    known: StackState | None,
    started: list[Callable[[], None]],
    say: Say,
) -> StackState:
    """Start both servers, unless they run, then wait for both, for each takes seconds."""
    kafka_part = _existing("AIFN_KAFKA") or _still_running(known.kafka if known else None, kafka.mark)
    postgres_part = _existing("AIFN_POSTGRES") or _still_running(known.postgres if known else None, postgres.mark)
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
        kafka_part = _process_part(f"127.0.0.1:{port}", port, pid)
    if postgres_part is None:
        postgres.stop("immediate")
        port = processes.free_port(known.postgres.port if known else None)
        say("starting PostgreSQL")
        started.append(lambda: postgres.stop("immediate"))
        pid = postgres.launch(port)
        postgres_part = _process_part(postgres.url(port), port, pid)
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
        _write_state(state)
    return state


def _up_docker(name: str, folder: Path, say: Say) -> StackState:
    before = _read_state(folder)
    if before and _in_containers(before) and compose.compose_running(_project(name)) == {"kafka", "postgres"}:
        return before
    if _anything_runs(folder, None):
        raise StackError(f"the stack {name!r} runs as processes: stop it with `aifn stack down --name {name}` first")
    for setting in ("AIFN_KAFKA", "AIFN_POSTGRES"):
        if os.environ.get(setting):
            raise StackError(f"{setting} names an existing server and --docker starts one: leave one of the two away")
    make_folder(folder)
    password = _container_password(folder)
    kafka_port = processes.free_port(before.kafka.port if before else None)
    postgres_port = processes.free_port(before.postgres.port if before else None)
    say("starting the containers; the first time their images are pulled")
    try:
        compose.compose_up(_project(name), kafka_port=kafka_port, postgres_port=postgres_port, password=password)
    except BaseException:
        with suppress(StackError):
            compose.compose_down(_project(name), wipe=False)
        raise
    kafka = Part(kind="container", address=f"127.0.0.1:{kafka_port}", port=kafka_port)
    address = f"postgresql://aifn:{password}@127.0.0.1:{postgres_port}/postgres"
    postgres = Part(kind="container", address=address, port=postgres_port)
    return _write_state(StackState(name=name, folder=folder, kafka=kafka, postgres=postgres))


def _container_password(folder: Path) -> str:
    """The password the containers' data was made with: it must outlive `down`."""
    path = folder / "container-password"
    with suppress(FileNotFoundError):
        return path.read_text(encoding="utf-8").strip()
    password = secrets.token_hex(16)
    _write_private(path, password + "\n")
    return password


def _existing(setting: str) -> Part | None:
    """The server an environment variable names, None when it is unset. Raises StackError when nobody answers there."""
    address = os.environ.get(setting, "").strip()
    if not address:
        return None
    targets = address.split(",") if setting == "AIFN_KAFKA" else [urlsplit(address).netloc.rpartition("@")[2]]
    if not any(_answers(target) for target in targets):
        raise StackError(
            f"{setting} names {', '.join(targets)}, where nobody answers: start that server or unset {setting}"
        )
    return Part(kind="existing", address=address)


def _answers(target: str) -> bool:
    parts = urlsplit(f"//{target.strip()}")
    try:
        host, port = parts.hostname or "127.0.0.1", parts.port or 5432
    except ValueError:
        raise StackError(f"{target!r} is no address: write host:port") from None
    return processes.answers(host, port, timeout=3.0)


def _still_running(part: Part | None, mark: processes.Mark) -> Part | None:
    return part if part and part.kind == "process" and processes.is_alive(part.pid, mark) else None


def _process_part(address: str, port: int, pid: int) -> Part:
    return Part(kind="process", address=address, port=port, pid=pid, created=processes.started_at(pid))


def _servers(folder: Path, home: Path | None, heap_mb: int = DEFAULT_HEAP_MB) -> tuple[LocalKafka, LocalPostgres]:
    return LocalKafka(folder / "kafka", home=home, heap_mb=heap_mb), LocalPostgres(folder / "postgres", home=home)


def _own_kafka(state: StackState) -> LocalKafka:
    if state.kafka.kind != "process":
        raise StackError("this Kafka is not a process of the local stack: stop and start it where it was made")
    return LocalKafka(state.folder / "kafka", home=state.home, heap_mb=state.heap_mb)


def _own_postgres(state: StackState) -> LocalPostgres:
    if state.postgres.kind != "process":
        raise StackError("this PostgreSQL is not a process of the local stack: stop and start it where it was made")
    return LocalPostgres(state.folder / "postgres", home=state.home)


def _keeper(folder: Path, home: Path | None, *, forget: Sequence[Path] = ()) -> Keeper:
    """Watch over what this call starts, and `forget` its traces. What ran before is not its to end."""
    kafka, postgres = _servers(folder, home)
    orders = []
    if forget or not postgres.running():
        orders.append((postgres.mark, STOP_STEPS["immediate"]))
    if forget or not kafka.running():
        orders.append((kafka.mark, KILL_STEPS))
    return Keeper(orders, remove=[postgres.folder, *forget] if forget else [])


def _anything_runs(folder: Path, home: Path | None) -> bool:
    return any(server.running() for server in _servers(folder, home))


def _stop_processes(folder: Path, home: Path | None, *, quick: bool) -> None:
    """Stop both; `quick` when their data is of no use any more."""
    kafka, postgres = _servers(folder, home)
    try:
        postgres.stop("immediate" if quick else "fast")
    finally:
        kafka.stop(kill=quick)


def _wipe(folder: Path, home: Path | None) -> None:
    kafka, postgres = _servers(folder, home)
    postgres.wipe()
    kafka.wipe()
    shutil.rmtree(folder, ignore_errors=True)


def _state_file(folder: Path) -> Path:
    return folder / "state.json"


def _read_state(folder: Path) -> StackState | None:
    """The state file's content; None when there is none or a crash left half of one."""
    try:
        return StackState.model_validate_json(_state_file(folder).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write_state(state: StackState) -> StackState:
    _write_private(_state_file(state.folder), state.model_dump_json(indent=2) + "\n")
    return state


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step; it holds a password, so only its owner may read it."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(text)
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise explain_os_error(error, doing="writing the stack's state", path=path) from error


def _in_containers(state: StackState) -> bool:
    return state.kafka.kind == "container"


def _project(name: str) -> str:
    return f"aifn-{name}"


def _part_status(
    part: str, known: Part, pid_of: Callable[[], int | None], containers: set[str], log: Path
) -> PartStatus:
    if known.kind == "container":
        return PartStatus(part, known.kind, known.address, part in containers, None, None, None)
    if known.kind == "existing":
        target = known.address.split(",")[0] if part == "kafka" else urlsplit(known.address).netloc.rpartition("@")[2]
        return PartStatus(part, known.kind, known.address, _answers(target), None, None, None)
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
