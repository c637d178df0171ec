"""Attempts to spend what is nearly gone, from many connections at once: no allocation is ever overdrawn."""

import contextlib
import os
import sys
import time
from datetime import timedelta

import uvloop
from aifn_accounting.actions import grants
from aifn_accounting.store import ledger, reads
from aifn_common.database import connect, transaction
from aifn_local.stack_state import StackState

from benchmarks import usage
from benchmarks.accounting.programs import burnt, program
from benchmarks.accounting.spender import ALLOCATIONS, ASKED, GPU, START
from benchmarks.figures import Figure, compare

ATTEMPTS = int(os.environ.get("AIFN_BENCH_ATTEMPTS", "100000"))
PROCESSES = 2
CONNECTIONS = 32
FIT = 5
_FOUND = """
SELECT count(*) FILTER (WHERE available < 0 OR held + charged > granted OR held > $1) AS overdrawn, sum(held) AS held
FROM allocation"""


def measure(state: StackState) -> list[Figure]:
    """Attempts a second. Raises RuntimeError if one allocation is overdrawn, or one attempt got no answer."""
    url = usage.url_of(state.postgres_url, "bench_spend")
    uvloop.run(_prepare(state))
    share = ATTEMPTS // PROCESSES
    began, before = time.perf_counter(), burnt(state.postgres.pid) if state.postgres.pid else 0.0
    with contextlib.ExitStack() as stack:
        words = [sys.executable, "-m", "benchmarks.accounting.spender", url]
        running = [
            stack.enter_context(
                program(
                    [*words, str(number * share), str(share), str(CONNECTIONS)],
                    name=f"spender-{number}",
                    probe=None,
                    environment={},
                )
            )
            for number in range(PROCESSES)
        ]
        for one in running:
            if one.process.wait():
                raise RuntimeError("spending failed: see build/bench/logs")
    took = time.perf_counter() - began
    server = (burnt(state.postgres.pid) if state.postgres.pid else 0.0) - before
    overdrawn = uvloop.run(_check(state, PROCESSES * share))
    print(
        f"spend: {PROCESSES * share:,} attempts from {PROCESSES * CONNECTIONS} connections on {ALLOCATIONS} allocations"
        f" with room for {FIT} each: {PROCESSES * share / took:,.0f} attempts/s, {overdrawn} overdrawn; PostgreSQL"
        f" {server / (PROCESSES * share) * 1e6:.0f} µs for an attempt"
    )
    return [
        compare("spend attempts", PROCESSES * share / took, "attempts/s", "attempts", PROCESSES * share),
        compare("allocations overdrawn", overdrawn, "allocations", "allocations", ALLOCATIONS),
    ]


async def _prepare(state: StackState) -> None:
    db = await usage.new_database(state.postgres_url, "bench_spend")
    async with transaction(db) as tx:
        for number in range(ALLOCATIONS):
            await ledger.add_project(tx, f"s{number}", "A project", "lumi-aif", by="bench", at=START)
            await grants.open_allocation(
                tx,
                f"s{number}",
                GPU,
                amount=FIT * ASKED + ASKED // 2,
                pool="union",
                starts_at=START,
                ends_at=START + timedelta(days=1000),
                award_id=None,
                reason="benchmark",
                by="bench",
            )
    await db.close()


async def _check(state: StackState, attempts: int) -> int:
    """How many allocations are overdrawn: none. Raises RuntimeError."""
    db = await connect(usage.url_of(state.postgres_url, "bench_spend"), connections=2)
    try:
        found = await db.fetchrow(_FOUND, FIT * ASKED)
        answered = await db.fetchval("SELECT count(*) FROM job_budget")
        async with db.acquire() as tx:
            broken = [one for one in await reads.verify(tx) if one.differing]
    finally:
        await db.close()
    assert found is not None
    enough = attempts >= ALLOCATIONS * 16 * FIT
    if found["overdrawn"] or broken or answered != attempts or (enough and found["held"] != ALLOCATIONS * FIT * ASKED):
        raise RuntimeError(f"overdrawn {found['overdrawn']}, held {found['held']}, {answered} answers, broken {broken}")
    return int(found["overdrawn"])
