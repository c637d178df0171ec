"""What usage does to the books, on a real database: charges, releases, days, and what must stay true."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable

import asyncpg
import pytest
from aifn_accounting.actions import usage
from aifn_accounting.actions.usage import Pseudonyms
from aifn_accounting.domain.usage import NoRate
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import reads
from aifn_accounting.store import usage as usage_store
from aifn_common.database import Database, Transaction, transaction
from aifn_common.errors import Stale
from aifn_events.placement import BudgetReleased
from aifn_events.usage import UsageCharged, UsageDayStated
from pydantic_core import from_json

from tests.accounting.make import (
    CPU,
    GPU,
    GRANTED,
    HOUR,
    START,
    announced,
    balances,
    broken_checks,
    charge,
    close,
    grant,
    hold,
    hours,
    know_machine,
    standing,
    used,
)

# Charges


async def test_usage_is_charged_to_the_hold_and_said(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    await hold(db, amount=1000)
    assert await charge(db, settings, used(amount=600)) == []
    assert await balances(db) == (GRANTED - 1000, 400, 600, 0)
    [row] = await announced(db, UsageCharged.topic)
    said = UsageCharged.model_validate_json(row["value"])
    one = await standing(db)
    assert (
        said.model_dump()
        == UsageCharged.example(
            local_job_id="local-j1",
            submitted_at=START,
            job_id="j1",
            project_id="p1",
            allocation_id=one.id,
            amount=600,
            ended_at=START + hours(1),
            user=Pseudonyms("a-key-for-tests-only").of("mmeikalainen"),
        ).model_dump()
    )
    assert (row["key"], row["topic"]) == (b"p1", "aifn-usage-charged-v1")
    assert "mmeikalainen" not in row["value"].decode()
    assert await broken_checks(db) == []


async def test_what_is_said_of_a_charge_is_the_event_whatever_its_texts_hold(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    odd = 'a"b\\c{}\u2028ü\n'
    moment = START.replace(microsecond=120_000)
    await charge(db, settings, used(local_job_id=odd, submitted_at=moment))
    [row] = await announced(db, UsageCharged.topic)
    said = UsageCharged.model_validate_json(row["value"])
    assert (said.local_job_id, said.submitted_at) == (odd, moment)
    assert list(from_json(row["value"])) == list(from_json(said.model_dump_json()))
    assert said.model_dump_json().count("Z") == row["value"].count(b"Z") == 2


async def test_people_have_one_pseudonym_each_and_another_key_gives_others() -> None:
    one = Pseudonyms("key-number-one-xx")
    assert one.of("mari") == one.of("mari") != one.of("matti")
    assert one.of("mari") != Pseudonyms("key-number-two-xx").of("mari")
    assert one.of("mari").startswith("u-")
    assert len(one.of("mari")) == 18


async def test_usage_beyond_hold_and_grant_is_an_overrun_that_a_correction_pays_back(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, amount=1000)
    await hold(db, amount=400)
    await charge(db, settings, used(amount=1300))
    assert await balances(db) == (0, 0, 1300, 300)
    await charge(db, settings, used(amount=900, revision=1))
    assert await balances(db) == (100, 0, 900, 0)
    await charge(db, settings, used(amount=100, revision=2))
    assert await balances(db) == (600, 300, 100, 0)
    assert await broken_checks(db) == []


async def test_a_hold_of_another_job_is_never_spent(db: Database, settings: AccountingSettings) -> None:
    await grant(db, amount=1000)
    await hold(db, "j2", 400)
    await charge(db, settings, used(amount=900))
    assert await balances(db) == (0, 400, 900, 300)
    assert await broken_checks(db) == []


async def test_a_batch_with_bad_records_charges_the_good_ones(db: Database, settings: AccountingSettings) -> None:
    await know_machine(db)
    await grant(db)
    await charge(db, settings, used("known", 5))
    bad = {
        "ends_before_start": used("b1", ended_at=START - hours(1)),
        "from_the_future": used("b2", ended_at=START + hours(30)),
        "wrong_resource": used("b5", {CPU: 5}),
        "absurd_amount": used("b6", 64 * HOUR * 2),
        "conflicting_usage": used("known", 6),
    }
    too_wide = used("b7", nodes=2979)
    [refused] = await charge(db, settings, too_wide)
    assert (refused.event, refused.refusal.details) == (too_wide, {"amount": 2979, "limit": 2978})
    rejected = await charge(db, settings, used("good", 7), *bad.values(), used("better", 8), used("known", 5))
    assert {one.refusal.code: one.event for one in rejected} == bad
    assert await balances(db) == (GRANTED - 20, 0, 20, 0)
    assert await db.fetchval("SELECT count(*) FROM usage_record") == 3
    assert await broken_checks(db) == []


async def test_a_batch_of_bad_records_only_changes_nothing(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    for bad in (used(ended_at=START - hours(1)), used(amounts={CPU: 5})):
        assert len(await charge(db, settings, bad)) == 1
    assert await db.fetchval("SELECT count(*) FROM usage_record") == 0
    assert await announced(db, UsageCharged.topic) == []


async def test_a_record_may_cost_several_resources_and_a_correction_may_drop_one(
    db: Database, settings: AccountingSettings
) -> None:
    other = "lumi/lumi-g/storage"
    await grant(db)
    await grant(db, award_id="award-2", resource=other)
    await charge(db, settings, used(amount={GPU: 10, other: 20}))
    await charge(db, settings, used(amount={GPU: 15}, revision=1))
    rows = await db.fetch("SELECT resource, charged FROM allocation ORDER BY number")
    assert [tuple(row) for row in rows] == [(GPU, 15), (other, 0)]
    said = [UsageCharged.model_validate_json(row["value"]) for row in await announced(db, UsageCharged.topic)]
    assert {(one.revision, one.resource, one.amount) for one in said[2:]} == {(1, GPU, 15), (1, other, 0)}
    assert await broken_checks(db) == []


async def test_a_correction_may_move_a_record_to_another_project_and_job(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await grant(db, "p2")
    await hold(db, "j1", 1000)
    await hold(db, "j2", 1000, "p2")
    await charge(db, settings, used("j1", 600))
    await charge(db, settings, used("j2", 500, "p2", local_job_id="local-j1", revision=1))
    assert await balances(db) == (GRANTED - 1000, 1000, 0, 0)
    assert await balances(db, "p2") == (GRANTED - 1000, 500, 500, 0)
    said = [UsageCharged.model_validate_json(row["value"]) for row in await announced(db, UsageCharged.topic)]
    assert Counter((one.project_id, one.amount) for one in said) == Counter([("p1", 600), ("p1", 0), ("p2", 500)])
    assert await broken_checks(db) == []


async def test_a_rate_card_decides_what_is_charged(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    await db.execute("INSERT INTO rate_card VALUES ('idle-gpus', $1, 3, 2, $2, NULL)", GPU, START)
    await charge(db, settings, used(amount=101))
    assert (await standing(db)).charged == 152
    said = UsageCharged.model_validate_json((await announced(db, UsageCharged.topic))[0]["value"])
    assert (said.rate_card, said.amount) == ("idle-gpus", 152)
    assert await db.fetchval("SELECT amounts->>$1 FROM usage_record", GPU) == "101"
    assert await broken_checks(db) == []


async def test_a_gap_in_the_rate_cards_is_what_is_raised_and_nothing_is_kept(
    db: Database, settings: AccountingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_records = usage_store.add_records

    async def add_slowly(tx: Transaction, rows: Iterable[bytes]) -> None:
        await tx.execute("SELECT pg_sleep(0.2)")
        await add_records(tx, rows)

    monkeypatch.setattr(usage_store, "add_records", add_slowly)
    await grant(db)
    await db.execute("ALTER TABLE rate_card DISABLE TRIGGER ALL; DELETE FROM rate_card")
    with pytest.raises(NoRate):
        await charge(db, settings, used())
    assert await db.fetchval("SELECT count(*) FROM usage_record") == 0
    await db.execute("INSERT INTO rate_card VALUES ('as-reported', '*', 1, 1, $1, NULL)", START)
    assert await charge(db, settings, used(amount=600)) == []
    assert (await standing(db)).charged == 600


# Release


@pytest.mark.parametrize("order", list(itertools.permutations(["first", "second", "closed"])))
async def test_the_rest_of_a_hold_goes_back_once_in_every_order_of_usage_and_end(
    db: Database, settings: AccountingSettings, order: tuple[str, ...]
) -> None:
    await grant(db)
    await hold(db, amount=1000)
    for what in order:
        assert await announced(db, BudgetReleased.topic) == []
        if what == "closed":
            await close(db, segments=2)
        else:
            await charge(db, settings, used(amount=300, segment=int(what == "second")))
    assert await balances(db) == (GRANTED - 600, 0, 600, 0)
    [row] = await announced(db, BudgetReleased.topic)
    assert BudgetReleased.model_validate_json(row["value"]).released == 400
    assert await broken_checks(db) == []


async def test_a_job_that_never_ran_gives_all_back_at_once(db: Database) -> None:
    await grant(db)
    await hold(db, amount=1000)
    await close(db, segments=0)
    await close(db, segments=0)
    assert await balances(db) == (GRANTED, 0, 0, 0)
    assert len(await announced(db, BudgetReleased.topic)) == 1


async def test_a_copy_of_a_segment_does_not_stand_for_the_one_that_is_missing(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await hold(db, amount=1000)
    await close(db, segments=2)
    await charge(db, settings, used(amount=300), used(amount=300), used(amount=310, revision=1))
    assert await balances(db) == (GRANTED - 1000, 690, 310, 0)


async def test_usage_that_comes_after_the_release_is_charged_to_the_rest(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await hold(db, amount=1000)
    await close(db, segments=0)
    await charge(db, settings, used(amount=300))
    assert await balances(db) == (GRANTED - 300, 0, 300, 0)
    assert await broken_checks(db) == []


async def test_many_jobs_are_released_by_one_batch(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    for number in range(20):
        await hold(db, f"j{number}", 100)
        await close(db, f"j{number}", 1)
    await charge(db, settings, *(used(f"j{number}", 40) for number in range(20)))
    assert await balances(db) == (GRANTED - 800, 0, 800, 0)
    assert len(await announced(db, BudgetReleased.topic)) == 20
    assert await broken_checks(db) == []


async def test_the_end_of_a_job_nobody_placed_is_only_remembered(db: Database) -> None:
    await grant(db)
    await close(db, "unheard-of")
    assert await announced(db, BudgetReleased.topic) == []
    assert await broken_checks(db) == []


# Days


async def test_an_older_word_on_a_day_is_refused(db: Database) -> None:
    async with transaction(db) as tx:
        await usage.state_usage_day(tx, UsageDayStated.example(revision=2, records=7))
    with pytest.raises(Stale):
        async with transaction(db) as tx:
            await usage.state_usage_day(tx, UsageDayStated.example(revision=1, records=6))
    assert await db.fetchval("SELECT records FROM usage_day") == 7


# What the database itself refuses


@pytest.mark.parametrize("table", ["ledger_transfer", "usage_record", "further_charge", "account"])
@pytest.mark.parametrize("words", ["DELETE FROM {}", "UPDATE {} SET resource = 'x'", "TRUNCATE {} CASCADE"])
async def test_nothing_that_was_written_into_the_books_can_be_changed(
    db: Database, settings: AccountingSettings, table: str, words: str
) -> None:
    await grant(db)
    await charge(db, settings, used())
    a_column = {"usage_record": "job_id", "further_charge": "rate_card"}.get(table, "resource")
    words = words.replace("resource", a_column)
    with pytest.raises(asyncpg.RestrictViolationError):
        await db.execute(words.format(table))


async def test_a_transfer_between_accounts_of_different_resources_is_refused(db: Database) -> None:
    await grant(db)
    await grant(db, award_id="award-2", resource=CPU)
    gpu, cpu = await db.fetch("SELECT available_account AS id FROM allocation ORDER BY number")
    with pytest.raises(asyncpg.CheckViolationError, match="does not hold"):
        await db.execute(
            "INSERT INTO ledger_transfer (allocation_number, kind, source, target, resource, amount, recorded_at)"
            " VALUES (1, 'charge', $1, $2, $3, 1, now())",
            gpu["id"],
            cpu["id"],
            GPU,
        )


@pytest.mark.parametrize(
    "change",
    [
        "available = available + 1",
        "available = available - granted - 1, held = held + granted + 1",
        "charged = charged + granted, overrun = overrun + granted",
        "held = held - 1, available = available + 1",
    ],
)
async def test_balances_that_cannot_be_are_refused_by_the_database(db: Database, change: str) -> None:
    await grant(db)
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute(f"UPDATE allocation SET {change}")


async def test_a_book_that_was_tampered_with_is_found_out(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    await hold(db)
    await charge(db, settings, used())
    assert await broken_checks(db) == []
    await db.execute("UPDATE allocation SET charged = charged - 100, available = available + 100")
    names = {one.name for one in await broken_checks(db)}
    assert names == {
        "available is the sum of its postings",
        "charged is the sum of its postings",
        "charged is the sum of unique usage records",
    }
    await db.execute("UPDATE job_budget SET amount = amount + 1")
    assert "held is the sum of what jobs hold" in {one.name for one in await broken_checks(db)}


async def test_numbers_of_usage_follow_the_order_of_commits(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    seen: list[int] = []

    async def follow() -> None:
        while len(seen) < 40:
            async with db.acquire() as tx:
                after = (seen[-1], 10**9) if seen else (0, 0)
                new = await reads.list_charges(
                    tx, everything=True, projects=[], factories=[], project_id=None, after=after, limit=7
                )
            seen.extend(one.usage_number for one in new)

    batches = [charge(db, settings, *(used(f"j{n}", 1) for n in range(b, b + 4))) for b in range(0, 40, 4)]
    async with asyncio.timeout(30):
        await asyncio.gather(follow(), *batches)
    assert sorted(seen) == seen == sorted(row["number"] for row in await db.fetch("SELECT number FROM usage_record"))


async def test_the_last_number_is_found_by_index_by_a_connection_that_is_older_than_the_records(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await db.execute("VACUUM ANALYZE usage_record, further_charge")  # now the planner knows that they are empty

    async def scans(tx: Transaction) -> int:
        await tx.execute("SELECT pg_stat_force_next_flush()")
        return int(await tx.fetchval("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'usage_record'"))

    async with db.acquire() as tx:
        assert await usage_store.last_number(tx) == 0
        await charge(db, settings, *(used(f"j{number}", 1) for number in range(3000)))
        before = await scans(tx)
        for _ in range(10):
            assert await usage_store.last_number(tx) == 3000
        assert await scans(tx) == before
