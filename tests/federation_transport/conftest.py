"""Two members with brokers of their own and two relays between them, all real, once for these tests."""

import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aifn_local import processes
from aifn_local.federation.members import Member, name_relays
from aifn_local.federation.transport import Transport
from aifn_local.kafka import KILL_STEPS, LocalKafka
from aifn_local.keeper import Keeper

LUMI, BSC = Member("lumi-aif", "factory"), Member("bsc-aif", "factory")
HEAP_MB = 192


@pytest.fixture(scope="session")
def transport() -> Iterator[Transport]:
    folder = Path(tempfile.mkdtemp(prefix="aifn-transport-"))
    servers = {member: LocalKafka(folder / member.id, heap_mb=HEAP_MB) for member in (LUMI, BSC)}
    ports = {member: processes.free_port() for member in servers}
    brokers = {member: f"127.0.0.1:{port}" for member, port in ports.items()}
    made = Transport(folder, brokers, name_relays(2), {})
    marks = [*made.marks(), *(server.mark for server in servers.values())]
    keeper = Keeper([(mark, KILL_STEPS) for mark in marks], remove=[folder])
    try:
        for member, server in servers.items():
            server.prepare()
            pid = server.launch(ports[member], processes.free_port())
            server.wait_ready(pid, ports[member])
        made.start()
        yield made
    finally:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda mark: processes.end(mark, KILL_STEPS), marks))
        shutil.rmtree(folder, ignore_errors=True)
        keeper.dismiss()
