"""Months of the books: what belongs to which, closed once, changed afterwards by linked entries only."""

import asyncio
import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from aifn_accounting.actions import completeness, periods, rates, usage
from aifn_accounting.domain.periods import (
    EarlierPeriodOpen,
    GapsOpen,
    HoldsOpen,
    PeriodClosed,
    PeriodNotOver,
    Step,
    Total,
    apportion,
    digest_of,
    month_of,
    next_month,
    part_of,
)
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import periods as store
from aifn_accounting.store.rates import Published
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction
from aifn_common.errors import Invalid, NotFound
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.accounting.make import (
    GPU,
    announced,
    balances,
    broken_checks,
    charge,
    close,
    grant,
    hold,
    hours,
    know_machine,
    used,
)
from tests.support.backends import Backends

OCTOBER, NOVEMBER, DECEMBER = date(2026, 10, 1), date(2026, 11, 1), date(2026, 12, 1)
HALLOWEEN = datetime(2026, 10, 31, 22, tzinfo=UTC)
SEPTEMBER_START = datetime(2026, 9, 1, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
STEPS: st.SearchStrategy[Step] = st.sampled_from(["hour", "day", "month"])


# What belongs to which stretch of time


@given(st.integers(0, 10**15), MOMENTS, st.timedeltas(timedelta(0), timedelta(days=40)), STEPS)
def test_the_parts_of_an_amount_sum_to_it_and_follow_the_time(
    amount: int, started: datetime, took: timedelta, step: Step
) -> None:
    parts = apportion(amount, started, started + took, step)
    assert sum(part.amount for part in parts) == amount
    assert [part.since for part in parts] == sorted({part.since for part in parts})
    assert parts[0].since <= started
    for part, following in itertools.pairwise(parts):
        seconds = min(following.since, started + took) - max(part.since, started)
        assert abs(part.amount - amount * (seconds / took)) <= 1 + amount / 10**12


@pytest.mark.parametrize(
    ("started", "ended", "expected"),
    [
        ("10-31T22:00", "11-01T02:00", [(10, 50), (11, 50)]),
        ("10-31T22:00", "11-01T00:00", [(10, 100)]),
        ("11-01T00:00", "11-01T00:00", [(11, 100)]),
        ("10-31T23:59", "12-01T00:01", [(10, 0), (11, 99), (12, 1)]),
    ],
)
def test_runs_at_the_ends_of_months(started: str, ended: str, expected: list[tuple[int, int]]) -> None:
    parts = apportion(100, _at(started), _at(ended), "month")
    assert [(part.since.month, part.amount) for part in parts] == expected


def _at(words: str) -> datetime:
    return datetime.fromisoformat(f"2026-{words}:00+00:00")


async def test_the_database_divides_as_we_do(db: Database) -> None:
    instant = datetime(2026, 11, 1, tzinfo=UTC)
    rows = []
    for number in range(400):
        start = instant + timedelta(microseconds=(number * 7_919_000_003) % 9_000_000_000 - 4_000_000_000)
        end = start + timedelta(microseconds=(number * 104_729_001) % 7_000_000_000 * (number % 5))
        rows.append((number**5 * 97, start, end, instant, instant + timedelta(seconds=number * 13 + 1)))
    found = await db.fetch(
        "SELECT usage_part(a, s, e, f, u) AS part FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], "
        "$4::timestamptz[], $5::timestamptz[]) WITH ORDINALITY AS t (a, s, e, f, u, n) ORDER BY n",
        *([row[column] for row in rows] for column in range(5)),
    )
    assert [row["part"] for row in found] == [part_of(*row) for row in rows]
    assert len({row["part"] for row in found}) > 100


def test_months_are_those_of_utc() -> None:
    helsinki = datetime.fromisoformat("2026-11-01T01:30:00+02:00")
    assert month_of(helsinki) == OCTOBER
    assert next_month(DECEMBER) == date(2027, 1, 1)


def test_the_digest_of_a_month_is_the_one_anybody_computes() -> None:
    # printf 'a|m/p/k|5|1\nb|m/p/k|7|2\n' | sha256sum
    totals = [Total("b", "m/p/k", 7, 2), Total("a", "m/p/k", 5, 1)]
    assert digest_of(totals) == "9ef0719403060b0d7f03b56cd0cc5eff7dec1ea6919dd016604d4d30d7ea1f43"


# Closing


async def later(days: float = 3) -> None:
    """It is some days after the first of November."""
    epoch = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=days)
    clock.use(SimulatedClock(epoch=epoch, started=datetime.now(UTC), factor=1))


async def close_month(db: Database, month: date = OCTOBER, **words: Any) -> store.Period:
    said: dict[str, Any] = {"carry_holds": False, "accept_gaps": False, "grace": hours(24)}
    async with transaction(db) as tx:
        return await periods.close_period(tx, month, **(said | words), reason="end of month", by="manager@example")


async def watch(db: Database, settings: AccountingSettings) -> int:
    async with transaction(db) as tx:
        return await completeness.watch_usage(tx, settings)


async def entries(db: Database, month: date = OCTOBER) -> list[tuple[str, int, int, int | None]]:
    """(kind, change, revision, revision it corrects) of what was entered into a month."""
    async with db.acquire() as tx:
        found = await store.list_entries(tx, month=month, recorded_in=None, after=0, limit=100)
    return [(one.kind, one.change, one.revision, one.corrects_revision) for one in found]


async def month_holds(db: Database, month: date = OCTOBER) -> bool:
    """Whether what was frozen and entered since is what the records say."""
    async with db.acquire() as tx:
        checks = await periods.verify_period(tx, month)
    assert checks
    return all(one.total.amount + one.entered == one.counted for one in checks)


async def have_project(db: Database, amount: int = 1_000_000) -> None:
    await grant(db, "p1", amount, starts_at=SEPTEMBER_START)


def run(job: str, amount: int, started: datetime = HALLOWEEN, lasted: float = 1, **values: Any) -> Any:
    return used(job, amount, started_at=started, ended_at=started + hours(lasted), submitted_at=started, **values)


async def test_a_closed_month_is_frozen_and_late_usage_is_entered_into_the_open_one(
    db: Database, settings: AccountingSettings
) -> None:
    await later()
    await have_project(db)
    assert await charge(db, settings, run("j1", 600), run("j2", 1000, lasted=4)) == []
    period = await close_month(db)
    assert (period.holds_carried, period.gaps_accepted) == (0, 0)
    frozen = await db.fetch("SELECT amount, records FROM period_total")
    assert [tuple(row) for row in frozen] == [(600 + 500, 2)]
    (said,) = await announced(db, "aifn-period-closed-v1")
    assert b'"month":"2026-10"' in said["value"].replace(b" ", b"")

    # It happened in October and is heard in November: the balance knows it at once, October stays as it is.
    assert await charge(db, settings, run("j3", 77), run("j4", 5, started=HALLOWEEN + hours(48))) == []
    assert await balances(db) == (1_000_000 - 1682, 0, 1682, 0)
    await watch(db, settings)
    assert await entries(db) == [("late", 77, 0, None)]
    assert [tuple(row) for row in await db.fetch("SELECT amount, records FROM period_total")] == [(1100, 2)]
    assert await month_holds(db)
    assert await broken_checks(db) == []


async def test_a_correction_in_a_closed_month_is_linked_to_what_it_corrects_and_so_is_its_own_correction(
    db: Database, settings: AccountingSettings
) -> None:
    await later()
    await have_project(db)
    await charge(db, settings, run("j1", 600), run("j2", 1000, lasted=4))
    await close_month(db)
    await charge(db, settings, run("j1", 400, revision=1))
    await watch(db, settings)
    # Two at once: the first of them never counted, so nothing is entered for it.
    await charge(db, settings, run("j1", 10, revision=2), run("j1", 450, revision=3))
    # An older word changes nothing.
    await charge(db, settings, run("j2", 900, lasted=4, revision=1))
    await watch(db, settings)
    await watch(db, settings)
    assert await entries(db) == [
        ("correction", -200, 1, 0),
        ("correction", 50, 3, 1),
        ("correction", -50, 1, 0),
    ]
    assert await month_holds(db)
    assert (await balances(db))[2] == 450 + 900


async def test_a_correction_that_moves_a_run_out_of_a_closed_month_takes_all_of_it_out(
    db: Database, settings: AccountingSettings
) -> None:
    await later()
    await have_project(db)
    await grant(db, "p2", 1_000_000, starts_at=SEPTEMBER_START)
    await charge(db, settings, run("j1", 600), run("j2", 300))
    await close_month(db)
    moved = run("j1", 600, revision=1).model_copy(
        update={"started_at": HALLOWEEN + hours(24), "ended_at": HALLOWEEN + hours(25)}
    )
    await charge(db, settings, moved, run("j2", 300, project="p2", revision=1))
    await watch(db, settings)
    assert sorted(await entries(db)) == [
        ("correction", -600, 1, 0),
        ("correction", -300, 1, 0),
        ("correction", 300, 1, 0),
    ]
    assert await month_holds(db)


async def test_usage_that_waited_for_its_allocation_when_the_month_was_closed_is_entered_when_it_is_charged(
    db: Database, settings: AccountingSettings
) -> None:
    await later()
    await have_project(db)
    assert await charge(db, settings, run("j1", 600), run("j2", 1000, lasted=4, project="p2")) == []
    await close_month(db)
    await watch(db, settings)
    assert await entries(db) == []
    await grant(db, "p2", 1_000_000, starts_at=SEPTEMBER_START)
    async with transaction(db) as tx:
        await usage.settle_suspense(tx)
    await watch(db, settings)
    await watch(db, settings)
    assert await entries(db) == [("late", 500, 0, None)]
    assert await month_holds(db)
    assert (await balances(db, "p2"))[2] == 1000


async def test_months_closed_one_after_the_other_sum_to_what_was_charged(
    db: Database, settings: AccountingSettings
) -> None:
    await later(days=40)
    await have_project(db)
    long = run("j1", 1_000_001, started=datetime(2026, 9, 20, tzinfo=UTC), lasted=24 * 60)
    await charge(db, settings, long)
    for month in (date(2026, 9, 1), OCTOBER, NOVEMBER):
        await close_month(db, month)
        await charge(db, settings, run(f"late-{month}", 7, started=datetime(2026, 9, 30, 23, tzinfo=UTC), lasted=2))
    await watch(db, settings)
    frozen = await db.fetchval("SELECT sum(amount) FROM period_total")
    entered = await db.fetchval("SELECT sum(change) FROM period_entry")
    assert frozen + entered == 1_000_001 + 3 * 7
    assert [await month_holds(db, month) for month in (date(2026, 9, 1), OCTOBER, NOVEMBER)] == [True] * 3
    recorded_in = await db.fetch("SELECT DISTINCT recorded_in FROM period_entry WHERE month = '2026-09-01'")
    assert all(row["recorded_in"] > OCTOBER for row in recorded_in)


async def test_a_month_is_closed_once_in_order_and_when_it_is_over(db: Database, settings: AccountingSettings) -> None:
    await later(days=0.5)
    await have_project(db)
    await charge(db, settings, run("j1", 600), run("j0", 1, started=datetime(2026, 9, 3, tzinfo=UTC)))
    with pytest.raises(PeriodNotOver, match="2026-11-02T00:00:00"):
        await close_month(db)
    await later(days=3)
    with pytest.raises(EarlierPeriodOpen, match="2026-09"):
        await close_month(db)
    await close_month(db, date(2026, 9, 1))
    await close_month(db)
    for month in (date(2026, 9, 1), OCTOBER, date(2026, 1, 1)):
        with pytest.raises(PeriodClosed):
            await close_month(db, month)
    with pytest.raises(PeriodNotOver):
        await close_month(db, NOVEMBER)


async def test_a_month_with_open_holds_is_not_closed_unless_they_are_carried_over(
    db: Database, settings: AccountingSettings
) -> None:
    clock.use(SimulatedClock(epoch=HALLOWEEN, started=datetime.now(UTC), factor=1))
    await have_project(db)
    await hold(db, "j1", 1000, starts_at=HALLOWEEN)
    await hold(db, "j2", 500, starts_at=HALLOWEEN)
    await later()
    await hold(db, "november", 200, starts_at=HALLOWEEN + hours(96))
    await charge(db, settings, run("j1", 600))
    await close(db, "j1")
    with pytest.raises(HoldsOpen) as refused:
        await close_month(db)
    assert refused.value.details == {"month": "2026-10", "holds": 1, "first_job": "j2"}
    assert await db.fetchval("SELECT count(*) FROM period") == 0
    period = await close_month(db, carry_holds=True)
    assert (period.holds_carried, period.held_carried) == (1, 500)


async def test_a_month_with_gaps_is_not_closed_unless_they_are_accepted(
    db: Database, settings: AccountingSettings
) -> None:
    await later()
    await db.execute(
        "INSERT INTO usage_gap (machine_id, day, reason, records, overlapping, opened_at, looked_at) "
        "VALUES ('lumi', '2026-10-31', 'no_statement', 0, 0, now(), now()), "
        "('lumi', '2026-11-01', 'no_statement', 0, 0, now(), now())"
    )
    with pytest.raises(GapsOpen) as refused:
        await close_month(db)
    assert refused.value.details == {"month": "2026-10", "gaps": 1}
    assert (await close_month(db, accept_gaps=True)).gaps_accepted == 1


async def test_nothing_of_a_closed_month_can_be_changed(db: Database, settings: AccountingSettings) -> None:
    await later()
    await have_project(db)
    await charge(db, settings, run("j1", 600))
    await close_month(db)
    await charge(db, settings, run("j2", 1))
    await watch(db, settings)
    for table in ("period", "period_total", "period_entry", "rate_card"):
        for words in (f"UPDATE {table} SET month = month", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            if table == "rate_card":
                words = words.replace("month = month", "id = id")
            with pytest.raises(Exception, match="append-only"):
                await db.execute(words)


async def test_only_a_closed_month_is_verified(db: Database) -> None:
    async with db.acquire() as tx:
        with pytest.raises(NotFound):
            await periods.verify_period(tx, OCTOBER)


# Late usage and the cards of its time


async def publish(db: Database, valid_from: datetime, **words: Any) -> Published:
    said: dict[str, Any] = {"card_id": "lumi-g", "resource": GPU, "numerator": 1, "denominator": 1, "rule": None}
    async with transaction(db) as tx:
        return await rates.publish(
            tx,
            valid_from=valid_from,
            title="another price",
            source="a decision",
            not_confirmed=(),
            by="manager@example",
            **(said | words),
        )


async def test_late_usage_and_its_corrections_cost_what_they_cost_then(
    db: Database, settings: AccountingSettings
) -> None:
    await know_machine(db)
    await have_project(db)
    clock.use(SimulatedClock(epoch=HALLOWEEN - hours(48), started=datetime.now(UTC), factor=1))
    await publish(db, datetime(2026, 11, 1, tzinfo=UTC), numerator=3, denominator=2)
    await later()
    await charge(db, settings, run("in-time", 100, started=HALLOWEEN + hours(24)), run("late", 100))
    await close_month(db)
    await charge(db, settings, run("late", 200, revision=1), run("later", 300))
    assert (await balances(db))[2] == 150 + 200 + 300
    cards = await db.fetch("SELECT DISTINCT rate_card FROM usage_charge ORDER BY 1")
    assert [row["rate_card"] for row in cards] == ["as-reported", "lumi-g"]


async def test_a_card_is_published_for_a_time_to_come_only_and_once_for_each_moment(db: Database) -> None:
    await know_machine(db)
    with pytest.raises(rates.CardBeginsInPast):
        await publish(db, clock.now() - hours(1))
    when = clock.now() + hours(1)
    assert (await publish(db, when)).version == 1
    with pytest.raises(rates.DuplicateRateCard):
        await publish(db, when, card_id="another")
    assert (await publish(db, when + hours(1))).version == 2
    with pytest.raises(rates.UnitMismatch) as refused:
        await publish(db, when + hours(2), rule={"slices_per_node": 8, "whole_nodes": "always"})
    assert refused.value.details == {"resource": GPU, "slices_per_node": 8, "units_per_node": 64}
    with pytest.raises(Invalid, match="rule"):
        await publish(db, when + hours(2), rule={"slices_per_node": "eight"})
    with pytest.raises(NotFound):
        await publish(db, when, resource="lumi/lumi-x/gpu-time")


async def test_the_cards_of_the_package_are_loaded_once_and_change_no_price_of_the_past(
    db: Database, settings: AccountingSettings
) -> None:
    async with transaction(db) as tx:
        await rates.load_seed(tx, settings)
        await rates.load_seed(tx, settings)
    assert await db.fetchval("SELECT count(*) FROM rate_card WHERE resource = $1", GPU) == 1
    loaded = await db.fetchval("SELECT count(*) FROM rate_card")
    assert loaded > 10
    await have_project(db)
    # Half of LUMI-G's node by memory, though only one die was taken: 4 slices of 8.
    shared = run("j1", 8 * 3600).model_copy(update={"devices": 1, "memory_mib": 4 * 65536})
    whole = run("j2", 64 * 3600).model_copy(update={"exclusive": True, "devices": 8})
    assert await charge(db, settings, shared, whole) == []
    charged = await db.fetch("SELECT amount, rate_card FROM usage_charge ORDER BY usage_number")
    assert [tuple(row) for row in charged] == [(32 * 3600, "lumi-g"), (64 * 3600, "lumi-g")]


async def test_a_package_with_new_cards_leaves_what_was_charged_alone(
    db: Database, settings: AccountingSettings
) -> None:
    await have_project(db)
    await charge(db, settings, run("j1", 600))
    async with transaction(db) as tx:
        await rates.load_seed(tx, settings)
    assert await db.fetchval("SELECT count(*) FROM rate_card") == 1


async def test_two_records_of_one_revision_must_agree_on_what_was_occupied(
    db: Database, settings: AccountingSettings
) -> None:
    await have_project(db)
    said = run("j1", 600).model_copy(update={"cores": 8})
    assert await charge(db, settings, said) == []
    assert await charge(db, settings, said) == []
    (refused,) = await charge(db, settings, said.model_copy(update={"cores": 9}))
    assert refused.refusal.code == "conflicting_usage"
    assert await db.fetchval("SELECT occupied FROM usage_record") == '{"cores": 8}'


# Whatever happens


MONTHS = (date(2026, 9, 1), OCTOBER, NOVEMBER)
HEARD = st.tuples(
    st.integers(0, 4), st.integers(0, 3), st.integers(0, 85 * 24), st.integers(0, 900), st.integers(0, 999)
)


@hypothesis_settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=st.lists(st.one_of(HEARD, st.just("close"), st.just("watch")), min_size=3, max_size=16))
def test_whenever_months_are_closed_what_was_frozen_and_entered_is_what_the_records_say(
    backends: Backends, settings: AccountingSettings, story: list[tuple[int, ...] | str]
) -> None:
    async def live() -> None:
        await later(days=75)  # after whatever may be heard
        async with backends.database("aifn_accounting") as db:
            await have_project(db)
            said: set[tuple[int, ...]] = set()
            for step in [*story, "watch"]:
                if step == "watch":
                    await watch(db, settings)
                elif isinstance(step, str):
                    closed = await db.fetchval("SELECT count(*) FROM period")
                    if closed < len(MONTHS):
                        await close_month(db, MONTHS[closed])
                elif step[:2] not in said:
                    said.add(step[:2])
                    job, revision, begins, lasted, amount = step
                    start = SEPTEMBER_START + hours(begins)
                    record = run(f"j{job}", amount, start, lasted, revision=revision).model_copy(
                        update={"submitted_at": SEPTEMBER_START}
                    )
                    assert await charge(db, settings, record) == []
            charged = (await balances(db))[2]
            counted = 0
            async with db.acquire() as tx:
                number = await db.fetchval("SELECT coalesce(max(number), 0) FROM usage_record")
                for step_month in (*MONTHS, DECEMBER, date(2027, 1, 1)):
                    counted += sum(one.amount for one in await store.totals(tx, step_month, number))
                for one in await store.list_closed(tx):
                    for check in await periods.verify_period(tx, one.month):
                        assert check.total.amount + check.entered == check.counted
            assert counted == charged
            assert await broken_checks(db) == []

    asyncio.run(live())
