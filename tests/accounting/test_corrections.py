"""Corrections by hand, months between two factories, fundings that a second person must see: exact, and once."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import pytest
from aifn_accounting.actions import clearing, corrections, exchange
from aifn_accounting.app import service
from aifn_accounting.domain.corrections import CorrectionTooLarge, Line, NotCorrectable, check_correction, most_of
from aifn_accounting.domain.exchange import Exchange, WrongAgreement
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import allocations
from aifn_accounting.store.corrections import Correction
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction
from aifn_common.errors import Invalid, NotFound
from hypothesis import given
from hypothesis import strategies as st

from tests.accounting.make import GPU, START, balances, broken_checks, charge, grant, hold, know_machine, standing, used
from tests.accounting.make_pools import have_pool, pool_now
from tests.accounting.test_api import a_member, all_pages
from tests.support.http import Asker, asking
from tests.support.settings import settings as make_settings

NODE_HOUR = 64 * 3600
THERE = "mn5/acc/gpu-time"
YES = {"approve": True, "reason": "seen"}


async def correct(db: Database, line: int, amount: int) -> Correction:
    """Correct a line of p1's allocation by hand."""
    one = await standing(db)
    async with transaction(db) as tx:
        return await corrections.correct(tx, one.id, line, amount, by="manager@example", reason="a node had failed")


async def line_of(db: Database, kind: str) -> int:
    """The last line of that kind."""
    return int(await db.fetchval("SELECT max(id) FROM ledger_transfer WHERE kind = $1", kind))


# Rules


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 20), st.integers(-120, 120)), max_size=30))
def test_whatever_is_corrected_never_more_is_given_back_than_was_charged_and_never_less_than_nothing(
    charged: int, tries: list[tuple[int, int]]
) -> None:
    made: list[int] = []  # by how much each corrected; the first line is the charge itself
    undone: list[int] = []
    for what, amount in tries:
        number = what % (len(made) + 1)
        own, gone = (made[number - 1], undone[number - 1]) if number else (None, 0)
        line = Line(number, "correction" if number else "charge", charged, sum(made), own, gone)
        try:
            check_correction(line, amount)
        except (CorrectionTooLarge, Invalid):
            continue
        if number:
            undone[number - 1] -= amount
        made.append(amount)
        undone.append(0)
        assert 0 <= sum(made) <= charged
        assert all(abs(gone) <= abs(own) for own, gone in zip(made, undone, strict=True))


@pytest.mark.parametrize("kind", ["grant", "hold", "release", "overrun", "settle", "expiry"])
def test_only_charges_and_corrections_by_hand_can_be_corrected(kind: str) -> None:
    with pytest.raises(NotCorrectable):
        most_of(Line(1, kind, charged=100, given_back=0))
    with pytest.raises(NotCorrectable):
        most_of(Line(1, "correction", charged=100, given_back=0))  # of an expiry, by the clock


# In the books


async def test_a_charge_is_given_back_by_hand_and_its_record_stays_as_it_is(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, amount=1000)
    await hold(db, "j1", 600)
    await charge(db, settings, used("j1", 600))
    charged = await line_of(db, "charge")
    made = await correct(db, charged, 100)
    assert (made.corrects_transfer, made.root, made.local_job_id, made.corrects) == (charged, charged, "local-j1", None)
    one = await standing(db)
    assert (one.granted, one.available, one.charged, one.corrected, one.revision) == (1100, 500, 600, 100, 1)
    with pytest.raises(CorrectionTooLarge) as refused:
        await correct(db, charged, 501)
    assert (refused.value.most, refused.value.asked) == (500, 501)
    with pytest.raises(NotFound):
        await correct(db, 10_000, 1)
    assert await broken_checks(db) == []


async def test_a_correction_of_a_correction_undoes_it_once_and_is_linked_to_the_charge_it_began_with(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, amount=1000)
    await charge(db, settings, used("j1", 1000))
    charged = await line_of(db, "charge")
    first = await correct(db, charged, 100)
    await charge(db, settings, used("j2", 80))
    back = await correct(db, first.transfer_id, -100)
    assert (back.corrects, back.corrects_transfer, back.root) == (first.id, first.transfer_id, charged)
    assert await balances(db) == (0, 0, 1080, 80)  # what was used meanwhile stands as overrun
    for amount in (-1, 1):
        with pytest.raises(CorrectionTooLarge):
            await correct(db, first.transfer_id, amount)
    again = await correct(db, back.transfer_id, 90)
    assert (again.root, again.local_job_id) == (charged, "local-j1")
    assert await balances(db) == (10, 0, 1080, 0)  # the overrun is paid first
    assert await broken_checks(db) == []


async def test_a_higher_revision_after_a_correction_by_hand_is_charged_as_ever(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, amount=1000)
    await charge(db, settings, used("j1", 600))
    charged = await line_of(db, "charge")
    await correct(db, charged, 500)
    await charge(db, settings, used("j1", 200, revision=1))
    assert await balances(db) == (1300, 0, 200, 0)
    with pytest.raises(CorrectionTooLarge) as refused:
        await correct(db, charged, 1)
    assert refused.value.most == 0
    assert await broken_checks(db) == []


async def test_what_was_corrected_cannot_be_changed_and_is_no_gift(db: Database, settings: AccountingSettings) -> None:
    await grant(db, amount=1000)
    await charge(db, settings, used("j1", 600))
    await correct(db, await line_of(db, "charge"), 100)
    async with db.acquire() as tx:
        assert (await allocations.get_terms(tx, (await standing(db)).id)).given == 1000
    with pytest.raises(Exception, match="append-only"):
        await db.execute("UPDATE correction SET amount = 1")


# By people


@pytest.fixture
async def careful(db: Database) -> AsyncIterator[Asker]:
    """Asks an accounting in which corrections above one node-hour, and pools above two, need a second person."""
    strict = make_settings(
        AccountingSettings,
        pseudonym_key="a-key-for-tests-only",
        second_person_above={"node-hour": 1},
        second_person_funding_above={"node-hour": 2},
    )
    async with asking(service, db, strict) as asker:
        yield asker.as_("allocation-manager", subject="first@example")


def a_second_manager(ask: Asker) -> Asker:
    return ask.as_("allocation-manager", subject="second@example")


async def test_a_large_correction_waits_for_a_second_person_who_stands_beside_the_first(
    db: Database, settings: AccountingSettings, careful: Asker
) -> None:
    await know_machine(db)
    await grant(db, amount=10 * NODE_HOUR)
    await charge(db, settings, used("j1", 4 * NODE_HOUR, nodes=4))
    one, line = await standing(db), await line_of(db, "charge")
    place = f"/v1/allocations/{one.id}/corrections"
    words = {"transfer_id": line, "amount": NODE_HOUR, "reason": "node nid001 had failed"}
    small = await careful.post(place, json=words)
    assert (small.status_code, small.json()["approved_by"], small.json()["usage"]["local_job_id"]) == (
        201, None, "local-j1",
    )  # fmt: skip
    asked = await careful.post(place, json=words)  # two small ones that make a large one
    assert (asked.status_code, asked.json()["what"]) == (202, "correction")
    assert (await standing(db)).corrected == NODE_HOUR
    decide = f"/v1/approvals/{asked.json()['approval_id']}/decision"
    assert (await careful.post(decide, json=YES)).json()["code"] == "same_person"
    assert (await a_second_manager(careful).post(decide, json=YES)).json()["state"] == "approved"
    shown = await all_pages(careful, "/v1/corrections", 1, project="p1")
    assert [(one["corrected_by"], one["approved_by"]) for one in shown] == [
        ("first@example", None), ("first@example", "second@example"),
    ]  # fmt: skip
    for wrong, code in (
        ({"amount": 0}, "invalid"),
        ({"amount": 3 * NODE_HOUR}, "correction_too_large"),
        ({"transfer_id": 1}, "not_correctable"),
        ({"reason": ""}, "invalid"),
        ({"amount": 1.5}, "invalid"),
    ):
        assert (await careful.post(place, json=words | wrong)).json()["code"] == code, wrong
    assert (await a_member(careful).post(place, json=words)).status_code == 403
    assert await broken_checks(db) == []


async def test_funding_that_makes_a_pool_large_waits_for_a_second_person(db: Database, careful: Asker) -> None:
    await have_pool(db)
    place = "/v1/pools/union-2026/funding"
    first = await careful.post(place, json={"amount": 2 * NODE_HOUR, "reason": "the year's share"})
    assert first.status_code == 200
    asked = await careful.post(place, json={"amount": 1, "reason": "a little more"})
    assert (asked.status_code, asked.json()["pool_id"], asked.json()["project_id"]) == (202, "union-2026", None)
    assert (await pool_now(db))[0] == 2 * NODE_HOUR
    decide = f"/v1/approvals/{asked.json()['approval_id']}/decision"
    assert (await careful.post(decide, json=YES)).json()["code"] == "same_person"
    assert (await a_second_manager(careful).post(decide, json=YES)).status_code == 200
    assert (await pool_now(db))[0] == 2 * NODE_HOUR + 1
    wrong = await careful.post(place, json={"amount": 1, "source": "union-2026", "reason": "out of itself"})
    assert wrong.json()["code"] == "wrong_pool"
    assert await broken_checks(db) == []


# Between factories


def it_is(moment: datetime) -> None:
    """From now on it is another time."""
    clock.use(SimulatedClock(epoch=moment, started=datetime.now(UTC), factor=1))


async def ran_elsewhere(db: Database, name: str, amount: int) -> None:
    """Have a job of p1 use so much at another factory, at 2 : 3."""
    one = await standing(db)
    async with transaction(db) as tx:
        swap = Exchange("lumi-aif", "bsc-aif", THERE, amount, GPU, 2, 3)
        await exchange.settle_home(tx, name, swap, agreement="2026-7", job_id=name, allocation_id=one.id)


async def test_a_month_between_two_factories_is_settled_once_it_is_over_to_exactly_zero(
    db: Database, ask: Asker
) -> None:
    await have_pool(db, amount=1000)
    await grant(db, amount=900)
    await ran_elsewhere(db, "n1", 301)  # 201 at home, rounded up
    async with transaction(db) as tx:
        here = Exchange("bsc-aif", "lumi-aif", GPU, 50, THERE, 3, 2)
        await exchange.settle_receiver(tx, "n2", here, agreement="2026-7", job_id="n2", pool_id="union-2026")
    month = "/v1/clearing/bsc-aif/months/2026-11"
    how = {"reason": "hours of December, as agreed"}
    early = await ask.post(f"{month}/settlement", json=how)
    assert (early.status_code, early.json()["code"]) == (409, "month_not_over")
    it_is(START + timedelta(days=20))
    await ran_elsewhere(db, "d1", 30)
    done = (await ask.post(f"{month}/settlement", json=how)).json()
    (line,) = done["lines"]
    assert (line["gave"], line["took"], line["closing"], line["settled"], line["left"]) == (50, 201, -151, -151, 0)
    assert done["settled"]
    again = await ask.post(f"{month}/settlement", json=how)
    assert (again.status_code, again.json()["code"]) == (409, "nothing_to_settle")
    (december,) = (await ask.get("/v1/clearing/bsc-aif/months/2026-12")).json()["lines"]
    assert (december["opening"], december["took"], december["left"]) == (0, 20, -20)
    assert [one["balance"] for one in await all_pages(ask, "/v1/clearing", 5)] == [-20]
    behind = await all_pages(ask, f"{month}/entries", 1)
    assert [(one["job_id"], one["side"], one["other_amount"]) for one in behind] == [
        ("n1", "home", 301), ("n2", "receiver", 75),
    ]  # fmt: skip
    trail = await all_pages(ask, "/v1/changes", 5, thing="clearing")
    assert [(one["action"], one["reason"]) for one in trail] == [("settle_month", how["reason"])]
    assert (await a_member(ask).post(f"{month}/settlement", json=how)).status_code == 403
    assert await broken_checks(db) == []


async def test_a_month_that_was_never_settled_is_carried_forward_and_settled_with_the_next(db: Database) -> None:
    await grant(db, amount=900)
    await ran_elsewhere(db, "n1", 300)
    it_is(START + timedelta(days=20))
    await ran_elsewhere(db, "d1", 30)
    it_is(START + timedelta(days=50))
    async with transaction(db) as tx:
        (line,) = await clearing.settle_month(
            tx, "lumi-aif", "bsc-aif", date(2026, 12, 1), by="manager@example", reason="both months"
        )
        assert (line.opening, line.took, line.settled, line.left) == (-200, 20, -220, 0)
        (november,) = await clearing.statement(tx, "lumi-aif", "bsc-aif", date(2026, 11, 1))
        assert (november.closing, november.settled_with, november.left) == (-200, date(2026, 12, 1), 0)
        with pytest.raises(clearing.NothingToSettle):
            await clearing.settle_month(tx, "lumi-aif", "bsc-aif", date(2026, 11, 1), by="manager@example", reason="-")
        with pytest.raises(WrongAgreement):
            await clearing.statement(tx, "lumi-aif", "lumi-aif", date(2026, 11, 1))
    with pytest.raises(Exception, match="append-only"):
        await db.execute("DELETE FROM clearing_month")
    assert await broken_checks(db) == []
