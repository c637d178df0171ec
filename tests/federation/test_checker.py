"""The independent checker: content with an honest federation, and it finds each thing that a test breaks behind it."""

import pytest
from aifn_common.database import transaction
from aifn_events.access import AwardGranted
from aifn_events.usage import UsageCharged
from aifn_fedgate.actions import heads, usage

from tests.federation.checker import Place, check
from tests.federation.make import Gatehouse, capacity

CANARIES = ("mari.meikalainen@canary.test", "u-canary4711", "4711-canary")


async def _live(lumi: Gatehouse, bsc: Gatehouse, ju: Gatehouse) -> dict[str, Place]:
    """Facts of every kind, with people planted upstream of what leaves."""
    person, pseudonym, job = CANARIES
    for number in range(3):
        await lumi.tell(capacity(idle=number))
    charges = [
        UsageCharged.example(local_job_id=f"{job}-{number}", job_id="lumi-aif-1", user=pseudonym, amount=100 + number)
        for number in range(3)
    ]
    async with transaction(lumi.db) as tx:
        await usage.add_up(tx, charges)
        await usage.add_up(tx, [charges[0], charges[1].model_copy(update={"revision": 1, "amount": 1})])
    await usage.tell_sums(lumi.db, lumi.door)
    award = AwardGranted.example(
        factory_id="bsc-aif", principal_investigator=person, source="urn:aifn:ju:scheduler", deciding_authority="ju"
    )
    await ju.tell(award, "award", recipient="bsc-aif")
    for owner in (lumi, ju):
        await heads.sign_heads(owner.db, owner.door)
        await bsc.repair.peek(owner.door.me)
    await bsc.repair.close_gaps()
    for gate in (lumi, bsc, ju):
        await gate.db.execute("DELETE FROM outbox WHERE topic NOT LIKE 'aifn-in-%'")
    return {"lumi-aif": Place(lumi.url), "bsc-aif": Place(bsc.url), "ju": Place(ju.url)}


async def test_no_person_leaves_though_people_stand_in_everything_upstream(
    lumi: Gatehouse, bsc: Gatehouse, ju: Gatehouse
) -> None:
    places = await _live(lumi, bsc, ju)
    (fact,) = await bsc.facts("aifn-in-usage-v1")
    assert '"amount":203' in fact["data"].replace(" ", "")
    (award,) = await bsc.facts("aifn-in-award-v1")
    assert CANARIES[0] in award["data"], "the one it is for can open it"
    await bsc.db.execute("DELETE FROM outbox")
    assert await check(places, canaries=CANARIES) == []
    rows = await lumi.db.fetch("SELECT usage_charge::text AS text FROM usage_charge")
    assert not [row for row in rows if any(word in row["text"] for word in CANARIES)]


@pytest.mark.parametrize(
    ("broken", "where", "invariant"),
    [
        ("DELETE FROM journal WHERE stream = 'capacity' AND seq = 2", "bsc", "I6"),
        ("UPDATE journal SET raw = (SELECT raw FROM journal WHERE stream = 'capacity' AND seq = 1 LIMIT 1)"
         " WHERE stream = 'capacity' AND seq = 2", "bsc", "I7"),
        ("UPDATE journal SET raw = overlay(raw PLACING 'A' FROM length(raw) - 40) WHERE stream = 'usage'", "bsc", "I7"),
        ("DELETE FROM replica WHERE stream = 'usage'", "bsc", "I5"),
        ("UPDATE chain SET digest = decode(repeat('11', 32), 'hex') WHERE stream = 'capacity'", "bsc", "I5"),
        ("UPDATE chain SET tip = decode(repeat('11', 32), 'hex') WHERE stream = 'capacity'", "bsc", "I9"),
        ("INSERT INTO outbox (event_id, topic, time) VALUES ('x', 'y', now())", "lumi", "I8"),
    ],
)  # fmt: skip
async def test_the_checker_finds_what_is_broken_behind_its_back(
    lumi: Gatehouse, bsc: Gatehouse, ju: Gatehouse, broken: str, where: str, invariant: str
) -> None:
    places = await _live(lumi, bsc, ju)
    await bsc.db.execute("DELETE FROM outbox")
    await {"lumi": lumi, "bsc": bsc}[where].db.execute(broken)
    assert invariant in {line.split()[0] for line in await check(places)}


async def test_the_checker_finds_an_identity_in_an_envelope(lumi: Gatehouse, bsc: Gatehouse) -> None:
    await lumi.tell(capacity(partition="canary-4711"))
    await lumi.db.execute("DELETE FROM outbox")
    assert await check({"lumi-aif": Place(lumi.url)}, canaries=["canary-4711"]) == [
        "I10 lumi-aif: canary-4711 stands on lumi-aif/capacity"
    ]
