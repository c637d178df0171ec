"""What the scheduler says of a hand-over that has ended becomes one booking on each side."""

from typing import Any

import pytest
from aifn_accounting.actions import budget, exchange
from aifn_common.database import Database, transaction
from aifn_common.errors import Invalid
from aifn_events.handover import HandoverSettled
from aifn_events.placement import JobClosed

from tests.accounting.make import GPU, balances, broken_checks, grant, hold, standing
from tests.accounting.make_pools import have_pool, pool_now

THERE = "mn5/acc/gpu-time"


def settled(**values: Any) -> HandoverSettled:
    """A job of LUMI used 300 at BSC, where two thirds of a unit here buy one."""
    usual: dict[str, Any] = {
        "handover_id": "j1-h0",
        "side": "home",
        "home": "lumi-aif",
        "receiver": "bsc-aif",
        "agreement_id": "2026-7",
        "job_id": "j1",
        "resource": THERE,
        "amount": 300,
        "home_resource": GPU,
        "numerator": 2,
        "denominator": 3,
    }
    return HandoverSettled.example(**(usual | values))


async def book(db: Database, event: HandoverSettled) -> None:
    async with transaction(db) as tx:
        await exchange.settle_handover(tx, event)


@pytest.mark.parametrize("closed_first", [True, False])
async def test_home_pays_what_was_used_elsewhere_once_and_gets_the_rest_of_its_hold_back(
    db: Database, closed_first: bool
) -> None:
    await have_pool(db, amount=1000)
    await grant(db, amount=1000)
    await hold(db, "j1", 400)
    over = JobClosed.example(project_id="p1", job_id="j1", segments=0)

    async def close() -> None:
        async with transaction(db) as tx:
            await budget.close_job(tx, over)

    if closed_first:
        await close()
    for _ in range(2):
        await book(db, settled(allocation_id=(await standing(db)).id))
    await close()
    assert await balances(db) == (800, 0, 200, 0)
    assert await pool_now(db) == (1000, 800, 200)
    assert await db.fetchval("SELECT count(*) FROM settlement") == 1
    assert await broken_checks(db) == []


async def test_the_receivers_pool_gives_what_a_guest_used_once(db: Database) -> None:
    await have_pool(db, amount=1000)
    guest = settled(side="receiver", home="bsc-aif", receiver="lumi-aif", job_id="theirs", resource=GPU,
                    home_resource=THERE, pool_id="union-2026", amount=60)  # fmt: skip
    await book(db, guest)
    await book(db, guest)
    assert (await pool_now(db))[0] == 1000
    assert await db.fetchval("SELECT sum(amount) FROM settlement") == 60
    assert await broken_checks(db) == []


async def test_a_settlement_that_names_nobody_who_pays_is_refused(db: Database) -> None:
    for side in ("home", "receiver"):
        with pytest.raises(Invalid, match="names no"):
            await book(db, settled(side=side, allocation_id=None, pool_id=None))
