"""Starts a whole federation, each part after what it needs: servers, relays, gates and services, mirrors."""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aifn_fedgate.ceremony import NewMember, make_federation, read_directory, write_directory

from aifn_local import stack
from aifn_local.errors import StackError
from aifn_local.federation.instance import MemberInstance
from aifn_local.federation.lifecycle import (
    FederationState,
    down,
    federation_folder,
    known,
    new_state,
    remember,
    stack_name,
    stop,
    watch,
)
from aifn_local.federation.members import Member, check_names
from aifn_local.federation.program import LocalProgram
from aifn_local.federation.transport import Transport
from aifn_local.home import locked, make_folder

Say = Callable[[str], None]
BROKER_HEAP_MB = 256
_AT_ONCE = 2
_RENEW = timedelta(days=5)


@dataclass
class Federation:
    """A federation that runs: its members' instances by id, and the way between them."""

    name: str
    folder: Path
    instances: dict[str, MemberInstance]
    stacks: dict[str, stack.StackState]
    transport: Transport

    @property
    def ceremony(self) -> Path:
        """The folder with root keys, members' keys and the directory."""
        return self.folder / "ceremony"

    def programs(self) -> list[LocalProgram]:
        """Every Python program of every member."""
        return [program for instance in self.instances.values() for program in instance.programs().values()]

    def pids(self) -> list[int]:
        """All processes that live now: servers, relays, mirrors, programs."""
        parts = [part for one in self.stacks.values() for part in stack.status(one.name, one.home)]
        found = [part.pid for part in parts] + [program.running() for program in self.programs()]
        return [pid for pid in found if pid is not None] + self.transport.pids()


def start(
    name: str, members: Sequence[Member], relays: Sequence[str], home: Path | None = None, *, say: Say = lambda _: None
) -> Federation:
    """Have a federation running, and leave it running. What runs already is kept; what died is started again.

    Raises: StackError, in one line; everything is stopped then.
    """
    check_names(members, relays)
    folder = federation_folder(name, home)
    with locked(folder):
        state = known(folder) or new_state(name, members, relays)
        if [(one.id, one.kind) for one in state.members] != [(one.id, one.kind) for one in members] or (
            state.relays != list(relays)
        ):
            raise StackError(
                f"the federation {name!r} has other members: drop it with `aifn stack down --name {name} --wipe`"
            )
        make_folder(folder, mode=0o700)
        remember(folder, state)
        try:
            return _start(folder, state, home, say)
        except BaseException:
            stop(folder, state, home, kill=True)
            raise


@contextmanager
def running(
    members: Sequence[Member], relays: Sequence[str], home: Path | None = None, *, say: Say = lambda _: None
) -> Iterator[Federation]:
    """A new federation for the length of a `with`; it and its data are gone afterwards, however this process ends."""
    name = f"run-{os.getpid()}-{secrets.token_hex(2)}"
    folder = federation_folder(name, home)
    state = new_state(name, members, relays)
    keeper = watch(folder, state, home)
    try:
        yield start(name, members, relays, home, say=say)
    finally:
        down(name, home, wipe=True)
        keeper.dismiss()


def _start(folder: Path, state: FederationState, home: Path | None, say: Say) -> Federation:
    began = time.monotonic()

    def tell(text: str) -> None:
        say(f"{time.monotonic() - began:4.0f} s  {text}")

    tell(f"{len(state.members)} members: a broker and a database server for each")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        begin = [pool.submit(stack.up, stack_name(state, one), BROKER_HEAP_MB, home, own=True) for one in state.members]
        stacks = {one.id: server.result() for one, server in zip(state.members, begin, strict=True)}
    brokers = {Member(one.id, one.kind): stacks[one.id].kafka_bootstrap for one in state.members}
    transport = Transport(folder, brokers, state.relays, state.ports, home=home)
    transport.start_relays(tell)
    instances = {
        one.id: MemberInstance(
            Member(one.id, one.kind),
            folder / "members" / one.id,
            stacks[one.id],
            relays=state.relays,
            ceremony=folder / "ceremony",
            secret=one.secret,
            ports=one.ports,
        )
        for one in state.members
    }
    _hold_ceremony(folder / "ceremony", instances)
    tell("topics, databases and first data of each member")
    for instance in instances.values():
        asyncio.run(instance.prepare())
    remember(folder, state)
    found = Federation(state.name, folder, instances, stacks, transport)
    tell("services, gates and issuers")
    for program in found.programs():
        program.launch()
    transport.start_mirrors(tell)
    for instance in instances.values():
        asyncio.run(instance.wait_ready())
    remember(folder, state)
    tell(f"ready: {len(found.pids())} processes")
    return found


def _hold_ceremony(folder: Path, instances: dict[str, MemberInstance]) -> None:
    """Keys and a directory that everybody's gate trusts; a directory that soon ends is signed again."""
    if not (folder / "public" / "directory.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_federation(folder, [NewMember(name, one.member.kind, [one.endpoint]) for name, one in instances.items()])
        return
    signed = read_directory(folder)
    if signed.expires_at < datetime.now(UTC) + _RENEW:
        write_directory(folder, signed.members)
