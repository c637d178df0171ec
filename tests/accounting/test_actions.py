"""What awards and placed jobs do to the books, on a real database."""

import asyncio

import pytest
from aifn_accounting.actions import projects
from aifn_accounting.domain.ledger import LARGEST_AMOUNT, AbsurdAmount
from aifn_accounting.settings import AccountingSettings
from aifn_common.database import Database, transaction
from aifn_common.errors import Stale
from aifn_events.access import AllocationOpened, ProjectDescribed
from aifn_events.placement import BudgetHeld, BudgetRefused, BudgetReleased
from aifn_events.registry import MachineDescribed

from tests.accounting.make import (
    CPU,
    GPU,
    GRANTED,
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
