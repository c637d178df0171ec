"""The gate without relays: verified ingest against bare Ed25519, catch-up over HTTP, and a late joiner.

One process holds owner, receiver and the HTTP between them, so that what is measured is what one core does for both.
While the receiver catches up, the owner goes on telling: so many facts a second that arrive at once, far ahead of what
is there, and count with the rest. AIFN_BENCH_EVENTS (100,000) says how many facts the owner has. Times are what that
many took; with fewer than 1,000,000 a second line says what they would take at the same rate, and that it is no
measurement.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvloop
from aifn_common.database import Database, connect, transaction
from aifn_common.migrations import migrate
from aifn_common.service import PLUMBING
from aifn_events.datalab import DatasetDescribed
from aifn_fedgate import ceremony
from aifn_fedgate.actions import heads, receive
from aifn_fedgate.actions.repair import Repair
from aifn_fedgate.app import make_app
from aifn_fedgate.ceremony import NewMember
from aifn_fedgate.domain.chain import Chain
from aifn_fedgate.domain.envelope import ZERO, Envelope, Header, hash_of, write
from aifn_fedgate.domain.facts import write_payload
from aifn_fedgate.domain.gate import Arrival, remember
from aifn_fedgate.domain.heads import Ask
from aifn_fedgate.door import Door
from aifn_fedgate.members import Members
from aifn_fedgate.settings import FedgateSettings
from aifn_fedgate.signing import verify
from aifn_fedgate.store import journal
from aifn_fedgate.store.journal import BatchMemory
from aifn_local import stack
from aifn_local.postgres import ensure_database

from benchmarks.figures import Figure, compare

INGEST = 10_000
MILLION = 1_000_000
USUAL_EVENTS = 100_000
AT_ONCE = 300
PART = 5_000
LIVE_A_SECOND = 20
SECRET = "benchmark"
CATCH_UP_SECONDS, JOIN_SECONDS = 900.0, 600.0


def run() -> list[Figure]:
    """Envelopes per second beside bare verification; seconds of catch-up and joining beside what is allowed."""
    events = int(os.environ.get("AIFN_BENCH_EVENTS", str(USUAL_EVENTS)))
    with stack.running() as state, TemporaryDirectory() as folder:
        return uvloop.run(_measure(state.postgres_url, Path(folder), events))  # as the gate runs


@dataclass
class Side:
    """One member's gate on a database of its own."""

    db: Database
    door: Door
    app: Any


@asynccontextmanager
async def _side(admin: str, folder: Path, member: str, database: str) -> AsyncIterator[Side]:
    url = await ensure_database(admin, database, SECRET)
    db = await connect(url, connections=4)
    try:
        await migrate(db, PLUMBING, "aifn_fedgate")
        door = Door.open(
            FedgateSettings(
                factory=member,
                database_url=url,
                kafka="",
                fed_key=str(folder / "members" / member / "online.key.json"),
                fed_directory=str(folder / "public"),
            )
        )
        await door.look_into_folder(db)
        app = make_app(door)
        app.state.worker = _AtHand(db)
        yield Side(db, door, app)
    finally:
        db.terminate()


@dataclass
class _AtHand:
    db: Database


async def _measure(admin: str, folder: Path, events: int) -> list[Figure]:
    ceremony.make_federation(
        folder, [NewMember("lumi-aif", "factory", ["http://lumi"]), NewMember("bsc-aif", "factory")]
    )
    async with (
        _side(admin, folder, "lumi-aif", "fed_owner") as owner,
        _side(admin, folder, "bsc-aif", "fed_ingest") as ingest,
        _side(admin, folder, "bsc-aif", "fed_catch_up") as late,
        _side(admin, folder, "bsc-aif", "fed_joiner") as joiner,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=owner.app, client=("10.0.0.9", 1)), timeout=60) as http,
    ):
        sample = await _fill(owner, max(events, INGEST))
        bare = _bare(owner.door, sample)
        verified = await _ingest(ingest, sample)
        await heads.sign_heads(owner.db, owner.door)
        catch_up = await _catch_up(Repair(late.db, late.door, Members(late.door, http)), owner, events)
        await heads.sign_heads(owner.db, owner.door)
        joined = await _join(Repair(joiner.db, joiner.door, Members(joiner.door, http)), events)
    return [
        compare("verified ingest, one process", verified, "envelopes/s", "bare Ed25519 of the same bytes", bare),
        *_lasting("catch-up over HTTP", catch_up, events, CATCH_UP_SECONDS),
        *_lasting("late joiner, digest equal", joined, events, JOIN_SECONDS),
    ]


def _lasting(what: str, seconds: float, events: int, allowed: float) -> list[Figure]:
    """What it took, beside what that many may take; for fewer than a million also what a million would take."""
    found = [compare(f"{what}, {events:,} facts", seconds, "s", "allowed for so many", allowed * events / MILLION)]
    if events < MILLION:
        name = f"{what}, EXTRAPOLATED to {MILLION:,} facts, not measured"
        found.append(compare(name, seconds * MILLION / events, "s", "allowed", allowed))
    return found


async def _fill(owner: Side, events: int) -> list[Envelope]:
    """Write the owner's log: so many datasets. Returns the first of them."""
    sample: list[Envelope] = []
    for start in range(0, events, PART):
        told = await _tell(owner, range(start, min(start + PART, events)))
        sample += told[: INGEST - len(sample)]
    return sample


async def _tell(owner: Side, numbers: range) -> list[Envelope]:
    """The owner signs and keeps datasets with these numbers."""
    async with transaction(owner.db) as tx:
        memory = BatchMemory(chains=await journal.lock_chains(tx, [("lumi-aif", "catalogue")]))
        chain = memory.chain("lumi-aif", "catalogue")
        told, records = [], []
        for number in numbers:
            envelope = _sign(owner.door, chain, number)
            remember(chain, memory, envelope)
            h = envelope.header
            told.append(envelope)
            records.append(
                (h.origin, h.stream, h.epoch, h.seq, envelope.hash, h.key_hash, "accepted", "own", envelope.raw)
            )
        columns = ("origin", "stream", "epoch", "seq", "hash", "key_hash", "verdict", "code", "raw")
        await tx.copy_records_to_table("journal", records=records, columns=columns)
        await journal.save_states(tx, memory)
        await journal.save_chains(tx, memory.chains.values())
    return told


def _sign(door: Door, chain: Chain, number: int) -> Envelope:
    event = DatasetDescribed.example(
        dataset_id=f"set-{number}", source="urn:aifn:lumi-aif:datalab", time=datetime.now(UTC)
    )
    key = f"lumi-aif/set-{number}"
    header = Header(
        kid=door.keys.signing.kid,
        origin="lumi-aif",
        stream="catalogue",
        epoch=1,
        seq=chain.seq + 1,
        prev=chain.tip if chain.seq else ZERO,
        key_hash=hash_of(key.encode()),
        directory_version=1,
    )
    return write(header, write_payload(event, key=key, seq=chain.seq + 1), door.keys.signing.sign)


def _bare(door: Door, sample: list[Envelope]) -> float:
    assert door.trust is not None
    public = door.trust.by_kid[door.keys.signing.kid][3]
    began = time.perf_counter()
    assert all(verify(public, one.signature, one.signed) for one in sample)
    return len(sample) / (time.perf_counter() - began)


async def _ingest(side: Side, sample: list[Envelope]) -> float:
    began = time.perf_counter()
    for start in range(0, len(sample), AT_ONCE):
        part = [Arrival(one.raw, "lumi-aif", "catalogue", via="bench") for one in sample[start : start + AT_ONCE]]
        rulings = await receive.take_in(side.db, side.door, part)
        assert all(one.verdict == "accepted" for one in rulings)
    return len(sample) / (time.perf_counter() - began)


async def _catch_up(repair: Repair, owner: Side, events: int) -> float:
    """Everything the owner ever said, page by page, every envelope through the gate, and what it says meanwhile."""
    began = time.perf_counter()
    await repair.peek("lumi-aif")
    live = _Live(owner, repair, events)
    telling = asyncio.create_task(live.run())
    done = 0
    try:
        while done < live.told:
            await repair.close(Ask("lumi-aif", "catalogue", 1, done))
            async with transaction(repair.db) as tx:
                (chain,) = [one for one in await journal.all_chains(tx, "lumi-aif") if one.stream == "catalogue"]
            assert chain.seq > done, "it goes on"
            done = chain.seq
        took = time.perf_counter() - began
    finally:
        telling.cancel()
        await asyncio.wait([telling])
    print(f"catch-up: {live.told - events:,} facts came live meanwhile")
    return took


@dataclass
class _Live:
    """An owner that goes on telling: what it says arrives at once."""

    owner: Side
    receiver: Repair
    told: int

    async def run(self) -> None:
        while True:
            told = await _tell(self.owner, range(self.told, self.told + LIVE_A_SECOND))
            self.told += LIVE_A_SECOND
            part = [Arrival(one.raw, "lumi-aif", "catalogue", via="bench") for one in told]
            await receive.take_in(self.receiver.db, self.receiver.door, part)
            await asyncio.sleep(1)


async def _join(repair: Repair, events: int) -> float:
    began = time.perf_counter()
    assert await repair.rebuild("lumi-aif", "catalogue") >= events
    return time.perf_counter() - began
