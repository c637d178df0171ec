"""The gate as a process on a real broker: what is told is sent whatever kills it, what is mirrored is heard."""

import asyncio
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx
import pytest
from aifn_common.database import Database, connect
from aifn_events.catalog import BY_NAME
from aifn_fedgate.state_topics import read_state
from aifn_fedgate.topics import wanted
from aifn_local.processes import free_port
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.federation.make import Federation, capacity
from tests.support.backends import Backends
from tests.support.kafka import producer, read_all, send
from tests.support.waiting import until

pytestmark = pytest.mark.kafka
PATIENCE = 240
MIRRORED = "relay-a.lumi-aif.aifn-out-capacity-v1"


class Gate:
    """A gate's process; killed when the test ends."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment, self.log = environment, log
        self.process = self._start("serve")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['AIFN_PORT']}"

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AIFN_")}
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "aifn_fedgate.app", role], env=clean | self.environment, stdout=out, stderr=out
            )

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait(10)

    def start(self) -> None:
        """Start it again."""
        self.process = self._start("serve")

    async def ready(self) -> None:
        """Wait until it says so."""

        async def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
                    return (await http.get(f"{self.url}/readyz")).status_code == 200
            except httpx.HTTPError:
                return False

        await until(answers, seconds=PATIENCE, what="the gate is ready")


async def _topics(kafka: str, *names: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        there = set(await admin.list_topics())
        new = [*wanted(1), *(NewTopic(name, 1, 1) for name in names)]
        await admin.create_topics([topic for topic in new if topic.name not in there])
    finally:
        await admin.close()


def _environment(federation: Federation, member: str, url: str, kafka: str, **more: str) -> dict[str, str]:
    return {
        "AIFN_FACTORY": member,
        "AIFN_DATABASE_URL": url,
        "AIFN_KAFKA": kafka,
        "AIFN_PORT": str(free_port(None)),
        "AIFN_FED_KEY": str(federation.folder / "members" / member / "online.key.json"),
        "AIFN_FED_DIRECTORY": str(federation.folder / "public"),
        "AIFN_FED_HEAD_SECONDS": "3600",
        "AIFN_LOG_LEVEL": "WARNING",
    } | more


async def test_a_gate_killed_between_signing_and_sending_loses_nothing_and_says_nothing_in_two_ways(
    federation: Federation, backends: Backends, kafka: str, tmp_path: Path
) -> None:
    await _topics(kafka)
    url = await backends.new_database("aifn_fedgate")
    # The relay looks so rarely that what was signed waits when the process dies.
    gate = Gate(_environment(federation, "lumi-aif", url, kafka, AIFN_RELAY_POLL_SECONDS="0.4"), tmp_path / "gate.log")
    db = await connect(url, connections=2)
    try:
        for round_number in range(3):
            await gate.ready()
            await send(kafka, *(capacity(idle=round_number * 20 + one) for one in range(20)))
            least = round_number * 20 + 3
            await until(partial(_count, db, least), seconds=PATIENCE, what="some of them are signed")
            gate.kill()
            gate.start()
        await gate.ready()
        await until(lambda: _count(db, 60), seconds=PATIENCE, what="all of them are signed")
        await until(lambda: _drained(db), seconds=PATIENCE, what="all of them are sent")
    finally:
        gate.kill()
    sent = [record.value for record in await read_all(kafka, "aifn-out-capacity-v1")]
    log = [
        row["raw"] for row in await db.fetch("SELECT raw FROM journal WHERE stream = 'capacity' ORDER BY epoch, seq")
    ]
    assert list(dict.fromkeys(sent)) == log
    assert len(log) == 60
    db.terminate()
    await backends.drop(url)


async def _count(db: Database, least: int) -> bool:
    return bool(await db.fetchval("SELECT count(*) >= $1 FROM journal WHERE stream = 'capacity'", least))


async def _drained(db: Database) -> bool:
    return bool(await db.fetchval("SELECT count(*) = 0 FROM outbox"))


async def test_what_a_relay_brings_is_verified_and_announced_once_though_the_gate_is_killed(
    federation: Federation, backends: Backends, kafka: str, tmp_path: Path
) -> None:
    await _topics(kafka, MIRRORED)
    url = await backends.new_database("aifn_fedgate")
    environment = _environment(federation, "bsc-aif", url, kafka, AIFN_FED_RELAYS="relay-a")
    writer = federation.writer("lumi-aif")
    gate = Gate(environment, tmp_path / "gate.log")
    try:
        await gate.ready()
        async with producer(kafka) as made:
            for number in range(30):
                envelope = writer.next(capacity(idle=number))
                await made.send_and_wait(MIRRORED, envelope.raw, b"lumi-aif/lumi-g")
                if number % 10 == 0:
                    await made.send_and_wait(MIRRORED, b"noise", b"lumi-aif/lumi-g")
                if number == 15:
                    gate.kill()
                    gate.start()
        await until(lambda: _announced(kafka, 30), seconds=PATIENCE, what="all are announced")
        async with httpx.AsyncClient(trust_env=False) as http:
            status = (await http.get(f"{gate.url}/fed/v1/peers")).json()
    finally:
        gate.kill()
        await backends.drop(url)
    (stream,) = [one for one in status["streams"] if (one["origin"], one["stream"]) == ("lumi-aif", "capacity")]
    assert (stream["seq"], stream["missing"], stream["verdicts"]["accepted"]) == (30, 0, 30)
    assert stream["verdicts"]["quarantined"] >= 3
    ids = [dict(record.headers)["ce_id"] for record in await read_all(kafka, "aifn-in-capacity-v1")]
    assert list(dict.fromkeys(ids)) == [f"lumi-aif/capacity/1/{number}".encode() for number in range(1, 31)]
    assert "aifn-in-capacity-v1" in BY_NAME


async def test_a_state_is_read_from_the_topics_of_every_relay_up_to_their_present_end(
    federation: Federation, backends: Backends, kafka: str
) -> None:
    names = [f"{relay}.lumi-aif.aifn-out-catalogue-state-v1" for relay in ("relay-a", "relay-b")]
    await _topics(kafka, *names)
    async with producer(kafka) as made:
        for number in range(700):
            await made.send(names[number % 2], str(number).encode(), str(number % 50).encode())
    async with federation.gatehouse(
        "bsc-aif", backends, kafka=kafka, fed_relays="relay-a,relay-b,relay-that-carried-nothing"
    ) as bsc:
        found = [int(value) async for values in read_state(bsc.door, "lumi-aif", "catalogue") for value in values]
        nothing = [values async for values in read_state(bsc.door, "lumi-aif", "knowledge")]
    assert (sorted(set(found)), nothing) == (list(range(700)), [])


async def _announced(kafka: str, least: int) -> bool:
    await asyncio.sleep(0.3)
    return len({dict(record.headers)["ce_id"] for record in await read_all(kafka, "aifn-in-capacity-v1")}) >= least
