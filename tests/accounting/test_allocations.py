"""What becomes of allocations on a real database: topped up, extended, cut, expired, limited, closed, settled."""

from datetime import UTC, date, datetime, timedelta

import pytest
from aifn_accounting.actions import allocations, budget, exchange, people, projects
from aifn_accounting.domain.exchange import Exchange
from aifn_accounting.domain.ledger import ProjectClosed
from aifn_accounting.domain.policies import ContractTooShort, ExtensionTooLarge, ExtensionTooLong, NoExtension
from aifn_accounting.domain.pools import PoolExhausted
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import ledger, pools
from aifn_accounting.timers import end_allocations
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction
from aifn_events.access import ProjectDescribed
from aifn_events.placement import BudgetRefused
from aifn_events.shares import AllocationChanged, ThresholdReached
from pydantic_core import from_json

from tests.accounting.make import (
    GPU,
    START,
    announced,
    balances,
    broken_checks,
    charge,
    closed,
    grant,
    hold,
    standing,
    used,
)
from tests.accounting.make_pools import MANAGER, cap_now, have_cap, have_pool, pool_now

THERE = "mn5/acc/gpu-time"


async def top_up(db: Database, amount: int, project: str = "p1") -> None:
    """Give an allocation more."""
    one = await standing(db, project)
    async with transaction(db) as tx:
        await allocations.top_up(tx, one.id, amount, by=MANAGER, reason="a referee asked for it")


async def extend(db: Database, days: int, project: str = "p1") -> None:
    """Let an allocation end so many days later."""
    one = await standing(db, project)
    async with transaction(db) as tx:
        await allocations.extend(tx, one.id, one.ends_at + timedelta(days=days), by=MANAGER, reason="the model is late")


def it_is(days: float) -> None:
    """Make it so many days after START."""
    clock.use(SimulatedClock(epoch=START + timedelta(days=days), started=datetime.now(UTC), factor=1))


async def changes(db: Database) -> list[tuple[str, int, int]]:
    """(what, granted, revision) of every change that was announced."""
    said = [from_json(row["value"]) for row in await announced(db, AllocationChanged.topic)]
    return [(one["what"], one["granted"], one["revision"]) for one in said]


async def thresholds(db: Database) -> list[tuple[str, int, int, int]]:
    """(of, percent, used, limit) of every threshold that was announced."""
    said = [from_json(row["value"]) for row in await announced(db, ThresholdReached.topic)]
    return [(one["of"], one["percent"], one["used"], one["limit"]) for one in said]


# Extension and top-up


async def test_a_top_up_comes_out_of_the_same_pool_and_pays_an_overrun_first(
    db: Database, settings: AccountingSettings
) -> None:
    await have_pool(db, amount=1000)
    await have_cap(db, base_amount=10_000)
    await grant(db, amount=600)
    await charge(db, settings, used(amount=700))
    assert await balances(db) == (0, 0, 700, 100)
    await top_up(db, 150)
    assert await balances(db) == (50, 0, 700, 0)
    assert await pool_now(db) == (1000, 750, 250)
    assert await cap_now(db) == (1000, 750, 250)
    with pytest.raises(PoolExhausted):
        await top_up(db, 251)
    assert await changes(db) == [("topped_up", 750, 1)]
    assert await broken_checks(db) == []


async def test_an_award_grows_and_lasts_as_its_mode_lets_it(db: Database) -> None:
    await grant(db, amount=1000, mode="regular")
    await top_up(db, 100)
    with pytest.raises(ExtensionTooLarge):
        await top_up(db, 1)
    with pytest.raises(ExtensionTooLong):
        await extend(db, 120)
    await extend(db, 30)
    assert [one[0] for one in await changes(db)] == ["topped_up", "extended"]
    trail = await db.fetch("SELECT actor, action, reason, before, after FROM change_log WHERE action = 'extended'")
    assert [(row["actor"], row["reason"]) for row in trail] == [(MANAGER, "the model is late")]
    assert trail[0]["before"]["ends_at"] < trail[0]["after"]["ends_at"]


async def test_no_extension_outlives_a_contract_by_less_than_three_months(db: Database) -> None:
    await grant(db)
    async with transaction(db) as tx:
        project = await ledger.get_project(tx, "p1", lock=True)
        ends = (await ledger.list_members(tx, "p1"))[0].subject
        await people.describe_person(
            tx, project, ends, contract_ends_on=date(2027, 5, 1), local_user=None, by=MANAGER, reason="says the host"
        )
    with pytest.raises(ContractTooShort):
        await extend(db, 20)
    await extend(db, 10)


# Thresholds, inference


async def test_each_threshold_is_said_when_charges_pass_it_and_again_after_a_refund(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, amount=1000)
    await charge(db, settings, used("a", 499))
    assert await thresholds(db) == []
    await charge(db, settings, used("b", 301))
    await charge(db, settings, used("b", 1, revision=1))  # 500 of 1000: 50 is passed still
    await charge(db, settings, used("c", 600))
    first, again = (800, 1000), (1100, 1000)
    assert await thresholds(db) == [
        *[("allocation", percent, *first) for percent in (50, 80)],
        *[("allocation", percent, *again) for percent in (80, 100)],
    ]


async def test_inference_is_metered_apart_warned_of_and_refused_while_other_work_goes_on(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, amount=1000, inference_cap_pct=10)
    await hold(db, "i1", 80, workload="inference")
    await hold(db, "t1", 500, workload="training")
    assert await thresholds(db) == [("inference", 80, 80, 100)]
    await hold(db, "i2", 21, workload="inference")
    refused = [BudgetRefused.model_validate_json(row["value"]) for row in await announced(db, BudgetRefused.topic)]
    assert [(one.job_id, one.reason, one.available) for one in refused] == [("i2", "inference_cap_reached", 20)]
    await charge(db, settings, used("i1", 30))
    async with transaction(db) as tx:
        await budget.close_job(tx, closed("i1"))
    await hold(db, "i3", 70, workload="inference")
    assert await thresholds(db) == [
        ("inference", 80, 80, 100),
        ("inference", 80, 100, 100),
        ("inference", 100, 100, 100),
    ]
    assert (await balances(db))[1:3] == (570, 30)


async def test_a_switch_of_the_inference_limit_reaches_no_award_made_before(db: Database) -> None:
    await grant(db, amount=1000, inference_cap_pct=10)
    await grant(db, "p2", 1000, application_id="app-2")
    await hold(db, "i1", 101, workload="inference")
    await hold(db, "i2", 900, "p2", workload="inference")
    assert [await balances(db, project) for project in ("p1", "p2")] == [(1000, 0, 0, 0), (100, 900, 0, 0)]


# Use or lose, and the end


async def test_what_is_left_expires_after_the_grace_and_late_usage_gets_it_back(
    db: Database, settings: AccountingSettings
) -> None:
    await have_pool(db, amount=1000)
    await grant(db, amount=1000)
    await charge(db, settings, used(amount=300))
    it_is(60 + 29)
    await end_allocations(db, settings)
    assert await balances(db) == (700, 0, 300, 0)
    it_is(60 + 31)
    await end_allocations(db, settings)
    await end_allocations(db, settings)
    assert await balances(db) == (0, 0, 300, 0)
    await charge(db, settings, used("late", 200))
    assert await balances(db) == (0, 0, 500, 200)
    await end_allocations(db, settings)
    one = await standing(db)
    assert (one.granted, one.charged, one.overrun, one.expired) == (500, 500, 0, 500)
    assert await changes(db) == [("expired", 300, 1), ("restored", 500, 2)]
    assert await pool_now(db) == (1000, 1000, 0)
    assert await broken_checks(db) == []


async def test_the_danish_policy_cuts_once_and_gives_back_to_pool_and_cap(
    db: Database, settings: AccountingSettings
) -> None:
    await have_pool(db, amount=5000, use_or_lose="lumi-dk")
    await have_cap(db, base_amount=50_000)
    await grant(db, amount=1200, ends_at=START + timedelta(days=365))
    await charge(db, settings, used(amount=100))
    await end_allocations(db, settings)
    assert await balances(db) == (1100, 0, 100, 0)
    it_is(190)
    await end_allocations(db, settings)
    await end_allocations(db, settings)
    one = await standing(db)
    cut = one.returned
    assert cut > 0
    assert (one.granted, one.available, one.charged) == (1200 - cut, 1100 - cut, 100)
    assert await pool_now(db) == (5000, 1200 - cut, 3800 + cut)
    assert await cap_now(db) == (5000, 1200 - cut, 3800 + cut)
    assert await changes(db) == [("cut", 1200 - cut, 1)]
    with pytest.raises(NoExtension):
        await extend(db, 1)
    reason = await db.fetchval("SELECT reason FROM change_log WHERE action = 'cut'")
    assert "deic.dk" in reason
    assert await broken_checks(db) == []


async def test_a_cut_takes_no_more_than_is_left_beside_holds(db: Database, settings: AccountingSettings) -> None:
    await have_pool(db, amount=5000, use_or_lose="lumi-dk")
    await grant(db, amount=1200, ends_at=START + timedelta(days=365))
    await hold(db, "long", 1190)
    it_is(190)
    await end_allocations(db, settings)
    assert await balances(db) == (0, 1190, 0, 0)
    assert (await standing(db)).returned == 10
    assert await broken_checks(db) == []


# Projects


async def test_a_project_closes_when_nothing_is_held_and_then_gets_nothing_any_more(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await hold(db, "j1", 1000)
    async with transaction(db) as tx:
        with pytest.raises(projects.HoldsOpen) as caught:
            await projects.close_project(
                tx, await ledger.get_project(tx, "p1", lock=True), by=MANAGER, reason="it is over"
            )
    assert caught.value.held == 1000
    async with transaction(db) as tx:
        await budget.close_job(tx, closed("j1", 0))
    async with transaction(db) as tx:
        await projects.close_project(tx, await ledger.get_project(tx, "p1", lock=True), by=MANAGER, reason="it is over")
    said = ProjectDescribed.model_validate_json((await announced(db, ProjectDescribed.topic))[-1]["value"])
    assert (said.closed, said.revision) == (True, 1)
    await hold(db, "j2", 10)
    refused = BudgetRefused.model_validate_json((await announced(db, BudgetRefused.topic))[-1]["value"])
    assert refused.reason == "project_closed"
    for forbidden in (top_up(db, 1), extend(db, 1), grant(db, award_id="award-2")):
        with pytest.raises(ProjectClosed):
            await forbidden
    await charge(db, settings, used(amount=5))
    assert (await balances(db))[2] == 5


# Exchanges between factories


async def test_work_elsewhere_is_paid_at_home_and_owed_in_the_clearing_account(db: Database) -> None:
    await have_pool(db, amount=1000)
    await grant(db, amount=1000)
    await hold(db, "j1", 400)
    swap = Exchange("lumi-aif", "bsc-aif", THERE, 300, GPU, 2, 3)
    (one,) = [await standing(db)]
    async with transaction(db) as tx:
        await exchange.settle_home(tx, "s1", swap, agreement="2026-7", job_id="j1", allocation_id=one.id)
    assert await balances(db) == (800, 0, 200, 0)
    assert await pool_now(db) == (1000, 800, 200)
    assert await clearing(db) == [("clearing:bsc-aif:lumi-aif", GPU, -200)]
    with pytest.raises(exchange.SettledBefore):
        async with transaction(db) as tx:
            await exchange.settle_home(tx, "s1", swap, agreement="2026-7", job_id="j1", allocation_id=one.id)
    assert await broken_checks(db) == []


async def test_work_for_others_comes_out_of_the_pool_the_agreement_names_and_the_other_way_round_takes_debt_down(
    db: Database,
) -> None:
    await have_pool(db, amount=1000)
    await grant(db, amount=500)
    one = await standing(db)
    away = Exchange("lumi-aif", "bsc-aif", THERE, 90, GPU, 1, 1)
    here = Exchange("bsc-aif", "lumi-aif", GPU, 60, THERE, 1, 1)
    async with transaction(db) as tx:
        await exchange.settle_home(tx, "s1", away, agreement="2026-7", job_id="j1", allocation_id=one.id)
        await exchange.settle_receiver(tx, "s2", here, agreement="2026-7", job_id="theirs", pool_id="union-2026")
    assert await clearing(db) == [("clearing:bsc-aif:lumi-aif", GPU, -30)]
    large = Exchange("bsc-aif", "lumi-aif", GPU, 10_000, THERE, 1, 1)

    async def settle_too_much() -> None:
        async with transaction(db) as tx:
            await exchange.settle_receiver(tx, "s3", large, agreement="2026-7", job_id="x", pool_id="union-2026")

    with pytest.raises(PoolExhausted):
        await settle_too_much()
    assert await db.fetchval("SELECT count(*) FROM settlement") == 2
    assert await broken_checks(db) == []


async def clearing(db: Database) -> list[tuple[str, str, int]]:
    """What stands between factories."""
    async with db.acquire() as tx:
        found = await pools.list_clearing(tx, after=None, limit=10)
    return [(one.owner, one.resource, one.balance) for one in found]


async def test_a_grant_and_its_end_are_in_one_history_of_postings(db: Database, settings: AccountingSettings) -> None:
    await grant(db, amount=100)
    it_is(200)
    await end_allocations(db, settings)
    rows = await db.fetch("SELECT kind, amount FROM ledger_transfer ORDER BY id")
    assert [tuple(row) for row in rows] == [("grant", 100), ("expiry", 100)]
