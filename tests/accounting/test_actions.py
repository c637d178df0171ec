"""What accounting does, on a real database: awards, holds, charges, releases, and what must stay true."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable

import asyncpg
import pytest
from aifn_accounting.actions import projects, usage
from aifn_accounting.actions.usage import Pseudonyms
from aifn_accounting.domain.ledger import LARGEST_AMOUNT, AbsurdAmount
from aifn_accounting.domain.usage import NoRate
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import reads
from aifn_accounting.store import usage as usage_store
from aifn_common.database import Database, Transaction, transaction
from aifn_common.errors import Stale
from aifn_events.access import AllocationOpened, ProjectDescribed
from aifn_events.placement import BudgetHeld, BudgetRefused, BudgetReleased
from aifn_events.registry import MachineDescribed
from aifn_events.usage import UsageCharged, UsageDayStated
from pydantic_core import from_json

from tests.accounting.make import (
    CPU,
    GPU,
    GRANTED,
    HOUR,
    START,
    announced,
    award,
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


async def refusals(db: Database) -> list[tuple[str, int]]:
    """Why budget was refused, and how much there was."""
    found = [BudgetRefused.model_validate_json(row["value"]) for row in await announced(db, BudgetRefused.topic)]
    return [(one.reason, one.available) for one in found]


# Machines


async def test_an_older_word_on_a_machine_is_refused_and_the_same_again_changes_nothing(db: Database) -> None:
    stored = "SELECT id, revision, factory_ids FROM resource"
    await know_machine(db, revision=3)
    await know_machine(db, revision=3, factory_ids=["bsc-aif"])
    added = MachineDescribed.example().partitions[0].model_dump() | {"partition_id": "lumi-c", "resource": CPU}
    with pytest.raises(Stale):
        await know_machine(db, revision=2, partitions=[added])
    assert [tuple(row) for row in await db.fetch(stored)] == [(GPU, 3, ["lumi-aif"])]
    await know_machine(db, revision=4, factory_ids=["bsc-aif"])
    assert [tuple(row) for row in await db.fetch(stored)] == [(GPU, 4, ["bsc-aif"])]


# Awards


async def test_an_award_opens_a_project_with_its_pi_and_one_allocation_per_resource(db: Database) -> None:
    line = {"machine_id": "lumi", "partition_id": "lumi-c", "resource": CPU, "amount": 5}
    event = award(lines=[line, award().lines[0].model_dump(), line])
    async with transaction(db) as tx:
        await projects.open_project_from_award(tx, event)

    described, *opened = await announced(db)
    project = ProjectDescribed.model_validate_json(described["value"])
    assert (project.project_id, project.revision) == ("p1", 0)
    assert [(one.subject, one.role) for one in project.members] == [(event.principal_investigator, "pi")]
    allocations = [AllocationOpened.model_validate_json(row["value"]) for row in opened]
    assert {(one.resource, one.amount, one.pool) for one in allocations} == {
        (GPU, GRANTED, "union"),
        (CPU, 10, "union"),
    }
    assert await db.fetchval("SELECT role FROM membership WHERE project_id = 'p1'") == "pi"
    assert await broken_checks(db) == []


async def test_a_second_award_to_an_application_adds_to_its_project_and_the_same_one_again_is_refused(
    db: Database,
) -> None:
    await grant(db)
    await grant(db, award_id="award-2")
    assert await db.fetchval("SELECT count(*) FROM allocation WHERE project_id = 'p1'") == 2
    assert await db.fetchval("SELECT revision FROM project") == 0
    with pytest.raises(projects.DuplicateAward):
        await grant(db, award_id="award-2")
    assert await db.fetchval("SELECT sum(granted) FROM allocation") == 2 * GRANTED


async def test_another_pi_in_a_second_award_joins_the_project(db: Database) -> None:
    await grant(db)
    await grant(db, award_id="award-2", principal_investigator="second@example")
    assert await db.fetchval("SELECT count(*) FROM membership WHERE project_id = 'p1'") == 2
    last = ProjectDescribed.model_validate_json((await announced(db, ProjectDescribed.topic))[-1]["value"])
    assert (last.revision, len(last.members)) == (1, 2)


async def test_an_award_does_not_enter_a_project_that_was_made_for_another_application(db: Database) -> None:
    await grant(db)
    with pytest.raises(projects.DuplicateProject):
        await grant(db, award_id="award-2", application_id="app-2", principal_investigator="second@example")
    with pytest.raises(projects.DuplicateAward):
        await grant(db, application_id="app-2")
    assert await db.fetchval("SELECT count(*) FROM award") == 1
    assert await db.fetchval("SELECT count(*) FROM membership WHERE project_id = 'p1'") == 1
    assert await balances(db) == (GRANTED, 0, 0, 0)


async def test_an_award_does_not_enter_a_project_that_a_manager_made(db: Database) -> None:
    async with transaction(db) as tx:
        await projects.create_project(
            tx,
            project_id="p1",
            title="Weather",
            factory_id="lumi-aif",
            principal_investigator="first@example",
            by="manager@example",
        )
    with pytest.raises(projects.DuplicateProject):
        await grant(db)
    assert await db.fetchval("SELECT count(*) FROM allocation") == 0
    assert [row["subject"] for row in await db.fetch("SELECT subject FROM membership")] == ["first@example"]


async def test_an_absurd_award_changes_nothing(db: Database) -> None:
    with pytest.raises(AbsurdAmount):
        await grant(db, amount=LARGEST_AMOUNT + 1)
    assert await db.fetchval("SELECT count(*) FROM project") == 0


# Holds


async def test_a_placed_job_gets_its_budget_held(db: Database) -> None:
    await grant(db)
    await hold(db, amount=400)
    assert await balances(db) == (GRANTED - 400, 400, 0, 0)
    [row] = await announced(db, BudgetHeld.topic)
    held = BudgetHeld.model_validate_json(row["value"])
    assert (held.job_id, held.revision, held.amount, held.allocation_id) == ("j1", 0, 400, (await standing(db)).id)
    assert await broken_checks(db) == []


async def test_a_hold_may_take_all_there_is_and_not_one_unit_more(db: Database) -> None:
    await grant(db, amount=1000)
    await hold(db, "too-much", 1001)
    await hold(db, "all", 1000)
    await hold(db, "nothing-left", 1)
    assert await balances(db) == (0, 1000, 0, 0)
    assert await refusals(db) == [("allocation_exceeded", 1000), ("allocation_exceeded", 0)]


async def test_budget_is_refused_for_what_nobody_granted(db: Database) -> None:
    await hold(db, "j1", project="stranger")
    await grant(db)
    await hold(db, "j2", resource=CPU)
    assert await refusals(db) == [("unknown_allocation", 0), ("unknown_allocation", 0)]


async def test_budget_is_refused_before_an_award_begins_and_after_it_ended(db: Database) -> None:
    await grant(db)
    await hold(db, "early", starts_at=START - hours(2))
    await hold(db, "late", starts_at=START + hours(24 * 60))
    assert await refusals(db) == [("allocation_not_active", 0)] * 2
    assert await balances(db) == (GRANTED, 0, 0, 0)


async def test_a_job_that_moves_holds_what_its_last_placement_asks(db: Database) -> None:
    await grant(db, amount=1000)
    await hold(db, amount=800)
    await hold(db, amount=900, revision=1)
    assert await balances(db) == (100, 900, 0, 0)
    await hold(db, amount=5, revision=3)
    assert await balances(db) == (995, 5, 0, 0)
    with pytest.raises(Stale):
        await hold(db, amount=700, revision=2)
    await hold(db, amount=700, revision=3)
    assert await balances(db) == (995, 5, 0, 0)
    assert await broken_checks(db) == []


async def test_a_move_that_is_refused_gives_back_what_was_held(db: Database) -> None:
    await grant(db, amount=1000)
    await hold(db, amount=800)
    await hold(db, amount=1001, revision=1)
    assert await balances(db) == (1000, 0, 0, 0)
    assert await refusals(db) == [("allocation_exceeded", 1000)]
    assert len(await announced(db, BudgetReleased.topic)) == 1
    await close(db, segments=0)
    assert await broken_checks(db) == []


async def test_a_job_that_is_closed_before_its_placement_is_heard_holds_nothing(db: Database) -> None:
    await grant(db)
    await close(db, segments=0)
    await hold(db)
    assert await balances(db) == (GRANTED, 0, 0, 0)
    assert await refusals(db) == [("job_closed", 0)]


async def test_two_hundred_jobs_at_once_never_hold_more_than_there_is(db: Database) -> None:
    await grant(db, amount=1000)
    await asyncio.gather(*(hold(db, f"j{number}", 30) for number in range(200)))
    assert await balances(db) == (10, 990, 0, 0)
    assert len(await announced(db, BudgetHeld.topic)) == 33
    assert len(await announced(db, BudgetRefused.topic)) == 167
    assert await broken_checks(db) == []


async def test_holds_charges_and_ends_of_the_same_jobs_at_once_neither_overdraw_nor_block(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, amount=3000)
    await grant(db, "p2", amount=3000)
    steps = []
    for number in range(40):
        project = f"p{number % 2 + 1}"
        steps += [
            hold(db, f"j{number}", 100, project),
            charge(db, settings, *(used(f"j{n}", 60, f"p{n % 2 + 1}") for n in (number, 39 - number))),
            close(db, f"j{number}", 1, project),
        ]
    await asyncio.gather(*steps)
    for project in ("p1", "p2"):
        available, held, charged, overrun = await balances(db, project)
        assert (available, held, charged, overrun) == (3000 - 20 * 60, 0, 20 * 60, 0)
    assert await broken_checks(db) == []


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
