"""What the demo checks at its end: all holds of a small whole made by hand, and each check sees its own fault."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from aifn_accounting.actions import usage
from aifn_accounting.settings import AccountingSettings
from aifn_common.database import Database, connect, transaction
from aifn_events.usage import UsageDayStated
from aifn_local import invariants
from aifn_local.invariants import Tables, check, digest_of

from tests.accounting.make import GPU, START, charge, close, grant, hold, know_machine, used
from tests.support.backends import Backends
from tests.support.settings import settings as make_settings

BALANCES = "every balance equals its postings, none below zero"
CHARGED_IS_REPORTED = "what was charged is the sum of unique usage records"
CHARGED_IS_MEASURED = "what was charged is what the sites measured"
SITE_DAYS = "every site-day's own statement agrees with what arrived"
FINAL = "every job that was taken has one final state"
SUM_IS_ZERO = "the ledger sums to zero in every resource"
NOTHING_HELD = "no budget is held when no job runs"
OUTBOX = "every outbox is empty"
DEAD_LETTERS = "no message was set aside"

JOB = """
INSERT INTO job (job_id, project_id, name, submitted_by, size_kind, size_count, walltime_seconds, script,
    software_stack, state, outcome, submitted_at, closed_at)
VALUES ($1, 'p1', 'n', 'mari', 'devices', 1, 60, '', 'any', 'closed', 'completed', $2, $2)"""
MEASURED = """
WITH p AS (INSERT INTO partition (partition_id, resource, units_per_node) VALUES ('lumi-g', $1, 64)),
     j AS (INSERT INTO job (job_id, project_id, partition_id, resource, local_user, nodes, slices, walltime_seconds,
               run_seconds, exit_code, submitted_at)
           VALUES ('j1', 'p1', 'lumi-g', $1, 'u', 1, 8, 60, 60, 0, $2) RETURNING local_job_id)
SELECT local_job_id FROM j"""
RECORD = """
INSERT INTO usage_record (local_job_id, submitted_at, segment, revision, resource, amount, day)
VALUES ($1, $2, 0, 0, $3, $4, $5)"""


@dataclass(frozen=True)
class Whole:
    """Three databases that belong together, and how many jobs were taken."""

    accounting: Database
    scheduler: Database
    siteagent: Database
    tables: Tables

    async def failing(self, *, taken: int = 1) -> set[str]:
        """The statements that do not hold."""
        return {one.statement for one in await check(self.tables, jobs_submitted=taken) if not one.holds}


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "UNSENT_SECONDS", 0.3)


@pytest.fixture
async def whole(backends: Backends) -> AsyncIterator[Whole]:
    """One job that used 600 of the 1,000 it had been held, reported, charged, stated and closed everywhere."""
    rooms = {"accounting": "aifn_accounting", "scheduler": "aifn_scheduler", "siteagent_lumi": "aifn_siteagent"}
    urls = {name: await backends.new_database(package) for name, package in rooms.items()}
    pools = [await connect(url, connections=2) for url in urls.values()]
    try:
        accounting, scheduler, siteagent = pools
        made = Whole(accounting, scheduler, siteagent, Tables(urls))
        await _tell(made)
        yield made
    finally:
        for pool in pools:
            pool.terminate()
        for url in urls.values():
            await backends.drop(url)


async def _tell(whole: Whole) -> None:
    settings = make_settings(AccountingSettings, pseudonym_key="a-key-for-tests-only")
    await know_machine(whole.accounting)
    await grant(whole.accounting)
    await hold(whole.accounting, amount=1000)
    record = used(amount=600, submitted_at=START + timedelta(microseconds=5))
    assert not await charge(whole.accounting, settings, record)
    await close(whole.accounting)
    day = record.ended_at.date()
    line = f"{record.local_job_id}|2026-11-21T09:00:00.000005Z|0|{record.revision}\n"
    digest = hashlib.sha256(line.encode()).hexdigest()
    stated = UsageDayStated.example(machine_id=record.machine_id, day=day, records=1, digest=digest)
    async with transaction(whole.accounting) as tx:
        await usage.state_usage_day(tx, stated)
    await whole.accounting.execute("DELETE FROM outbox")
    await whole.scheduler.execute(JOB, "j1", START)
    local = await whole.siteagent.fetchval(MEASURED, GPU, START)
    await whole.siteagent.execute(RECORD, local, START, GPU, 600, day)


async def tamper(db: Database, statement: str) -> None:
    """Change what the database itself would refuse to have changed."""
    async with transaction(db) as tx:
        await tx.execute("SET LOCAL session_replication_role = replica")
        await tx.execute(statement)


async def test_every_check_holds_of_a_whole_that_is_in_order_and_says_by_which_numbers(whole: Whole) -> None:
    checks = {one.statement: one for one in await check(whole.tables, jobs_submitted=1)}
    assert [one for one in checks.values() if not one.holds] == []
    assert set(checks) == {
        BALANCES,
        CHARGED_IS_REPORTED,
        CHARGED_IS_MEASURED,
        SITE_DAYS,
        FINAL,
        SUM_IS_ZERO,
        NOTHING_HELD,
        OUTBOX,
        DEAD_LETTERS,
    }
    assert checks[CHARGED_IS_REPORTED].numbers == "1 records, 600 slice-seconds"
    assert checks[OUTBOX].numbers == "3 databases"
    assert await whole.tables.quiet()
    assert await whole.tables.job_counts() == {"completed": 1}


async def test_a_posting_between_two_resources_breaks_the_sum(whole: Whole) -> None:
    await tamper(
        whole.accounting,
        """
        WITH other AS (INSERT INTO account (owner, role, resource) VALUES ('x', 'union_pool', 'a/b/c') RETURNING id)
        INSERT INTO ledger_transfer (allocation_number, kind, source, target, resource, amount, recorded_at)
        SELECT 1, 'grant', other.id, pool.id, pool.resource, 7, now()
        FROM other, account pool WHERE pool.role = 'union_pool' AND pool.resource <> 'a/b/c'""",
    )
    assert await whole.failing() == {SUM_IS_ZERO}


async def test_a_balance_that_is_not_that_of_its_postings_is_seen(whole: Whole) -> None:
    await tamper(
        whole.accounting,
        """
        INSERT INTO ledger_transfer (allocation_number, kind, source, target, resource, amount, recorded_at)
        SELECT number, 'refund', consumed_account, available_account, resource, 1, now() FROM allocation""",
    )
    assert await whole.failing() == {BALANCES}


async def test_a_charge_without_usage_is_seen_though_the_books_are_in_order(whole: Whole) -> None:
    await tamper(
        whole.accounting,
        """
        WITH a AS (UPDATE allocation SET available = available - 1, charged = charged + 1 RETURNING *)
        INSERT INTO ledger_transfer (allocation_number, kind, source, target, resource, amount, recorded_at)
        SELECT number, 'charge', available_account, consumed_account, resource, 1, now() FROM a""",
    )
    assert await whole.failing() == {CHARGED_IS_REPORTED, CHARGED_IS_MEASURED}


async def test_a_usage_record_that_was_lost_after_its_charge_is_seen(whole: Whole) -> None:
    await tamper(whole.accounting, "DELETE FROM usage_record")
    assert await whole.failing() == {CHARGED_IS_REPORTED, SITE_DAYS}


async def test_a_usage_record_that_never_arrived_is_seen_by_what_its_site_measured(whole: Whole) -> None:
    await whole.siteagent.execute(
        "INSERT INTO usage_record SELECT local_job_id, submitted_at, 1, 0, resource, 30, day FROM usage_record"
    )
    assert await whole.failing() == {CHARGED_IS_MEASURED}


async def test_a_digest_of_other_records_is_seen(whole: Whole) -> None:
    await whole.accounting.execute("UPDATE usage_day SET digest = repeat('0', 64)")
    assert await whole.failing() == {SITE_DAYS}


async def test_a_site_day_of_which_nothing_was_stated_is_seen(whole: Whole) -> None:
    await whole.accounting.execute("DELETE FROM usage_day")
    assert await whole.failing() == {SITE_DAYS}
    assert not await whole.tables.quiet()


async def test_budget_still_held_is_seen_and_is_not_quiet(whole: Whole) -> None:
    await hold(whole.accounting, "j2", 10)
    await whole.accounting.execute("DELETE FROM outbox")
    assert await whole.failing() == {NOTHING_HELD}
    assert not await whole.tables.quiet()


@pytest.mark.parametrize("database", ["accounting", "scheduler", "siteagent"])
async def test_a_message_left_in_any_outbox_is_seen_and_is_not_quiet(whole: Whole, database: str) -> None:
    db: Database = getattr(whole, database)
    await db.execute("INSERT INTO outbox (event_id, topic, time) VALUES ('1', 'aifn-x-v1', now())")
    assert not await whole.tables.quiet()
    assert await whole.failing() == {OUTBOX}


async def test_a_message_that_is_only_passing_through_an_outbox_is_no_fault(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invariants, "UNSENT_SECONDS", 10)
    add = "INSERT INTO outbox (event_id, topic, time) VALUES ('x', 'aifn-x-v1', now())"
    await whole.siteagent.execute(add)
    enough = asyncio.Event()

    async def relay() -> None:
        while not enough.is_set():
            await whole.siteagent.execute(add)
            await asyncio.sleep(0.05)
            await whole.siteagent.execute("DELETE FROM outbox WHERE seq < (SELECT max(seq) FROM outbox)")

    relaying = asyncio.create_task(relay())
    assert await whole.failing() == set()
    enough.set()
    await relaying
    assert await whole.siteagent.fetchval("SELECT count(*) FROM outbox") == 1  # there was always one


@pytest.mark.parametrize("database", ["accounting", "scheduler", "siteagent"])
async def test_a_dead_letter_in_any_database_is_seen(whole: Whole, database: str) -> None:
    db: Database = getattr(whole, database)
    await db.execute(
        """
        INSERT INTO dead_letter (consumer, topic, partition, "offset", raw_headers, code, reason, details)
        VALUES ('c', 't', 0, 0, '[]', 'malformed', 'no JSON', '{}')"""
    )
    assert await whole.failing() == {DEAD_LETTERS}


async def test_a_job_that_is_not_closed_is_seen_and_is_not_quiet(whole: Whole) -> None:
    await whole.scheduler.execute(JOB, "j2", START)
    assert await whole.failing(taken=2) == set()
    await tamper(
        whole.scheduler, "UPDATE job SET state = 'queued', outcome = NULL, closed_at = NULL WHERE job_id = 'j2'"
    )
    assert await whole.failing(taken=2) == {FINAL}
    assert not await whole.tables.quiet()


async def test_a_job_that_was_taken_and_is_not_there_is_seen(whole: Whole) -> None:
    assert await whole.failing(taken=2) == {FINAL}


def test_the_digest_is_worded_as_the_contract_says_in_any_order() -> None:
    first = {"local_job_id": "4711", "submitted": "2026-11-21T09:00:01", "micros": 0, "segment": 0, "revision": 0}
    second = {"local_job_id": "4712", "submitted": "2026-11-21T09:00:01", "micros": 120, "segment": 1, "revision": 2}
    lines = b"4711|2026-11-21T09:00:01Z|0|0\n4712|2026-11-21T09:00:01.000120Z|1|2\n"
    assert digest_of([second, first]) == digest_of([first, second]) == hashlib.sha256(lines).hexdigest()
    assert digest_of([]) == hashlib.sha256(b"").hexdigest()
