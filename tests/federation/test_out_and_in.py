"""A fact leaves one member and arrives at another, whichever way it takes, however often it comes."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from aifn_common.database import transaction
from aifn_common.kafka import Rejected
from aifn_events.access import AwardGranted, CallPublished
from aifn_events.base import Event
from aifn_events.registry import CapacityReported, MachineDescribed
from aifn_events.shares import ShareHeadroomChanged
from aifn_events.skills import SessionScheduled
from aifn_fedgate.actions import heads, receive
from aifn_fedgate.subscribers import hears_for

from tests.federation.make import Gatehouse, capacity


async def test_a_fact_is_signed_into_the_log_and_believed_by_another_member(lumi: Gatehouse, bsc: Gatehouse) -> None:
    envelope = await lumi.tell(capacity(idle=7))
    rows = await lumi.db.fetch("SELECT topic, key, value FROM outbox ORDER BY seq")
    assert [(row["topic"], row["key"], row["value"]) for row in rows] == [
        ("aifn-out-capacity-v1", b"lumi-aif/lumi-g", envelope.raw),
        ("aifn-out-capacity-state-v1", b"lumi-aif/lumi-g", envelope.raw),
    ]
    (ruling,) = await bsc.hear(envelope)
    assert (ruling.verdict, ruling.code) == ("accepted", "next")
    (fact,) = await bsc.facts()
    assert (fact["origin"], fact["record_key"], fact["epoch"], fact["seq"]) == ("lumi-aif", "lumi-aif/lumi-g", 1, 1)
    assert CapacityReported.model_validate_json(fact["data"]).nodes_idle == 7


async def test_the_second_relay_brings_everything_once_more_and_nothing_happens_twice(
    lumi: Gatehouse, bsc: Gatehouse
) -> None:
    told = [await lumi.tell(capacity(idle=number)) for number in range(5)]
    await bsc.hear(*told[:3])
    rulings = await bsc.hear(*told, *told)
    assert [one.verdict for one in rulings] == ["duplicate"] * 3 + ["accepted"] * 2 + ["duplicate"] * 5
    assert len(await bsc.facts()) == 5
    assert (await bsc.chain()).at == (1, 5)


async def test_what_comes_out_of_order_waits_and_then_follows(lumi: Gatehouse, bsc: Gatehouse) -> None:
    told = [await lumi.tell(capacity(idle=number)) for number in range(4)]
    assert [one.verdict for one in await bsc.hear(told[3], told[2], told[0])][:3] == ["gap", "gap", "accepted"]
    assert await bsc.alarms() == {("lumi-aif", "capacity", "gap")}
    assert [one.verdict for one in await bsc.hear(told[1])] == ["accepted"] * 3
    assert [fact["seq"] for fact in await bsc.facts()] == [1, 2, 3, 4]
    assert await bsc.alarms() == set()
    assert await bsc.db.fetchval("SELECT count(*) FROM parked") == 0


async def test_what_waited_is_gone_when_it_came_by_another_way(lumi: Gatehouse, bsc: Gatehouse) -> None:
    told = [await lumi.tell(capacity(idle=number)) for number in range(4)]
    await bsc.hear(told[3], told[2])
    assert [one.verdict for one in await bsc.hear(*told)] == ["accepted"] * 4 + ["duplicate"] * 2
    assert await bsc.db.fetchval("SELECT count(*) FROM parked") == 0


async def test_what_waits_for_a_newer_directory_keeps_nobody_busy(
    lumi: Gatehouse, bsc: Gatehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "DRAIN", 2)
    first, *later = [await lumi.tell(capacity(idle=number)) for number in range(6)]
    await bsc.hear(first)
    bsc.clock.ahead = timedelta(days=8)
    await bsc.hear(*later)
    gate = bsc.door.gate()
    assert gate is not None
    async with asyncio.timeout(60):
        found = await receive.drain(bsc.db, bsc.door, gate, "lumi-aif", "capacity")
    assert {one.code for one in found} == {"directory_expired"}
    assert await bsc.db.fetchval("SELECT count(*) FROM parked") == 5


async def test_a_head_tells_of_a_gap_and_the_owner_is_asked_over_https(lumi: Gatehouse, bsc: Gatehouse) -> None:
    told = [await lumi.tell(capacity(idle=number)) for number in range(6)]
    await bsc.hear(told[0])
    await heads.sign_heads(lumi.db, lumi.door)
    assert await bsc.repair.peek("lumi-aif") is not None
    assert await bsc.alarms() == {("lumi-aif", "capacity", "gap"), ("lumi-aif", "directory", "gap")} - {
        ("lumi-aif", "directory", "gap")
    }
    assert await bsc.repair.close_gaps() >= 5
    assert (await bsc.chain()).at == (1, 6)
    assert await bsc.alarms() == set()
    ours, theirs = await bsc.chain(), await lumi.chain()
    assert (ours.keys, ours.digest, ours.tip) == (theirs.keys, theirs.digest, theirs.tip)


async def hear_locally(gate: Gatehouse, events: Sequence[Event]) -> list[Rejected]:
    """A batch of a member's own topic, as its gate hears it."""
    (handler,) = (one.handler for one in hears_for(gate.door).batches if one.kind is type(events[0]))
    async with transaction(gate.db) as tx:
        return list(await handler(events, tx))


async def test_a_batch_is_signed_in_its_order_and_each_fact_once_however_often_it_comes(
    lumi: Gatehouse, bsc: Gatehouse
) -> None:
    reports = [capacity(("lumi-g", "lumi-c")[number % 2], idle=number) for number in range(7)]
    assert await hear_locally(lumi, [*reports[:4], reports[1], reports[0]]) == []
    assert await hear_locally(lumi, [*reports[2:], *reports]) == []
    sent = await lumi.db.fetch("SELECT value FROM outbox WHERE topic = 'aifn-out-capacity-v1' ORDER BY seq")
    assert {one.verdict for one in await bsc.hear(*(row["value"] for row in sent))} == {"accepted"}
    told = [CapacityReported.model_validate_json(fact["data"]).nodes_idle for fact in await bsc.facts()]
    assert told == list(range(7))
    ours, theirs = await bsc.chain(), await lumi.chain()
    assert (ours.at, ours.keys, ours.digest) == (theirs.at, theirs.keys, theirs.digest) == ((1, 7), 2, ours.digest)


async def test_what_can_be_told_to_nobody_is_refused_alone_and_the_rest_of_its_batch_is_told(ju: Gatehouse) -> None:
    hosts = ("bsc-aif", "stranger-aif", "lumi-aif", "bsc-aif")
    awards = [
        AwardGranted.example(award_id=f"award-{number}", factory_id=host, deciding_authority="ju")
        for number, host in enumerate(hosts)
    ]
    refused = await hear_locally(ju, awards)
    assert [(one.event, one.refusal.code) for one in refused] == [(awards[1], "unknown_recipient")]
    assert (await ju.chain("ju", "award")).at == (1, 3)


async def test_only_what_is_this_member_s_to_tell_is_told(lumi: Gatehouse, ju: Gatehouse) -> None:
    machines = [MachineDescribed.example(factory_ids=owners) for owners in (["lumi-aif"], ["bsc-aif"], [])]
    assert await hear_locally(lumi, machines) == []
    assert (await lumi.chain("lumi-aif", "capacity")).at == (1, 1)
    assert await hear_locally(ju, machines) == []
    assert await hear_locally(ju, [SessionScheduled.example(factory_id="ju")]) == []
    assert await ju.db.fetchval("SELECT count(*) FROM journal WHERE stream IN ('capacity', 'skills')") == 0


async def test_an_award_that_its_member_may_not_decide_is_refused_and_not_signed(
    lumi: Gatehouse, ju: Gatehouse
) -> None:
    own = AwardGranted.example(factory_id="bsc-aif", deciding_authority="hosting_factory")
    for gate in (lumi, ju):
        assert [one.refusal.code for one in await hear_locally(gate, [own])] == ["not_ours_to_tell"]
        assert await gate.db.fetchval("SELECT count(*) FROM journal WHERE stream = 'award'") == 0


async def test_calls_and_headroom_of_every_authority_are_known_to_the_others(
    lumi: Gatehouse, ju: Gatehouse, bsc: Gatehouse
) -> None:
    calls = [CallPublished.example(factory_id="ju", deciding_authority="ju"), CallPublished.example(factory_id="ju")]
    assert await hear_locally(ju, calls) == []
    assert await hear_locally(lumi, [ShareHeadroomChanged.example(revision=number) for number in range(2)]) == []
    for gate in (ju, lumi):
        sent = await gate.db.fetch("SELECT value FROM outbox WHERE topic = 'aifn-out-access-v1' ORDER BY seq")
        await bsc.hear(*(row["value"] for row in sent), origin=gate.door.me, stream="access")
    facts = await bsc.facts("aifn-in-access-v1")
    assert [fact["record_key"] for fact in facts] == [
        "ju/call/aif-large-scale",
        "lumi-aif/share/lumi-g-union-2026",
        "lumi-aif/share/lumi-g-union-2026",
    ]
