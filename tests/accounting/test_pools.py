"""Pools and caps on a real database: nothing is given twice, however many ask, and no award is lost."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from aifn_accounting.actions import awards, pools, projects
from aifn_accounting.domain.pools import CapExceeded, PoolExhausted, WrongPool
from aifn_accounting.store import pools as store
from aifn_common.database import Database, transaction
from aifn_events.shares import AwardDeferred, ShareHeadroomChanged
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pydantic_core import from_json

from tests.accounting.make import announced, award, balances, broken_checks
from tests.accounting.make_pools import MANAGER, cap_now, fund, have_cap, have_pool, pool_now
from tests.support.backends import Backends


async def hear(db: Database, project: str = "p1", amount: int = 100, **values: Any) -> None:
    """Hear of an award."""
    async with transaction(db) as tx:
        await awards.carry_out_award(tx, award(project, amount, **values))


async def waiting(db: Database) -> list[tuple[str, str, str]]:
    """(award, state, code) of all awards that wait or have waited."""
    rows = await db.fetch("SELECT award_id, state, code FROM pending_award ORDER BY number")
    return [(row["award_id"], row["state"], row["code"]) for row in rows]


async def shares(db: Database) -> list[tuple[str, int]]:
    """(share, headroom) as it was announced, oldest first."""
    said = [from_json(row["value"]) for row in await announced(db, ShareHeadroomChanged.topic)]
    return [(one["share_id"], one["headroom"]) for one in said]


async def test_a_grant_runs_from_the_funder_through_share_and_group_to_the_allocation(db: Database) -> None:
    await have_pool(db, amount=1000)
    await have_cap(db)
    await hear(db, amount=60)
    assert await pool_now(db) == (1000, 60, 940)
    assert await cap_now(db) == (100, 60, 40)
    assert await balances(db) == (60, 0, 0, 0)
    rows = await db.fetch(
        """SELECT t.kind, s.role AS source, d.role AS target, t.amount FROM ledger_transfer t
        JOIN account s ON s.id = t.source JOIN account d ON d.id = t.target ORDER BY t.id"""
    )
    assert [tuple(row) for row in rows] == [
        ("sub_grant", "funder", "union_pool", 1000),
        ("sub_grant", "union_pool", "mode_group", 60),
        ("grant", "mode_group", "available", 60),
    ]
    assert await shares(db) == [
        ("union-2026", 0),
        ("union-2026", 1000),
        ("small", 100),
        ("union-2026", 940),
        ("small", 40),
    ]
    assert await broken_checks(db) == []


async def test_without_a_pool_an_award_is_not_rationed_and_a_cap_holds_all_the_same(db: Database) -> None:
    await have_cap(db)
    await hear(db, amount=100)
    await hear(db, "p2", amount=1)
    assert await balances(db) == (100, 0, 0, 0)
    assert await waiting(db) == [("award-p2", "waiting", "cap_exceeded")]
    await hear(db, "p3", amount=5000, mode="regular")
    assert await balances(db, "p3") == (5000, 0, 0, 0)
    assert await broken_checks(db) == []


async def test_an_award_for_an_empty_pool_waits_has_no_effect_and_is_carried_out_when_there_is_room(
    db: Database,
) -> None:
    await have_pool(db)
    await hear(db, amount=100)
    assert await waiting(db) == [("award-p1", "waiting", "pool_exhausted")]
    assert await db.fetchval("SELECT count(*) FROM project") == 0
    assert await db.fetchval("SELECT count(*) FROM allocation") == 0
    (deferred,) = await announced(db, AwardDeferred.topic)
    assert AwardDeferred.model_validate_json(deferred["value"]).code == "pool_exhausted"

    assert await awards.retry_awards(db) == 0
    await fund(db, "union-2026", 99)
    assert await awards.retry_awards(db) == 0
    assert len(await announced(db, AwardDeferred.topic)) == 1
    await fund(db, "union-2026", 1)
    assert await awards.retry_awards(db) == 1
    assert await awards.retry_awards(db) == 0
    assert await waiting(db) == [("award-p1", "carried_out", "pool_exhausted")]
    assert await balances(db) == (100, 0, 0, 0)
    assert await pool_now(db) == (100, 100, 0)
    with pytest.raises(awards.AwardSettled):
        await hear(db, amount=100)
    assert await broken_checks(db) == []


async def test_of_an_award_with_one_line_too_many_nothing_is_given(db: Database) -> None:
    await have_pool(db, amount=1000)
    lines = [award().lines[0].model_dump(), award(resource="lumi/lumi-g/node-time").lines[0].model_dump()]
    for line in lines:
        line["amount"] = 50
    async with transaction(db) as tx:
        await tx.execute(
            "INSERT INTO other_resource VALUES ($1, 'slice-second', '-', 'lumi-aif', '-', now())", lines[1]["resource"]
        )
    await have_pool(db, "empty", resource=lines[1]["resource"])
    await hear(db, lines=lines)
    assert await waiting(db) == [("award-p1", "waiting", "pool_exhausted")]
    assert await pool_now(db) == (1000, 0, 1000)


async def test_an_award_that_was_withdrawn_is_never_carried_out(db: Database) -> None:
    await have_pool(db)
    await hear(db)
    async with transaction(db) as tx:
        await awards.withdraw_award(tx, "award-p1", by=MANAGER, reason="the applicant gave up")
    await fund(db, "union-2026", 1000)
    assert await awards.retry_awards(db) == 0
    with pytest.raises(awards.AwardSettled):
        await hear(db)
    assert await pool_now(db) == (1000, 0, 1000)


async def test_of_many_awards_at_once_as_many_are_carried_out_as_fit_and_the_others_wait(db: Database) -> None:
    await have_pool(db, amount=1000)
    await have_cap(db, base_amount=700, pct=100)
    await asyncio.gather(*(hear(db, f"p{n}", amount=100, application_id=f"app-{n}") for n in range(40)))
    states = [(state, code) for _, state, code in await waiting(db)]
    assert states == [("waiting", "cap_exceeded")] * 33
    assert await db.fetchval("SELECT sum(granted)::int FROM allocation") == 700
    assert await pool_now(db) == (1000, 700, 300)
    assert await cap_now(db) == (700, 700, 0)
    assert await broken_checks(db) == []


async def test_many_grants_withdrawals_and_fundings_at_once_never_pass_on_more_than_there_is(db: Database) -> None:
    await have_pool(db, amount=500)
    await have_pool(db, "below", parent="union-2026", earmark="models")
    refused: list[str] = []

    async def try_to(number: int) -> None:
        try:
            if number % 4 == 0:
                await fund(db, "below", 60, source="union-2026")
            elif number % 4 == 1:
                async with transaction(db) as tx:
                    await pools.withdraw_from_pool(tx, "union-2026", 30, by=MANAGER, reason="needed elsewhere")
            else:
                await hear(db, f"p{number}", amount=40)
        except PoolExhausted as short:
            refused.append(short.code)

    await asyncio.gather(*(try_to(number) for number in range(48)))
    funded, passed_on, available = await pool_now(db)
    given = await db.fetchval("SELECT coalesce(sum(granted), 0)::int FROM allocation")
    assert passed_on == given + (await pool_now(db, "below"))[0]
    assert funded == passed_on + available
    assert 0 <= available < 40
    assert refused
    assert await broken_checks(db) == []


async def test_the_database_itself_refuses_more_than_a_pool_or_a_ceiling_has(db: Database) -> None:
    await have_pool(db, amount=100)
    await have_cap(db)
    for statement in (
        "UPDATE pool SET passed_on = 101",
        "UPDATE pool SET passed_on = -1",
        "UPDATE share_cap SET used = 101",
        "UPDATE share_cap SET used = -1",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await db.execute(statement)


async def test_a_ceiling_of_a_share_moves_with_what_the_share_was_funded_with(db: Database) -> None:
    await have_pool(db, amount=1000)
    await have_cap(db, base="share")
    assert await cap_now(db) == (100, 0, 100)
    await fund(db, "union-2026", 1000)
    assert await cap_now(db) == (200, 0, 200)
    await have_pool(db, "below", 500, parent="union-2026", source="union-2026")
    assert await cap_now(db) == (200, 0, 200)
    async with transaction(db) as tx:
        await pools.withdraw_from_pool(tx, "union-2026", 1500, by=MANAGER, reason="needed elsewhere")
    assert await cap_now(db) == (50, 0, 50)


async def test_a_cap_counts_what_was_granted_before_it_and_lowered_below_that_leaves_nothing(db: Database) -> None:
    await have_pool(db, amount=1000)
    await hear(db, amount=80)
    await hear(db, "p2", amount=80, policy_version="2023-12")
    await have_cap(db)
    assert await cap_now(db) == (100, 80, 20)
    async with transaction(db) as tx:
        before = await store.find_cap(tx, "small", lock=True)
        await pools.change_cap(
            tx,
            before,
            pct=5,
            base="stated",
            base_amount=1000,
            yields=False,
            source="a new policy",
            by=MANAGER,
            reason="-",
        )
    assert await cap_now(db) == (50, 80, 0)
    with pytest.raises(CapExceeded):
        async with transaction(db) as tx:
            await projects.open_project_from_award(tx, award("p3", 1))


async def test_a_yielding_group_leaves_alone_what_other_modes_need(db: Database) -> None:
    await have_pool(db, amount=1000)
    await have_cap(db, base_amount=1000, pct=100, yields=True)
    async with transaction(db) as tx:
        before = (await store.lock_pools(tx, ["union-2026"]))["union-2026"]
        await pools.change_pool(
            tx, before, title="a share", reserved=900, use_or_lose=None, most_per_grant=None, longest_days=None,
            by=MANAGER, reason="the regular call asks for it",
        )  # fmt: skip
    await hear(db, amount=101)
    await hear(db, "p2", amount=900, mode="regular")
    assert await waiting(db) == [("award-p1", "waiting", "pool_exhausted")]
    assert await pool_now(db) == (1000, 900, 100)


async def test_one_pool_funds_another_of_its_resource_only(db: Database) -> None:
    await have_pool(db, amount=1000)
    await have_pool(db, "national-2026", kind="national")
    await fund(db, "national-2026", 300, source="union-2026")
    kinds = await db.fetch("SELECT kind FROM ledger_transfer ORDER BY id")
    assert [row["kind"] for row in kinds] == ["sub_grant", "transfer"]
    with pytest.raises(WrongPool):
        await fund(db, "union-2026", 1, source="union-2026")
    with pytest.raises(PoolExhausted) as caught:
        await fund(db, "national-2026", 701, source="union-2026")
    assert caught.value.available == 700
    assert await broken_checks(db) == []


STEPS = st.lists(
    st.tuples(st.sampled_from(["fund", "withdraw", "award", "below"]), st.integers(1, 400)), min_size=1, max_size=12
)


@given(STEPS)
@effort(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_done_to_pools_the_books_hold(backends: Backends, steps: list[tuple[str, int]]) -> None:
    async def go() -> None:
        async with backends.database("aifn_accounting") as db:
            await have_pool(db, amount=500)
            await have_pool(db, "below", parent="union-2026")
            await have_cap(db, base_amount=600, pct=100)
            for number, (what, amount) in enumerate(steps):
                with suppress(PoolExhausted):
                    await one(db, what, amount, number)
            assert await broken_checks(db) == []
            funded, passed_on, _ = await pool_now(db)
            assert 0 <= passed_on <= funded
            assert (await cap_now(db))[1] == await db.fetchval("SELECT coalesce(sum(granted), 0)::int FROM allocation")

    async def one(db: Database, what: str, amount: int, number: int) -> None:
        if what == "fund":
            await fund(db, "union-2026", amount)
        elif what == "below":
            await fund(db, "below", amount, source="union-2026")
        elif what == "withdraw":
            async with transaction(db) as tx:
                await pools.withdraw_from_pool(tx, "union-2026", amount, by=MANAGER, reason="needed elsewhere")
        else:
            await hear(db, f"p{number}", amount=amount)

    asyncio.run(go())
