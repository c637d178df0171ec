"""Builders of pools and caps, so that a test says only what it is about."""

from datetime import UTC, datetime
from typing import Any

from aifn_accounting.actions import pools
from aifn_accounting.domain.pools import Cap, Pool
from aifn_accounting.store import pools as store
from aifn_common.database import Database, transaction

from tests.accounting.make import GPU, START, know_machine

YEAR = {"starts_at": datetime(2026, 1, 1, tzinfo=UTC), "ends_at": datetime(2027, 1, 1, tzinfo=UTC)}
MODES = ("aif_playground", "aif_fast_lane")
MANAGER = "manager@example"


async def have_pool(db: Database, pool_id: str = "union-2026", amount: int = 0, **values: Any) -> None:
    """Have a pool of LUMI-G for the year, with so much in it."""
    source = values.pop("source", None)
    usual: dict[str, Any] = {
        "kind": "union", "title": "a share", "parent": None, "funder": "ju", "factory_id": "lumi-aif", "resource": GPU,
        "funded": 0, "passed_on": 0, "reserved": 0, "earmark": None, "use_or_lose": None, "most_per_grant": None,
        "longest_days": None, "account": 0, "revision": 0, "created_by": MANAGER, "created_at": START,
    }  # fmt: skip
    if values.get("resource", GPU) == GPU and not await db.fetchval("SELECT count(*) FROM resource"):
        await know_machine(db)
    async with transaction(db) as tx:
        await pools.create_pool(tx, Pool(id=pool_id, **(usual | YEAR | values)), reason="a new year")
        if amount:
            await pools.fund_pool(tx, pool_id, amount, source=source, by=MANAGER, reason="a new year")


async def fund(db: Database, pool_id: str, amount: int, source: str | None = None) -> None:
    """Put more into a pool."""
    async with transaction(db) as tx:
        await pools.fund_pool(tx, pool_id, amount, source=source, by=MANAGER, reason="more is there")


async def have_cap(db: Database, cap_id: str = "small", base_amount: int = 1000, pct: int = 10, **values: Any) -> None:
    """Have a ceiling on Playground and Fast Lane, on LUMI-G for the year: a percentage of a stated amount."""
    usual: dict[str, Any] = {
        "factory_id": "lumi-aif", "policy_version": "2025-12", "mode_group": "playground_and_fast_lane", "modes": (),
        "pool_kind": "union", "resource": GPU, "pct": 0, "base": "stated", "base_amount": base_amount, "ceiling": 0,
        "used": 0, "yields": False, "source": "", "account": 0, "revision": 0, "created_by": MANAGER,
        "created_at": START,
    }  # fmt: skip
    async with transaction(db) as tx:
        await pools.create_cap(
            tx,
            Cap(id=cap_id, **(usual | YEAR | values)),
            pct=pct,
            modes=values.get("modes", MODES),
            source="a test",
            yields=values.get("yields", False),
            reason="a new year",
        )


async def pool_now(db: Database, pool_id: str = "union-2026") -> tuple[int, int, int]:
    """(funded, passed on, available) of a pool."""
    async with db.acquire() as tx:
        pool = await store.find_pool(tx, pool_id)
    return pool.funded, pool.passed_on, pool.available


async def cap_now(db: Database, cap_id: str = "small") -> tuple[int, int, int]:
    """(ceiling, used, headroom) of a cap."""
    async with db.acquire() as tx:
        cap = await store.find_cap(tx, cap_id)
    return cap.ceiling, cap.used, cap.headroom
