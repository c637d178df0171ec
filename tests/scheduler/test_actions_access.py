"""Applications and awards on a real database."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction
from aifn_common.errors import NotFound
from aifn_events.access import ApplicationDecided, AwardGranted
from aifn_scheduler.actions import access, machines
from aifn_scheduler.domain.access import AlreadyAwarded, Application, Ask, NotEligible
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import access as store
from aifn_scheduler.store.access import Filed

from tests.scheduler.make import NOW, announced, application, machine, organisation


async def apply(db: Database, call_id: str = "aif-playground", what: Application | None = None) -> Filed:
    async with transaction(db) as tx:
        return await access.submit_application(
            tx, call_id, what or application(), contact=None, submitted_by="mari", factory="lumi-aif"
        )


async def award(db: Database, application_id: str) -> Filed:
    async with transaction(db) as tx:
        return await access.award_application(
            tx, application_id, by="manager", reason="scaling shown", factory="lumi-aif"
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
