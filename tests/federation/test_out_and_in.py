"""A fact leaves one member and arrives at another, whichever way it takes, however often it comes."""

from aifn_events.registry import CapacityReported
from aifn_fedgate.actions import heads

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
