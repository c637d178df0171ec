"""Builders for the federation's tests: a ceremony in a folder, gates on databases, envelopes as owners sign them."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from aifn_common.database import Database, connect, transaction
from aifn_events.base import Event
from aifn_events.registry import CapacityReported
from aifn_fedgate import ceremony
from aifn_fedgate.actions import publish, receive
from aifn_fedgate.actions.repair import Repair
from aifn_fedgate.app import make_app
from aifn_fedgate.ceremony import NewMember
from aifn_fedgate.domain import gate as rules
from aifn_fedgate.domain.chain import Chain
from aifn_fedgate.domain.directory import Trust
from aifn_fedgate.domain.envelope import ZERO, Envelope, Header, hash_of, write
from aifn_fedgate.domain.facts import write_payload
from aifn_fedgate.domain.gate import Arrival, Gate, Ruling
from aifn_fedgate.door import Door
from aifn_fedgate.members import Members
from aifn_fedgate.settings import FedgateSettings
from aifn_fedgate.signing import OnlineKeys, read_online, verify
from aifn_fedgate.store import journal
from aifn_fedgate.store.journal import BatchMemory

from tests.support.backends import Backends
from tests.support.settings import settings

MEMBERS = (
    NewMember("lumi-aif", "factory", ["http://lumi-aif.test"]),
    NewMember("bsc-aif", "factory", ["http://bsc-aif.test"]),
    NewMember("ju", "ju", ["http://ju.test"]),
    NewMember("nl-antenna", "antenna", ["http://nl-antenna.test"]),
)


def capacity(partition: str = "lumi-g", idle: int = 10, **values: Any) -> CapacityReported:
    """A report of one partition."""
    return CapacityReported.example(
        partition_id=partition, nodes_idle=idle, source="urn:aifn:lumi-aif:siteagent", time=datetime.now(UTC), **values
    )


@dataclass
class Clock:
    """Real time plus what a test adds."""

    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Federation:
    """The files of a federation, and its gates that run, reachable by each other over HTTP in memory."""

    folder: Path
    apps: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, members: Sequence[NewMember] = MEMBERS) -> "Federation":
        """Hold the ceremony."""
        ceremony.make_federation(folder, members)
        return cls(folder)

    def keys(self, member: str) -> OnlineKeys:
        """A member's online keys."""
        return read_online(self.folder / "members" / member / "online.key.json")

    def trust(self) -> Trust:
        """What everybody believes."""
        return Trust.of(ceremony.newest_root(self.folder), ceremony.read_directory(self.folder))

    def gate(self, me: str) -> Gate:
        """A member's gate, alone."""
        return Gate(me, self.trust(), verify, self.keys(me).open_sealed)

    def writer(self, member: str, stream: str = "capacity") -> "Writer":
        """Signs as a member, without a database."""
        return Writer(member, self.keys(member), Chain(member, stream))

    def http(self) -> httpx.AsyncClient:
        """Reaches every gate that runs by its name; the others are away."""
        return httpx.AsyncClient(transport=_Network(self.apps))

    @asynccontextmanager
    async def gatehouse(self, member: str, backends: Backends, **values: Any) -> AsyncIterator["Gatehouse"]:
        """A member's gate on a database of its own, trusting the directory."""
        url = await backends.new_database("aifn_fedgate")
        db = await connect(url, connections=6)
        clock = Clock()
        chosen = settings(
            FedgateSettings,
            factory=member,
            database_url=url,
            fed_key=str(self.folder / "members" / member / "online.key.json"),
            fed_directory=str(self.folder / "public"),
            **values,
        )
        door = Door.open(chosen)
        door.now = clock
        app = make_app(door)
        app.state.worker = _Pool(db)
        self.apps[member] = app
        async with self.http() as http:
            repair = Repair(db, door, Members(door, http))
            app.state.repair = repair
            await door.look_into_folder(db)
            try:
                yield Gatehouse(member, db, door, repair, clock, url, self.apps)
            finally:
                self.apps.pop(member, None)
                db.terminate()
                await backends.drop(url)


@dataclass
class _Pool:
    db: Database
    watch: None = None


class _Network(httpx.AsyncBaseTransport):
    def __init__(self, apps: dict[str, Any]) -> None:
        self._apps = apps

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        app = self._apps.get(request.url.host.removesuffix(".test"))
        if app is None:
            raise httpx.ConnectError(f"{request.url.host} is away")
        transport = httpx.ASGITransport(app=app, client=("10.0.0.9", 1), raise_app_exceptions=False)
        return await transport.handle_async_request(request)


@dataclass
class Gatehouse:
    """One member's gate at work."""

    name: str
    db: Database
    door: Door
    repair: Repair
    clock: Clock
    url: str
    apps: dict[str, Any]

    async def tell(self, event: Event, stream: str = "capacity", *, recipient: str = "") -> Envelope:
        """Sign a fact into the own log."""
        async with transaction(self.db) as tx:
            return await publish.tell(tx, self.door, stream, event, recipient=recipient)

    async def hear(
        self, *envelopes: Envelope | bytes | None, origin: str = "lumi-aif", stream: str = "capacity"
    ) -> list[Ruling]:
        """Take envelopes in as if a relay had brought them."""
        arrivals = [
            Arrival(one.raw if isinstance(one, Envelope) else one, origin, stream, via="test") for one in envelopes
        ]
        return await receive.take_in(self.db, self.door, arrivals)

    def door_client(self, *, local: bool = True) -> httpx.AsyncClient:
        """Asks this gate, as somebody on its machine or from elsewhere."""
        app = self.apps[self.name]
        client = ("127.0.0.1", 1) if local else ("10.0.0.9", 1)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, client=client), base_url="http://gate.test")

    async def chain(self, origin: str = "lumi-aif", stream: str = "capacity") -> Chain:
        """How far a stream is known."""
        async with transaction(self.db) as tx:
            return next((c for c in await journal.all_chains(tx, origin) if c.stream == stream), Chain(origin, stream))

    async def facts(self, topic: str = "aifn-in-capacity-v1") -> list[dict[str, Any]]:
        """What would be announced to the local services."""
        rows = await self.db.fetch("SELECT value FROM outbox WHERE topic = $1 ORDER BY seq", topic)
        return [json.loads(row["value"]) for row in rows]

    async def alarms(self, *, opened: bool = True) -> set[tuple[str, str, str]]:
        """Which alarms are open."""
        rows = await self.db.fetch("SELECT origin, stream, alarm FROM alarm WHERE (ended_at IS NULL) = $1", opened)
        return {(row["origin"], row["stream"], row["alarm"]) for row in rows}


@dataclass
class Writer:
    """Signs envelopes one after the other, as an owner does, or as a forger would like to."""

    member: str
    keys: OnlineKeys
    chain: Chain

    def next(
        self, event: Event | None = None, *, key: str = "", payload: bytes | None = None, **header: Any
    ) -> Envelope:
        """The next envelope; parts of the header may be replaced before it is signed."""
        made = self.peek(event, key=key, payload=payload, **header)
        self.chain.follow(made.header, made.hash)
        return made

    def peek(
        self, event: Event | None = None, *, key: str = "", payload: bytes | None = None, **header: Any
    ) -> Envelope:
        """The same without moving on."""
        event = event or capacity()
        key = key or f"{self.member}/{publish.thing_of(event)}"
        seq = header.get("seq", self.chain.seq + 1)
        said = {
            "kid": self.keys.signing.kid,
            "origin": self.member,
            "stream": self.chain.stream,
            "epoch": self.chain.epoch or 1,
            "seq": seq,
            "prev": self.chain.tip if self.chain.seq else ZERO,
            "key_hash": hash_of(key.encode()),
            "directory_version": 1,
            "retired": bool(getattr(event, "retired", False)),
        } | header
        body = payload if payload is not None else write_payload(event, key=key, seq=said["seq"])
        return write(Header(**said), body, self.keys.signing.sign)


def look(gate: Gate, memory: BatchMemory, envelope: Envelope | bytes | None, **way: Any) -> Ruling:
    """One arrival through a gate, without a database."""
    raw = envelope.raw if isinstance(envelope, Envelope) else envelope
    origin, stream = way.pop("origin", "lumi-aif"), way.pop("stream", "capacity")
    now = way.pop("now", datetime.now(UTC))
    arrival = Arrival(raw, origin, stream, **way)
    (ruling,) = rules.look_at_all(gate, [(arrival, rules.unpack(arrival))], memory, now)
    return ruling
