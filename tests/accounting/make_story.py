"""A life of the books that goes through the event log: messages, requests and timers, copies, refusals and crashes."""

import asyncio
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

from aifn_accounting import timers
from aifn_accounting.actions import rates
from aifn_accounting.app import service
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.subscribers import hears
from aifn_common import clock, kafka
from aifn_common.batches import BatchReader, read_events
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction
from aifn_common.event_log import Message
from aifn_common.hearing import Hearing
from aifn_events.base import Event
from aifn_events.registry import MachineDescribed

from tests.accounting.make import GPU, START, award, closed, hours, placed, used
from tests.support.http import Asker, asking
from tests.support.kafka import message

NODE_HOUR = 64 * 3600
HALLOWEEN = datetime(2026, 10, 31, 20, tzinfo=UTC)
YEAR = {"starts_at": "2026-01-01T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z"}
YES = {"approve": True, "reason": "the board agrees"}


def set_clock(moment: datetime) -> None:
    """It is this moment now."""
    clock.use(SimulatedClock(epoch=moment, started=datetime.now(UTC), factor=1))


class Wire:
    """Brings messages to accounting's subscribers as the broker would."""

    def __init__(self, db: Database, settings: AccountingSettings) -> None:
        self._db = db
        self._settings = settings
        self._hearing = Hearing(db, settings)
        self._offsets = itertools.count()
        self._single = {one.kind.topic: one for one in hears.single}
        (self._usage,) = hears.batches

    def record(self, event: Event) -> Message:
        """The message that an event comes in."""
        raw = message(event)
        return Message(
            0, next(self._offsets), 1_700_000_000_000, raw["key"], raw["headers"], raw["value"], raw["topic"]
        )

    async def hear(self, *events: Event) -> None:
        """Handle messages one by one, the way of every subscription."""
        for event in events:
            record = self.record(event)
            one = self._single[record.topic]
            values = {"db": self._db, "settings": self._settings}
            wanted = {name: values[name] for name in inspect.signature(one.handler).parameters if name in values}
            await kafka._receive(one, self._hearing, record, wanted)

    async def hear_usage(self, records: Sequence[Message], *, dies: bool = False) -> None:
        """Handle one batch of usage; one that `dies` does so before it is committed."""
        reader = BatchReader(
            replace(self._usage, handler=_dying(self._usage.handler)) if dies else self._usage, self._hearing
        )
        try:
            await reader._in_one_transaction(*read_events(self._usage.read, records))
        except Crash:
            return
        assert not dies


class Crash(BaseException):
    """The process has ended."""


def _dying(handler: Any) -> Any:
    async def until_the_end(events: Any, tx: Any, settings: AccountingSettings) -> None:
        await handler(events, tx, settings=settings)
        raise Crash

    return until_the_end


async def live(db: Database, settings: AccountingSettings, seed: int) -> None:
    """Half a year of two projects, differently for each seed."""
    chance = Random(seed)
    wire = Wire(db, settings)
    set_clock(HALLOWEEN + hours(3))
    async with transaction(db) as tx:
        await rates.load_seed(tx, settings)
    async with asking(service, db, settings) as ask:
        ask.as_("allocation-manager", subject="first@example")
        await wire.hear(MachineDescribed.example(), MachineDescribed.example())
        await _make_shares(ask, db, settings, wire)
        await _october(ask, db, settings, wire, chance)
        set_clock(START + hours(3))
        await _november(ask, db, settings, wire, chance)
        set_clock(START + hours(24 * 200))
        await timers.end_allocations(db, settings)
        late = used("late", 321, "p2")
        await wire.hear_usage([wire.record(late)])
        await timers.end_allocations(db, settings)
        await timers.watch_usage(db, settings)


async def _said(answer: Any) -> Any:
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


async def _make_shares(ask: Asker, db: Database, settings: AccountingSettings, wire: Wire) -> None:
    pool = {
        "pool_id": "union",
        "kind": "union",
        "title": "Union",
        "funder": "ju",
        "resource": GPU,
        "reason": "the year",
    }
    await _said(await ask.post("/v1/pools", json=pool | YEAR))
    await wire.hear(award("p1", 5000, starts_at=datetime(2026, 9, 1, tzinfo=UTC)))
    assert await db.fetchval("SELECT state FROM pending_award") == "waiting"
    await _said(await ask.post("/v1/pools/union/funding", json={"amount": 100 * NODE_HOUR, "reason": "for the year"}))
    await timers.retry_awards(db, settings)
    assert await db.fetchval("SELECT state FROM pending_award") == "carried_out"
    small = {
        "cap_id": "small", "policy_version": "2025-12", "mode_group": "playground_and_fast_lane", "pool_kind": "union",
        "resource": GPU, "base": "share", "reason": "policy",
    }  # fmt: skip
    await _said(await ask.post("/v1/caps", json=small | YEAR))
    await wire.hear(award("p2", 7000), award("p2", 7000), award("p4", 9 * 100 * NODE_HOUR))
    assert await db.fetchval("SELECT count(*) FROM event_log WHERE kind = 'set_aside'") == 1


async def _october(ask: Asker, db: Database, settings: AccountingSettings, wire: Wire, chance: Random) -> None:
    def run(job: str, amount: int, **values: Any) -> Message:
        usual = {"started_at": HALLOWEEN, "submitted_at": HALLOWEEN, "ended_at": HALLOWEEN + hours(1)}
        return wire.record(used(job, amount, **(usual | values)))

    await wire.hear_usage([run(f"o{place}", chance.randint(1, 90)) for place in range(20)])
    await timers.watch_usage(db, settings)
    set_clock(datetime(2026, 11, 4, tzinfo=UTC))
    words = {"reason": "end of month", "accept_gaps": True, "carry_holds": True}
    await _said(await ask.post("/v1/periods/2026-10/close", json=words))
    await wire.hear_usage([run("o1", 70, revision=2), run("o1", 75, revision=1), run("o-late", 33)])
    await timers.watch_usage(db, settings)
    assert await db.fetchval("SELECT count(*) FROM period_entry") > 0


async def _november(ask: Asker, db: Database, settings: AccountingSettings, wire: Wire, chance: Random) -> None:
    await _decisions(ask)
    await asyncio.gather(
        *(wire.hear(placed(f"j{place}", chance.randint(1, 900), chance.choice(["p1", "p2"]))) for place in range(12)),
        ask.post("/v1/projects/p2/allocations", json=_grant(2000), headers={"idempotency-key": "once"}),
    )
    records = []
    for job, segment, revision in itertools.product(range(12), range(2), range(3)):
        if chance.random() < 0.6:
            project = "p1" if job % 2 else "p2"
            records.append(wire.record(used(f"j{job}", 10 * job + revision, project, segment, revision=revision)))
    records += [wire.record(used(f"lost{place}", 40 + place, "p-lost")) for place in range(3)]
    records += [wire.record(used("contra", amount, "p1")) for amount in (5, 6)]
    records += [wire.record(used("future", 5, "p1", ended_at=START + hours(24 * 90)))]
    records += [Message(0, 10_000, 0, b"k", [], b"no event", "aifn-usage-reported-v1")]
    records += chance.sample(records, 12)
    chance.shuffle(records)
    cut = len(records) // 3
    await wire.hear_usage(records[:cut], dies=True)
    for part in (records[:cut], records[cut : 2 * cut], records[:cut], records[2 * cut :]):
        await wire.hear_usage(part)
        job = chance.randrange(12)
        await wire.hear(closed(f"j{job}", chance.randint(1, 2), chance.choice(["p1", "p2"])))
        await timers.settle_suspense(db, settings)
    await _correct(ask, chance)
    await wire.hear(award("p-lost", 50))
    await timers.settle_suspense(db, settings)
    waiting = (await _said(await ask.get("/v1/suspense")))["items"]
    await wire.hear_usage([wire.record(used("stray", 44, "p-nobody"))])
    waiting = (await _said(await ask.get("/v1/suspense")))["items"]
    words = {"project_id": "p1", "reason": "mistyped"}
    await _said(await ask.post(f"/v1/suspense/{waiting[-1]['usage_number']}/attribution", json=words))
    await wire.hear(placed("j1", 99_999_999, "p1", revision=7), placed("j3", 40, "p2", revision=9))
    await timers.watch_usage(db, settings)


async def _correct(ask: Asker, chance: Random) -> None:
    """Give back a part of a charge, and a part of that is taken back again."""
    found = (await _said(await ask.get("/v1/allocations", params={"project": "p2", "resource": GPU})))["items"]
    path = f"/v1/allocations/{found[0]['allocation_id']}"
    lines = (await _said(await ask.get(f"{path}/statement", params={"limit": 100})))["items"]
    line = chance.choice([one for one in lines if one["kind"] == "charge" and one["postings"][0]["amount"] < -1])
    words = {"transfer_id": line["transfer_id"], "amount": 2, "reason": "a node had failed"}
    made = await _said(await ask.post(f"{path}/corrections", json=words))
    words = {"transfer_id": made["transfer_id"], "amount": -1, "reason": "only for half of the time"}
    await _said(await ask.post(f"{path}/corrections", json=words))


def _grant(amount: int) -> dict[str, Any]:
    return {
        "resource": GPU, "amount": amount, "unit": "slice-second", "pool": "union", "reason": "a course",
        "starts_at": "2026-11-20T00:00:00Z", "ends_at": "2026-12-20T00:00:00Z",
    }  # fmt: skip


async def _decisions(ask: Asker) -> None:
    """What people decide: a large grant by two, a top-up, members, a project of the host's own."""
    await _said(await ask.post("/v1/projects", json={"title": "Weather", "principal_investigator": "me@example"}))
    asked = await ask.post("/v1/projects/p1/allocations", json=_grant(12 * NODE_HOUR))
    assert asked.status_code == 202, asked.text
    ask.as_("allocation-manager", subject="second@example")
    await _said(await ask.post(f"/v1/approvals/{asked.json()['approval_id']}/decision", json=YES))
    ask.as_("allocation-manager", subject="first@example")
    for one in (await _said(await ask.get("/v1/allocations", params={"resource": GPU})))["items"]:
        path = f"/v1/allocations/{one['allocation_id']}"
        if one["project_id"] == "p2":
            etag = {"if-match": (await ask.get(path)).headers["etag"]}
            await _said(await ask.post(f"{path}/top-ups", json={"amount": 70, "reason": "asked for"}, headers=etag))
    refused = await ask.post("/v1/projects/p1/allocations", json=_grant(5) | {"unit": "credit"})
    assert refused.is_error
