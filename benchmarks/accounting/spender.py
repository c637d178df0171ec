"""Asks for budget again and again, as a process: `python -m benchmarks.accounting.spender URL FIRST COUNT CONNECTIONS`.

Each attempt is the action that a placed job brings about, in a transaction of its own.
"""

import asyncio
import sys
from datetime import UTC, datetime

import uvloop
from aifn_accounting.actions import budget
from aifn_common.database import Database, connect, transaction
from aifn_common.service import calm_garbage_collection
from aifn_events.placement import JobPlaced

ALLOCATIONS = 200
ASKED = 1_000
GPU = "lumi/lumi-g/gpu-time"
START = datetime(2026, 1, 1, tzinfo=UTC)


def placed(number: int) -> JobPlaced:
    """The attempt with this number: neighbours ask the same allocation at the same moment."""
    return JobPlaced(
        id=f"spend-{number}",
        source="urn:aifn:bench",
        time=START,
        project_id=f"s{number // 16 % ALLOCATIONS}",
        job_id=f"spend-{number}",
        revision=0,
        machine_id="lumi",
        partition_id="lumi-g",
        resource=GPU,
        amount=ASKED,
        starts_at=START,
    )


async def _spend(db: Database, first: int, count: int, connections: int) -> None:
    numbers = iter(range(first, first + count))

    async def one_connection() -> None:
        for number in numbers:
            async with transaction(db) as tx:
                await budget.hold_budget(tx, placed(number))

    await asyncio.gather(*(one_connection() for _ in range(connections)))


async def _run(url: str, first: int, count: int, connections: int) -> None:
    db = await connect(url, connections=connections)
    await _spend(db, first, count, connections)
    await db.close()


if __name__ == "__main__":
    calm_garbage_collection()
    uvloop.run(_run(sys.argv[1], *map(int, sys.argv[2:5])))
