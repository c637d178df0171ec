"""What a site says of its days: how much ended on each, so that a record that is lost is noticed."""

import random
from collections import Counter
from datetime import UTC, date, datetime

from aifn_events.usage import ResourceTotal, UsageDayStated, UsageReported
from aifn_siteagent.domain import Total, UsageRecord, digest_of, totals_of

from tests.siteagent.conftest import BEGIN, GPU_TIME, Site, dispatched

HOUR = 3600
MIDNIGHT = 15 * HOUR  # the tests begin at 09:00
TODAY, TOMORROW = date(2026, 11, 21), date(2026, 11, 22)
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def record(number: str, *, segment: int = 0, revision: int = 0, amount: int = 10) -> UsageRecord:
    return UsageRecord(number, datetime(2026, 11, 21, 9, 0, 1, tzinfo=UTC), segment, revision, GPU_TIME, amount)


def test_the_digest_is_the_one_other_systems_compute() -> None:
    # printf '10|2026-11-21T09:00:01Z|0|0\n9|2026-11-21T09:00:01Z|0|2\n9|2026-11-21T09:00:01Z|1|0\n' | sha256sum
    records = [record("9", segment=1), record("10"), record("9", revision=2)]
    assert digest_of(records) == "07f81120b70cd10527a3775ccfddb27c5c21cade6d3be2435f2eaa314b1dd1d3"
    assert digest_of([]) == NOTHING


def test_the_digest_does_not_depend_on_the_order_of_records() -> None:
    records = [record(str(number), segment=number % 3) for number in range(200)]
    shuffled = random.Random(1).sample(records, len(records))
    assert digest_of(shuffled) == digest_of(records)


def test_the_digest_shows_a_missing_and_a_corrected_record() -> None:
    records = [record("1"), record("2")]
    assert len({digest_of(records), digest_of(records[:1]), digest_of([record("1"), record("2", revision=1)])}) == 3


def test_totals_are_by_resource() -> None:
    other = UsageRecord("3", BEGIN, 0, 0, "lumi/lumi-c/node-time", 7)
    assert totals_of([record("1"), other, record("2")]) == [
        Total("lumi/lumi-c/node-time", 1, 7),
        Total(GPU_TIME, 2, 20),
    ]


async def statements(site: Site) -> list[tuple[date, int, int]]:
    return [(one.day, one.revision, one.records) for one in await site.told(UsageDayStated)]


async def test_a_statement_agrees_with_the_usage_that_was_reported(site: Site) -> None:
    for number in range(5):
        await site.hear(dispatched(f"job-{number}", slices=8, script=f"sleep {10 * number}"))
    await site.tick(100)
    used = await site.told(UsageReported)
    (stated,) = await site.told(UsageDayStated)
    assert (stated.machine_id, stated.day, stated.revision, stated.records) == ("lumi", TODAY, 0, 5)
    assert stated.totals == [ResourceTotal(resource=GPU_TIME, records=5, amount=8 * (10 + 20 + 30 + 40))]
    assert stated.digest == digest_of(
        UsageRecord(one.local_job_id, one.submitted_at, one.segment, one.revision, GPU_TIME, one.amounts[GPU_TIME])
        for one in used
    )


async def test_the_running_day_is_stated_at_most_once_an_hour_and_finally_after_midnight(site: Site) -> None:
    for number in range(16):
        site.time.at(number * 1800)
        await site.hear(dispatched(f"job-{number}", script="sleep 60"))
    for now in range(0, 17 * HOUR, 300):
        await site.tick(now)
    stated = await site.told(UsageDayStated)
    assert [one.revision for one in stated] == list(range(len(stated)))
    assert stated[-1].records == 16
    assert len(stated) <= 10


async def test_a_day_that_changed_since_its_last_statement_is_stated_again_after_midnight(site: Site) -> None:
    await site.hear(dispatched("job-1", script="sleep 1"))
    await site.tick(MIDNIGHT - 600)
    await site.hear(dispatched("job-2", script="sleep 60"))
    await site.tick(MIDNIGHT - 300)
    assert await statements(site) == [(TODAY, 0, 1)]
    await site.tick(MIDNIGHT)
    assert await statements(site) == [(TODAY, 0, 1), (TODAY, 1, 2)]
    await site.tick(MIDNIGHT + 2 * HOUR)
    assert await statements(site) == [(TODAY, 0, 1), (TODAY, 1, 2)]


async def test_a_segment_belongs_to_the_day_in_which_it_ended(site: Site) -> None:
    site.time.at(MIDNIGHT - 101)
    await site.hear(dispatched("job-1", script="sleep 99"))
    await site.hear(dispatched("job-2", script="sleep 100"))
    await site.hear(dispatched("job-3", script="sleep 101"))
    await site.tick(MIDNIGHT + 500)
    assert await statements(site) == [(TODAY, 0, 1), (TOMORROW, 0, 2)]


async def test_a_day_on_which_nothing_ended_is_stated_as_such(site: Site) -> None:
    await site.tick(MIDNIGHT - 1)
    assert await site.told(UsageDayStated) == []
    await site.tick(MIDNIGHT + 24 * HOUR)
    assert await statements(site) == [(TODAY, 0, 0), (TOMORROW, 0, 0)]
    assert {one.digest for one in await site.told(UsageDayStated)} == {NOTHING}


async def test_after_a_long_silence_every_day_is_stated_once_and_only_a_month_at_a_time(site: Site) -> None:
    await site.tick(0)
    for _ in range(4):
        await site.tick(MIDNIGHT + 99 * 24 * HOUR)
    found = Counter(day for day, *_ in await statements(site))
    assert len(found) == 100
    assert set(found.values()) == {1}


async def test_a_tick_that_is_repeated_states_nothing_twice(site: Site) -> None:
    await site.hear(dispatched(script="sleep 1"))
    await site.tick(MIDNIGHT)
    assert await site.tick(MIDNIGHT) is False
    assert await statements(site) == [(TODAY, 0, 1)]
