"""Applications and awards on a real database."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction
from aifn_common.errors import NotFound
from aifn_events.access import ApplicationDecided, AwardGranted, CallPublished
from aifn_scheduler.actions import access, machines
from aifn_scheduler.domain.access import (
    AlreadyAwarded,
    AnothersDecision,
    Application,
    Ask,
    ForeignAward,
    NoHost,
    NotEligible,
)
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import access as store
from aifn_scheduler.store.access import Filed

from tests.scheduler.make import NOW, announced, application, award_of_the_ju, machine, organisation
from tests.support.settings import settings


async def apply(
    db: Database,
    call_id: str = "aif-playground",
    what: Application | None = None,
    at: SchedulerSettings | None = None,
) -> Filed:
    async with transaction(db) as tx:
        return await access.submit_application(
            tx,
            call_id,
            what or application(),
            contact=None,
            submitted_by="mari",
            settings=at or settings(SchedulerSettings),
        )


async def award(db: Database, application_id: str, at: SchedulerSettings | None = None) -> Filed:
    async with transaction(db) as tx:
        return await access.award_application(
            tx, application_id, by="manager", reason="scaling shown", settings=at or settings(SchedulerSettings)
        )


@pytest.fixture
async def lumi(db: Database) -> Database:
    """A database that knows LUMI."""
    async with transaction(db) as tx:
        await machines.remember_machine(tx, machine())
    return db


async def test_a_playground_request_is_decided_and_awarded_at_once(lumi: Database) -> None:
    clock.use(SimulatedClock(NOW, started=clock.now(), factor=1))
    filed = await apply(lumi)
    assert filed.state == "awarded"
    assert filed.award is not None
    assert filed.award.project_id == "aif-2026-0001"
    (decided,) = await announced(lumi, ApplicationDecided)
    assert decided.eligible
    assert [one.rule for one in decided.findings] == [one.rule for one in filed.findings]
    (granted,) = await announced(lumi, AwardGranted)
    assert granted.project_id == filed.award.project_id
    assert granted.principal_investigator == "mari"
    assert (granted.mode, granted.policy_version, granted.pool) == ("aif_playground", "2025-12", "union")
    (line,) = granted.lines
    assert (line.resource, line.amount) == ("lumi/lumi-g/gpu-time", 288_000_000)
    assert granted.ends_at.month == granted.starts_at.month + 2 - 12


async def test_an_award_keeps_the_limit_on_inference_of_its_own_call(lumi: Database) -> None:
    limited = replace(next(one for one in access.seed_calls() if one.call_id == "aif-playground"), call_id="limited")
    async with transaction(lumi) as tx:
        await store.add_call(tx, replace(limited, inference_cap_pct=10))
    await apply(lumi, "limited")
    await apply(lumi)
    assert [one.inference_cap_pct for one in await announced(lumi, AwardGranted)] == [10, None]


async def test_a_refused_application_is_kept_with_its_findings_and_awarded_to_nobody(lumi: Database) -> None:
    filed = await apply(lumi, what=application(organisation=organisation(kind="academia")))
    assert (filed.state, filed.eligible, filed.award) == ("refused", False, None)
    assert [finding.rule for finding in filed.findings if not finding.passed] == ["applicant_kind"]
    assert [one.eligible for one in await announced(lumi, ApplicationDecided)] == [False]
    assert await announced(lumi, AwardGranted) == []
    with pytest.raises(NotEligible):
        await award(lumi, filed.application_id)


async def test_a_fast_lane_request_waits_for_a_person_in_the_order_of_submission(lumi: Database) -> None:
    filed = [await apply(lumi, "aif-fast-lane", application(gpu_hours=20_000)) for _ in range(3)]
    assert [(one.state, one.before) for one in filed] == [("eligible", 0), ("eligible", 1), ("eligible", 2)]
    granted = await award(lumi, filed[0].application_id)
    assert granted.award is not None
    assert (granted.award.awarded_by, granted.award.reason) == ("manager", "scaling shown")
    async with lumi.acquire() as connection:
        assert (await store.get_application(connection, filed[2].application_id)).before == 1
    with pytest.raises(AlreadyAwarded):
        await award(lumi, filed[0].application_id)
    assert len(await announced(lumi, AwardGranted)) == 1


async def test_two_managers_at_the_same_moment_award_once(lumi: Database) -> None:
    filed = await apply(lumi, "aif-fast-lane", application(gpu_hours=20_000))
    results = await asyncio.gather(*(award(lumi, filed.application_id) for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(one, AlreadyAwarded) for one in results) == 3
    assert len(await announced(lumi, AwardGranted)) == 1


async def test_every_award_makes_a_project_of_its_own(lumi: Database) -> None:
    await asyncio.gather(*(apply(lumi) for _ in range(8)))
    projects = [granted.project_id for granted in await announced(lumi, AwardGranted)]
    assert len(set(projects)) == 8


async def test_an_unknown_partition_is_a_finding_and_an_unknown_call_is_not_found(lumi: Database) -> None:
    filed = await apply(lumi, what=application(asks=(Ask("lumi-x", 5000),)))
    assert "no partition lumi-x is known" in [finding.because for finding in filed.findings]
    with pytest.raises(NotFound):
        await apply(lumi, "no-such-call")


async def test_calls_are_published_once_and_stay_as_they_are(db: Database, limits: SchedulerSettings) -> None:
    await db.execute("UPDATE call SET closes_at = $1 WHERE call_id = 'aif-playground'", NOW + timedelta(days=9))
    async with transaction(db) as tx:
        await access.load_seed(tx, limits)
        calls = await store.list_calls(tx, "", 10)
    assert [call.call_id for call in calls] == ["aif-fast-lane", "aif-playground"]
    assert calls[1].closes_at == NOW + timedelta(days=9)


async def test_each_member_publishes_the_calls_that_are_its_to_decide_once(db: Database) -> None:
    ju = settings(SchedulerSettings, factory="ju", member_kind="ju")
    published = await announced(db, CallPublished)
    assert [(one.call_id, one.factory_id) for one in published] == [
        ("aif-fast-lane", "lumi-aif"),
        ("aif-playground", "lumi-aif"),
    ]
    for _ in range(2):
        async with transaction(db) as tx:
            await access.load_seed(tx, ju)
    (new,) = (await announced(db, CallPublished))[len(published) :]
    assert (new.call_id, new.factory_id, new.deciding_authority) == ("aif-large-scale", "ju", "ju")
    assert new.policy_version == "2025-12"


@pytest.fixture
async def ju(lumi: Database) -> SchedulerSettings:
    """The JU's scheduler: its call is published, and it knows machines, which are those of others."""
    made = settings(SchedulerSettings, factory="ju", member_kind="ju")
    async with transaction(lumi) as tx:
        await access.load_seed(tx, made)
        await machines.remember_machine(tx, machine("leonardo", factory_ids=["it4lia"]))
    return made


async def test_the_ju_awards_a_large_project_to_the_factory_that_operates_the_machine(
    lumi: Database, ju: SchedulerSettings
) -> None:
    filed = await apply(lumi, "aif-large-scale", application(gpu_hours=100_000, months=6), ju)
    assert filed.state == "eligible"
    filed = await award(lumi, filed.application_id, ju)
    (granted,) = await announced(lumi, AwardGranted)
    assert (granted.factory_id, granted.deciding_authority) == ("lumi-aif", "ju")
    assert filed.award is not None
    assert granted.project_id == filed.award.project_id == f"aif-ju-{clock.now().year}-0001"


async def test_an_authority_decides_its_own_calls_only(lumi: Database, ju: SchedulerSettings) -> None:
    large = await apply(lumi, "aif-large-scale", application(gpu_hours=100_000, months=6), ju)
    with pytest.raises(AnothersDecision, match="decided by ju, and this member is a factory"):
        await award(lumi, large.application_id)
    with pytest.raises(AnothersDecision, match="decided by hosting_factory, and this member is a ju"):
        await apply(lumi, "aif-playground", at=ju)
    assert await announced(lumi, AwardGranted) == []


TWO = (Ask("lumi-g", 60_000), Ask("leonardo-booster", 60_000))


async def test_an_award_on_machines_of_two_factories_goes_to_both_each_with_its_part_and_the_name_of_the_other(
    lumi: Database, ju: SchedulerSettings
) -> None:
    filed = await apply(lumi, "aif-large-scale", application(asks=TWO, months=6), ju)
    await award(lumi, filed.application_id, ju)
    said = {one.factory_id: one for one in await announced(lumi, AwardGranted)}
    assert {name: [line.partition_id for line in one.lines] for name, one in said.items()} == {
        "lumi-aif": ["lumi-g"],
        "it4lia": ["leonardo-booster"],
    }
    elsewhere = {name: [(to.factory_id, to.partition_id) for to in one.elsewhere] for name, one in said.items()}
    assert elsewhere == {"lumi-aif": [("it4lia", "leonardo-booster")], "it4lia": [("lumi-aif", "lumi-g")]}
    assert len({(one.award_id, one.project_id) for one in said.values()}) == 1


@pytest.mark.parametrize("hosts", [[], ["it4lia", "another"]])
async def test_each_part_of_an_award_needs_one_factory_that_can_open_it(
    lumi: Database, ju: SchedulerSettings, hosts: list[str]
) -> None:
    async with transaction(lumi) as tx:
        await machines.remember_machine(tx, machine("leonardo", revision=1, factory_ids=hosts))
    filed = await apply(lumi, "aif-large-scale", application(asks=TWO, months=6), ju)
    with pytest.raises(NoHost, match=f"operated by {', '.join(hosts) or 'no AI Factory'}"):
        await award(lumi, filed.application_id, ju)
    assert await announced(lumi, AwardGranted) == []


async def test_an_award_of_the_ju_is_said_at_the_host_as_if_it_were_its_own(
    lumi: Database, limits: SchedulerSettings
) -> None:
    heard = award_of_the_ju()
    async with transaction(lumi) as tx:
        await access.hear_award(tx, heard, limits)
    (granted,) = await announced(lumi, AwardGranted)
    assert (granted.project_id, granted.factory_id) == ("aif-ju-2026-0001", "lumi-aif")
    said_as = await lumi.fetchval("SELECT event_id FROM outbox WHERE topic = $1", AwardGranted.topic)
    assert said_as == heard.fact_id, "a second copy is known as one"


def line(machine_id: str, partition_id: str, kind: str = "gpu-time") -> dict[str, object]:
    resource = f"{machine_id}/{partition_id}/{kind}"
    return {"machine_id": machine_id, "partition_id": partition_id, "resource": resource, "amount": 1}


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        ({"factory_id": "bsc-aif"}, "is for bsc-aif"),
        ({"mode": "aif_playground"}, "aif_playground is decided by hosting_factory, not by ju"),
        ({"mode": "no_such_mode"}, "no mode no_such_mode"),
        ({"lines": [line("leonardo", "leonardo-booster")]}, "not operated by lumi-aif"),
        ({"lines": [line("lumi", "lumi-x")]}, "not what is known here of lumi-x"),
        ({"lines": [line("lumi", "lumi-g", "node-time")]}, "not what is known here of lumi-g"),
    ],
)
@pytest.mark.usefixtures("ju")  # so that the other machines are known
async def test_an_award_that_is_not_for_this_factory_to_carry_out_is_refused(
    lumi: Database, limits: SchedulerSettings, wrong: dict[str, object], because: str
) -> None:
    async with transaction(lumi) as tx:
        with pytest.raises(ForeignAward, match=because):
            await access.hear_award(tx, award_of_the_ju(**wrong), limits)
    assert await announced(lumi, AwardGranted) == []
