"""Gaps: what a site states of a day is compared with what arrived, once the day is over and quiet."""

import json
from collections import Counter
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any

import pytest
from aifn_accounting.actions import completeness
from aifn_accounting.domain.completeness import SiteDay, StatedAhead, gap_of
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import completeness as store
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction
from aifn_common.errors import Stale
from aifn_events.usage import UsageDayStated, UsageGapChanged, UsageReported

from tests.accounting.make import START, announced, balances, broken_checks, charge, grant, hours, used

YESTERDAY = date(2026, 11, 20)
THEN = START - hours(24)


def run(job: str, amount: int = 600, **values: Any) -> UsageReported:
    """A run of yesterday."""
    return used(job, amount, **({"started_at": THEN, "submitted_at": THEN} | values))


def stated(*records: UsageReported, revision: int = 0, day: date = YESTERDAY) -> UsageDayStated:
    """The statement of a site that has sent these."""
    lines = sorted(
        f"{one.local_job_id}|{one.submitted_at:%Y-%m-%dT%H:%M:%SZ}|{one.segment}|{one.revision}\n" for one in records
    )
    amounts: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for one in records:
        amounts.update(one.amounts)
        counts.update(one.amounts.keys())
    return UsageDayStated.model_validate(
        {
            "machine_id": "lumi",
            "day": day,
            "revision": revision,
            "records": len(records),
            "totals": [{"resource": name, "records": counts[name], "amount": amounts[name]} for name in amounts],
            "digest": sha256("".join(lines).encode()).hexdigest(),
        }
    )


async def state(db: Database, event: UsageDayStated) -> None:
    async with transaction(db) as tx:
        await completeness.hear_statement(tx, event)


async def watch(db: Database, settings: AccountingSettings, *, after_hours: float = 0) -> int:
    """Let some time go by, and look."""
    if after_hours:
        clock.use(SimulatedClock(epoch=clock.now() + hours(after_hours), started=datetime.now(UTC), factor=1))
    async with transaction(db) as tx:
        return await completeness.watch_usage(tx, settings)


async def said(db: Database) -> list[tuple[str, str, int | None, int]]:
    """(state, reason, stated, arrived) of what was announced."""
    rows = await announced(db, UsageGapChanged.topic)
    events = [UsageGapChanged.model_validate(json.loads(row["value"])) for row in rows]
    return [(one.state, one.reason, one.stated_records, one.records) for one in events]


async def test_a_day_that_matches_has_no_gap(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    records = [run("j1"), run("j2"), run("j2", segment=1, started_at=THEN + hours(2))]
    await charge(db, settings, *records)
    await state(db, stated(*records))
    assert await watch(db, settings) == 0
    assert await watch(db, settings, after_hours=2) == 1
    assert await said(db) == []
    assert await watch(db, settings, after_hours=2) == 0


async def test_a_missing_record_raises_a_gap_after_the_grace_and_its_arrival_closes_it(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    records = [run("j1"), run("j2")]
    await charge(db, settings, records[0])
    await state(db, stated(*records))
    await watch(db, settings, after_hours=0.5)
    assert await said(db) == []
    await watch(db, settings, after_hours=0.6)
    assert await said(db) == [("open", "records_missing", 2, 1)]
    await watch(db, settings, after_hours=2)
    assert len(await said(db)) == 1
    await charge(db, settings, records[1])
    await watch(db, settings)
    await watch(db, settings, after_hours=1.1)
    assert (await said(db))[1:] == [("closed", "records_missing", 2, 2)]
    async with db.acquire() as tx:
        (gap,) = await store.list_gaps(tx, machine_id="lumi", only_open=False, after=0, limit=9)
        assert await store.list_gaps(tx, machine_id=None, only_open=True, after=0, limit=9) == []
    assert gap.closed_at is not None
    assert gap.opened_at < gap.closed_at


async def test_a_record_that_the_site_does_not_state_raises_a_gap_until_it_does(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    records = [run("j1"), run("j2")]
    await state(db, stated(records[0]))
    await charge(db, settings, *records)
    await watch(db, settings, after_hours=2)
    await state(db, stated(*records, revision=1))
    await watch(db, settings, after_hours=2)
    assert await said(db) == [("open", "records_unstated", 1, 2), ("closed", "records_unstated", 2, 2)]


async def test_another_revision_and_another_amount_are_noticed(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    await charge(db, settings, run("j1", 600))
    await state(db, stated(run("j1", 600, revision=1)))
    await watch(db, settings, after_hours=2)
    await state(db, stated(run("j1", 601), revision=1))
    await watch(db, settings, after_hours=2)
    assert await said(db) == [("open", "records_differ", 1, 1), ("open", "amounts_differ", 1, 1)]


async def test_a_correction_that_moves_a_run_to_another_day_is_missed_where_it_was(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    record = run("j1")
    await charge(db, settings, record)
    await state(db, stated(record))
    await watch(db, settings, after_hours=2)
    moved = record.model_copy(update={"revision": 1, "ended_at": START + hours(1)})
    assert await charge(db, settings, moved) == []
    await watch(db, settings)
    await watch(db, settings, after_hours=2)
    assert await said(db) == [("open", "records_missing", 1, 0)]


async def test_records_without_a_statement_and_days_without_one_are_gaps(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await charge(db, settings, run("j1"))
    await watch(db, settings)
    await watch(db, settings, after_hours=2)
    assert await said(db) == [("open", "no_statement", None, 1)]
    await state(db, stated(run("j1")))
    await watch(db, settings, after_hours=2)
    # Two days later the site has said nothing of the 21st and the 22nd; it says that nothing ended on the 21st.
    await watch(db, settings, after_hours=48)
    await watch(db, settings, after_hours=2)
    await watch(db, settings, after_hours=2)
    assert (await said(db))[1:] == [("closed", "no_statement", 0 + 1, 1)] + [("open", "no_statement", None, 0)] * 2
    await state(db, stated(day=date(2026, 11, 21)))
    await watch(db, settings, after_hours=2)
    assert (await said(db))[-1] == ("closed", "no_statement", 0, 0)


async def test_overlapping_segments_are_both_charged_and_shown_until_one_is_corrected(
    db: Database, settings: AccountingSettings
) -> None:
    # A resized job whose second row still has the first start: its sum would be too much.
    await grant(db)
    first = run("j1", 600, kind="resized")
    second = run("j1", 1200, segment=1, submitted_at=THEN + hours(1), ended_at=THEN + hours(2))
    assert await charge(db, settings, second, first) == []
    assert (await balances(db))[2] == 1800
    await state(db, stated(first, second))
    await watch(db, settings, after_hours=2)
    assert await said(db) == [("open", "overlap", 2, 2)]
    right = second.model_copy(
        update={"revision": 1, "started_at": THEN + hours(1), "amounts": {"lumi/lumi-g/gpu-time": 600}}
    )
    assert await charge(db, settings, right) == []
    await state(db, stated(first, right, revision=1))
    await watch(db, settings)
    await watch(db, settings, after_hours=2)
    assert (await said(db))[1:] == [("closed", "overlap", 2, 2)]
    assert (await balances(db))[2] == 1200
    assert await broken_checks(db) == []


async def test_a_day_is_not_judged_before_it_is_over(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    await charge(db, settings, used("j1"))
    await state(db, stated(day=date(2026, 11, 21)))
    assert await watch(db, settings, after_hours=10) == 0
    assert await watch(db, settings, after_hours=4) == 1
    assert await said(db) == [("open", "records_unstated", 0, 1)]


async def test_a_statement_about_a_day_to_come_and_an_older_one_are_refused(db: Database) -> None:
    tomorrow, far = date(2026, 11, 22), date(2026, 11, 23)
    await state(db, stated(day=tomorrow, revision=3))
    with pytest.raises(StatedAhead) as refused:
        await state(db, stated(day=far))
    assert (refused.value.code, refused.value.details) == ("from_the_future", {"day": "2026-11-23"})
    with pytest.raises(Stale):
        await state(db, stated(day=tomorrow, revision=2))
    assert await db.fetchval("SELECT count(*) FROM usage_day_due") == 1


def test_the_first_difference_names_the_gap() -> None:
    day = SiteDay("lumi", YESTERDAY, 0, 2, "d", {"a/b/c": 5}, 2, "d", {"a/b/c": 5}, 0)
    assert gap_of(day) is None
    for change, reason in (
        ({"revision": None}, "no_statement"),
        ({"records": 1}, "records_missing"),
        ({"records": 3}, "records_unstated"),
        ({"digest": "e"}, "records_differ"),
        ({"amounts": {}}, "amounts_differ"),
        ({"overlapping": 1}, "overlap"),
    ):
        assert gap_of(SiteDay(**(vars(day) | change))) == reason
