"""What a federation on this machine consists of, where it lies, and how all of it is stopped."""

import secrets
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from aifn_events.federation import MemberKind
from pydantic import BaseModel, ConfigDict, ValidationError

from aifn_local import processes, stack
from aifn_local.errors import StackError
from aifn_local.federation.members import Member
from aifn_local.federation.program import LocalProgram
from aifn_local.federation.transport import Transport
from aifn_local.home import home_folder, lock_file, locked, stack_folder
from aifn_local.kafka import GENTLE_STEPS, KILL_STEPS
from aifn_local.keeper import Keeper
from aifn_local.memory import together_mb
from aifn_local.postgres import STOP_STEPS
from aifn_local.stack_processes import servers
from aifn_local.stack_state import write_private

PROGRAMS = ("issuer", "services", "fedgate")
MOST_NAME = 20


class KnownMember(BaseModel):
    """A member as the state file has it."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: MemberKind
    secret: str
    ports: dict[str, int] = {}


class FederationState(BaseModel):
    """What a federation consists of; also the content of its state file."""

    name: str
    members: list[KnownMember]
    relays: list[str]
    ports: dict[str, int] = {}


def federation_folder(name: str, home: Path | None = None) -> Path:
    """The folder of one federation; it need not exist. Raises StackError when the name is none."""
    if len(name) > MOST_NAME:
        raise StackError(f"{name!r} is too long for a federation: use up to {MOST_NAME} letters, digits and hyphens")
    return _folder(name, home)


def status(name: str, home: Path | None = None) -> list[stack.PartStatus]:
    """How each part of a federation does now; empty when there is none of that name."""
    folder = _folder(name, home)
    state = known(folder)
    if state is None:
        return []
    found = [
        replace(part, part=f"{member.id} {part.part}")
        for member in state.members
        for part in stack.status(stack_name(state, member), home)
    ]
    transport = _transport(folder, state, home)
    found += [
        _status(f"{member} mirror", mirror.running(), "", mirror.log) for member, mirror in transport.mirrors.items()
    ]
    for alias, relay in transport.relays.items():
        found.append(_status(alias, relay.kafka.running(), transport.bootstrap(alias), relay.kafka.log))
    for member in state.members:
        for program in _programs(folder, member):
            port = member.ports.get(program.folder.name)
            address = f"http://127.0.0.1:{port}" if port else ""
            found.append(_status(f"{member.id} {program.folder.name}", program.running(), address, program.log))
    return found


def down(name: str, home: Path | None = None, *, wipe: bool = False) -> bool:
    """Stop a federation, also one whose starter crashed; `wipe` drops its data. Returns whether there was one."""
    folder = _folder(name, home)
    state = known(folder)
    if state is None:
        return False
    with locked(folder):
        stop(folder, state, home, kill=wipe)
        if wipe:
            for trace in _traces(folder, state, home):
                shutil.rmtree(trace, ignore_errors=True)
            for member in state.members:
                lock_file(stack_folder(stack_name(state, member), home)).unlink(missing_ok=True)
    if wipe:
        lock_file(folder).unlink(missing_ok=True)
    return True


def stop(folder: Path, state: FederationState, home: Path | None, *, kill: bool) -> None:
    """Stop everything, and keep the data: programs and the way between members first, then the servers."""
    steps = KILL_STEPS if kill else GENTLE_STEPS
    with ThreadPoolExecutor(len(state.members) * 4) as pool:
        list(pool.map(lambda mark: processes.end(mark, steps), _marks(folder, state, home)))
        list(pool.map(lambda member: stack.down(stack_name(state, member), home), state.members))


def _marks(folder: Path, state: FederationState, home: Path | None) -> list[processes.Mark]:
    """By what programs, mirrors and relays are known, also before they were started."""
    found = [program.mark for member in state.members for program in _programs(folder, member)]
    return found + _transport(folder, state, home).marks()


def _programs(folder: Path, member: KnownMember) -> list[LocalProgram]:
    """A member's programs as they are found, not as they are started."""
    return [LocalProgram(folder / "members" / member.id / name, "", (), {}, 0) for name in PROGRAMS]


def _transport(folder: Path, state: FederationState, home: Path | None) -> Transport:
    """The way between members as it is found, not as it is started."""
    brokers = {Member(one.id, one.kind): "" for one in state.members}
    return Transport(folder, brokers, state.relays, dict(state.ports), home=home)


def _folder(name: str, home: Path | None) -> Path:
    stack_folder(name, home)
    return home_folder(home) / "federations" / name


def _status(part: str, pid: int | None, address: str, log: Path) -> stack.PartStatus:
    memory = together_mb([pid]) if pid else None
    return stack.PartStatus(part, "process", address, pid is not None, pid, memory, log)


def watch(folder: Path, state: FederationState, home: Path | None) -> Keeper:
    """From now on everything of this federation ends with this process, and its traces go."""
    orders: list[tuple[processes.Mark, Sequence[processes.Step]]] = []
    orders += [(mark, KILL_STEPS) for mark in _marks(folder, state, home)]
    for member in state.members:
        kafka, postgres = servers(stack_folder(stack_name(state, member), home), home)
        orders += [(kafka.mark, KILL_STEPS), (postgres.mark, STOP_STEPS["immediate"])]
    return Keeper(orders, remove=_traces(folder, state, home))


def _traces(folder: Path, state: FederationState, home: Path | None) -> list[Path]:
    stacks = [stack_folder(stack_name(state, one), home) for one in state.members]
    return [*(servers(one, home)[1].folder for one in stacks), *stacks, folder]


def stack_name(state: FederationState, member: KnownMember) -> str:
    """The stack that is a member's broker and database server."""
    return f"{state.name}-{member.id}"


def new_state(name: str, members: Sequence[Member], relays: Sequence[str]) -> FederationState:
    """A federation that was never started; its secrets are made here."""
    found = [KnownMember(id=one.id, kind=one.kind, secret=secrets.token_hex(16)) for one in members]
    return FederationState(name=name, members=found, relays=list(relays))


def known(folder: Path) -> FederationState | None:
    """What the state file says; None when there is none, or half of one."""
    try:
        return FederationState.model_validate_json((folder / "federation.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def remember(folder: Path, state: FederationState) -> None:
    """Write the state file: it holds secrets, so only its owner may read it."""
    write_private(folder / "federation.json", state.model_dump_json(indent=2) + "\n")
