"""The journal is sealed a moment after it was written, and no old row can be touched unnoticed."""

import asyncio
import random

import pytest
from aifn_accounting.actions.journal import seal
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import journal, reads
from aifn_common.database import Database, Transaction, transaction

from tests.accounting.make import broken_checks, charge, grant, hold, used
from tests.support.http import Asker

_MOVE = """
INSERT INTO ledger_transfer (allocation_number, kind, source, target, resource, amount, recorded_at)
VALUES (0, 'transfer', $1, $2, 'x/y/z', $3, '2026-11-21T12:00:00Z')"""


async def two_accounts(db: Database) -> tuple[int, int]:
    rows = await db.fetch(
        "INSERT INTO account (owner, role, resource) VALUES ('a', 'funder', 'x/y/z'), ('b', 'clearing', 'x/y/z')"
        " RETURNING id"
    )
    return rows[0]["id"], rows[1]["id"]


async def chain(db: Database) -> journal.Chain:
    async with transaction(db) as tx:
        return await journal.check(tx)


async def move(tx: Transaction, accounts: tuple[int, int], amount: int = 1) -> None:
    await tx.execute(_MOVE, *accounts, amount)


async def test_a_row_that_is_committed_after_higher_ones_is_sealed_with_them_and_never_too_late(db: Database) -> None:
    accounts = await two_accounts(db)
    async with db.acquire() as slow:
        late = slow.transaction()
        await late.start()
        await move(slow, accounts)
        async with transaction(db) as tx:
            await move(tx, accounts)
        assert await db.fetchval("SELECT min(id) FROM ledger_transfer") == 2
        assert await seal(db, patience_seconds=0.2) == 0
        await late.commit()
    assert await seal(db) == 1
    found = await chain(db)
    assert (found.last.transfers, found.broken) == (2, None)
    assert await db.fetchval("SELECT covered FROM journal_seal") == 2
    assert await seal(db) == 0


async def test_whoever_writes_while_others_seal_the_chain_holds(db: Database) -> None:
    accounts, chance = await two_accounts(db), random.Random(5)
    writing = True

    async def write(pauses: list[float]) -> None:
        for pause in pauses:
            async with transaction(db) as tx:
                await move(tx, accounts)
                await asyncio.sleep(pause)
                await move(tx, accounts)

    async def seal_on() -> None:
        while writing:
            await seal(db)
            await asyncio.sleep(0.002)

    sealing = [asyncio.create_task(seal_on()) for _ in range(2)]
    await asyncio.gather(*(write([chance.random() * 0.015 for _ in range(12)]) for _ in range(8)))
    writing = False
    await asyncio.gather(*sealing)
    await seal(db)
    assert (await chain(db)).last.transfers == 2 * 8 * 12
    assert (await chain(db)).broken is None
    assert await db.fetchval("SELECT sum(covered) FROM journal_seal") == 2 * 8 * 12


TAMPERED = [
    ("UPDATE ledger_transfer SET amount = amount + 1 WHERE id = 3", 2),
    ("UPDATE ledger_transfer SET job_id = 'another' WHERE id = 4", 2),
    ("DELETE FROM ledger_transfer WHERE id = 3", 2),
    (
        "INSERT INTO ledger_transfer OVERRIDING SYSTEM VALUE SELECT -1, allocation_number, kind, source, target,"
        " resource, amount, job_id, usage_number, recorded_at FROM ledger_transfer WHERE id = 1",
        1,
    ),
    ("UPDATE usage_record SET charged = charged + 1 WHERE number = 5", 3),
    ("UPDATE usage_record SET project_id = 'another' WHERE number = 1", 1),
    ("DELETE FROM usage_record WHERE number = 5", 3),
    ("INSERT INTO further_charge VALUES (1, 1, 5, 'as-reported', 3)", 2),
    ("UPDATE journal_seal SET digest = sha256('') WHERE number = 2", 2),
    ("DELETE FROM journal_seal WHERE number = 2", 3),
]


async def test_an_old_row_that_is_changed_removed_or_inserted_is_found_and_the_first_seal_named(
    db: Database, settings: AccountingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "AT_ONCE", 2)
    await grant(db)
    await hold(db)
    await charge(db, settings, *(used(f"j{place}") for place in range(6)))
    await seal(db)
    whole = await chain(db)
    assert whole.broken is None
    assert whole.seals >= 3
    found: list[int | None] = []
    for how, expected in TAMPERED:
        async with db.acquire() as tx:
            undone = tx.transaction()
            await undone.start()
            await tx.execute("SET LOCAL session_replication_role = replica")  # triggers and foreign keys are silent
            assert await tx.execute(how) in ("UPDATE 1", "DELETE 1", "INSERT 0 1")
            found.append((await journal.check(tx)).broken)
            if "journal_seal" not in how:
                (check,) = [one for one in await reads.verify(tx) if one.resource == "journal"]
                assert f"seal {expected} is the first that is not" in check.name
                assert (check.differing, check.found) == (1, expected - 1)
            await undone.rollback()
    assert found == [first for _, first in TAMPERED]
    assert await chain(db) == whole


async def test_verify_says_up_to_which_seal_the_journal_holds_and_what_that_seal_is(
    db: Database, settings: AccountingSettings, ask: Asker
) -> None:
    await grant(db)
    await seal(db)
    last = (await chain(db)).last
    answer = (await ask.as_("auditor").get("/v1/ledger/verify")).json()
    (shown,) = [one for one in answer["checks"] if one["resource"] == "journal"]
    assert answer["passed"]
    assert shown["check"].endswith(f"seal {last.number} is {last.digest.hex()}")
    assert await broken_checks(db) == []
