"""Reports: every sum leads to its jobs and every job to its sums, and a forecast says how sure it is."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aifn_accounting.app import service
from aifn_accounting.domain.forecast import LEAST_DAYS, foresee
from aifn_accounting.settings import AccountingSettings
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database
from hypothesis import given
from hypothesis import strategies as st

from tests.accounting.make import START, charge, close, grant, hold, know_machine, used
from tests.accounting.test_api import a_stranger, all_pages
from tests.support.http import Asker, asking

PI = "7c1d@myaccessid"
DAYS = {"since": "2026-11-01", "until": "2026-12-01"}


def later(days: int) -> None:
    """It is so many days after START."""
    clock.use(SimulatedClock(epoch=START + timedelta(days=days), started=datetime.now(UTC), factor=1))


async def some_usage(db: Database, settings: AccountingSettings) -> None:
    """Two projects of one factory and one of another; a correction; a run over midnight."""
    await know_machine(db)
    await grant(db, "p1", applicant_kind="startup", country="FI", mode="aif_playground")
    await grant(db, "p2", applicant_kind="sme", country="SE", mode="aif_fast_lane", pool="national")
    await grant(db, "p3", factory_id="bsc-aif", principal_investigator="other@example")
    midnight = START.replace(hour=23, minute=30)
    await charge(db, settings, used("j1", 600), used("j2", 700, "p2"), used("j3", 800, "p3"))
    await charge(db, settings, used("j1", 500, revision=1), used("j4", 7, started_at=midnight))


async def report(ask: Asker, **params: Any) -> dict[str, Any]:
    answer = await ask.get("/v1/reports/usage", params={**DAYS, **params})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_funders_total_leads_to_each_job_and_each_job_back_to_the_total(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    ask.as_("auditor", entitlements=["funder:federation:*"])
    pools = await report(ask, by="pool")
    assert [(one["key"], one["amount"], one["jobs"]) for one in pools["items"]] == [
        ("national", 700, 1),
        ("union", 1307, 3),
    ]
    assert pools["total"][0]["amount"] == 2007
    projects = await report(ask, by="project", only=["pool:union"])
    assert [(one["key"], one["amount"]) for one in projects["items"]] == [("p1", 507), ("p3", 800)]
    jobs = await report(ask, by="job", only=["pool:union", "project:p1"])
    assert [(one["key"], one["amount"]) for one in jobs["items"]] == [("j1", 500), ("j4", 7)]
    traced = (await ask.get("/v1/jobs/j1/trace")).json()["charges"]
    assert [(one["revision"], one["amount"], one["superseded"]) for one in traced] == [(0, 600, True), (1, 500, False)]
    back = traced[1]
    assert (back["pool"], back["project_id"], back["mode"], back["actor"]) == (
        "union",
        "p1",
        "aif_playground",
        "startup",
    )
    assert (
        await db.fetchval(
            "SELECT sum(CASE kind WHEN 'charge' THEN amount ELSE -amount END) FROM ledger_transfer WHERE id = ANY($1)",
            traced[0]["transfers"] + back["transfers"],
        )
        == 500
    )
    assert await db.fetchval("SELECT kind FROM ledger_transfer WHERE id = $1", back["grants"][0]) == "grant"
    assert PI not in str(traced)


@pytest.mark.parametrize(
    "by",
    ["factory", "machine", "partition", "resource", "pool", "authority", "mode", "country", "actor", "project",
     "allocation", "award", "job"],
)  # fmt: skip
async def test_the_lines_of_all_pages_sum_to_the_total_whatever_is_summed_by(
    db: Database, ask: Asker, settings: AccountingSettings, by: str
) -> None:
    await some_usage(db, settings)
    ask.as_("auditor")
    whole = await report(ask, by=by, limit=200)
    assert whole["total"][0]["amount"] == 2007
    lines = await all_pages(ask, "/v1/reports/usage", 1, by=by, **DAYS)
    assert lines == whole["items"]
    assert sum(line["amount"] for line in lines) == 2007


async def test_reports_of_bordering_days_sum_to_the_report_of_both(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    ask.as_("auditor")
    parts = [
        (await report(ask, by="job", since=since, until=until, only=["job:j4"]))["total"][0]["amount"]
        for since, until in (("2026-11-21", "2026-11-22"), ("2026-11-22", "2026-11-23"))
    ]
    assert parts == [3, 4]


async def test_people_see_sums_of_what_is_theirs_only(db: Database, ask: Asker, settings: AccountingSettings) -> None:
    await some_usage(db, settings)
    mine = await report(ask.as_("pi", subject="other@example"), by="project")
    assert [one["key"] for one in mine["items"]] == ["p3"]
    factory = await report(ask.as_("allocation-manager"), by="project")
    assert [one["key"] for one in factory["items"]] == ["p1", "p2"]
    assert (await ask.get("/v1/jobs/j3/trace")).status_code == 404
    assert (await a_stranger(ask).get("/v1/reports/usage")).status_code == 403


@pytest.mark.parametrize(
    "params",
    [
        {"only": ["pool"]},
        {"only": ["colour:red"]},
        {"only": ["pool:union", "pool:national"]},
        {"only": ["project:\0"]},
        {"by": "person"},
        {"since": "2026-12-01", "until": "2026-12-01"},
        {"since": "2000-01-01"},
        {"after": "bm90aGluZw"},
    ],
)
async def test_a_report_that_makes_no_sense_is_refused(ask: Asker, params: dict[str, Any]) -> None:
    answer = await ask.get("/v1/reports/usage", params={**DAYS, **params})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_a_month_of_the_books_opens_with_what_the_month_before_closed_with(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await know_machine(db)
    await grant(db, amount=1000)
    await hold(db, "j1", 400)
    await charge(db, settings, used("j1", 300))
    later(15)
    await close(db, "j1")
    await charge(db, settings, used("j2", 1500))
    (one,) = (await ask.get("/v1/projects/p1/allocations")).json()["items"]
    path = f"/v1/allocations/{one['allocation_id']}/months"
    before, month = (await ask.get(f"{path}/2026-11")).json(), (await ask.get(f"{path}/2026-12")).json()
    assert before["opening"] == {"granted": 0, "available": 0, "held": 0, "charged": 0, "overrun": 0}
    assert before["closing"] == {"granted": 1000, "available": 600, "held": 100, "charged": 300, "overrun": 0}
    assert month["opening"] == before["closing"]
    assert month["closing"] == {name: one[name] for name in ("granted", "available", "held", "charged", "overrun")}
    assert month["closing"]["overrun"] == 800
    moved = {(line["kind"], line["balance"]): line["change"] for line in month["movements"]}
    assert moved["release", "held"] == -100
    assert moved["charge", "charged"] == 1500
    assert moved["overrun", "overrun"] == 800
    assert (await ask.get(f"{path}/2026-13")).status_code == 422
    assert (await a_stranger(ask).get(f"{path}/2026-12")).status_code == 403


async def test_an_allocation_burns_down_by_the_days_on_which_things_ran_and_the_forecast_begins_tomorrow(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await know_machine(db)
    await grant(db, amount=10_000)
    for day in range(10):
        await_start = START + timedelta(days=day)
        later(day)
        await charge(db, settings, used(f"j{day}", 100, submitted_at=await_start, started_at=await_start))
    later(10)
    (one,) = (await ask.get("/v1/projects/p1/allocations")).json()["items"]
    burn = (await ask.get(f"/v1/allocations/{one['allocation_id']}/burn")).json()
    assert [(day["used"], day["left"]) for day in burn["days"]] == [
        *((100, 9900 - 100 * day) for day in range(10)), (0, 9000),
    ]  # fmt: skip
    forecast = burn["forecast"]
    assert (forecast["days_seen"], forecast["level"]) == (10, 100)
    assert forecast["ahead"][0] == {"day": "2026-12-02", "expected": 8900, "low": 8900, "high": 8900}
    assert forecast["exhausted_on"] is None
    assert forecast["ahead"][-1]["day"] == one["ends_at"][:10]
    assert sum(day["used"] for day in burn["days"]) == burn["charged"]


async def test_the_register_shows_awards_and_hours_by_kind_of_actor_and_no_person(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    ask.as_("applicant")
    awards = await all_pages(ask, "/v1/register/awards", 1)
    assert [(one["project_id"], one["actor"], one["country"]) for one in awards[:2]] == [
        ("p1", "startup", "FI"),
        ("p2", "sme", "SE"),
    ]
    assert awards[0]["amounts"][0]["used"] == 507
    actors = await all_pages(ask, "/v1/register/actors", 1)
    used_by = {one["actor"]: one["amount"]["used"] for one in actors}
    assert sum(used_by.values()) == 2007
    assert used_by["sme"] == 700
    people = [row["subject"] for row in await db.fetch("SELECT DISTINCT subject FROM membership")]
    users = [row["pseudonym"] for row in await db.fetch("SELECT DISTINCT pseudonym FROM usage_record")]
    assert people
    assert users
    assert not [name for name in (*people, *users, "mmeikalainen") if name in str(awards) + str(actors)]


# The forecast

amounts = st.lists(st.integers(0, 10**15), min_size=LEAST_DAYS, max_size=60)


@given(amounts, st.integers(-(10**15), 10**17), st.integers(1, 500))
def test_the_band_lies_around_the_mean_and_never_below_nothing_or_above_what_is_left(
    daily: list[int], left: int, horizon: int
) -> None:
    found = foresee(daily, left, horizon)
    assert found is not None
    for one in found.ahead:
        assert 0 <= one.low <= one.expected <= one.high <= max(left, 0)
    days = [found.exhausted_earliest, found.exhausted, found.exhausted_latest]
    known = [day for day in days if day is not None]
    assert known == sorted(known)
    assert days == known + [None] * (3 - len(known)), "who may run out later runs out at the earliest too"


@given(st.integers(1, 10**9), st.integers(LEAST_DAYS, 60), st.integers(1, 100))
def test_what_is_used_evenly_runs_out_on_the_day_that_can_be_counted(each: int, days: int, ahead: int) -> None:
    found = foresee([each] * days, left=each * ahead, horizon=ahead + 5)
    assert found is not None
    assert (found.exhausted_earliest, found.exhausted, found.exhausted_latest) == (ahead, ahead, ahead)


@given(st.lists(st.integers(0, 10), max_size=LEAST_DAYS - 1))
def test_a_few_days_say_nothing(daily: list[int]) -> None:
    assert foresee(daily, 100, 10) is None


def test_of_ten_bands_about_eight_hold_what_then_happens() -> None:
    """Seeded days from the very model: a level that moves a little, with errors."""
    chance, held, tries = random.Random(7), 0, 400
    for _ in range(tries):
        level, days = 1e6, []
        for _ in range(74):
            error = chance.gauss(0, 1e5)
            days.append(max(round(level + error), 0))
            level += 0.3 * error
        found = foresee(days[:60], left=10**9, horizon=14)
        assert found is not None
        left = 10**9 - sum(days[60:])
        held += found.ahead[-1].low <= left <= found.ahead[-1].high
    assert 0.72 <= held / tries <= 0.86


# The stream


async def test_a_stream_tells_what_is_there_goes_on_from_the_last_id_and_shows_what_is_allowed(
    db: Database, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    at_once = settings.model_copy(update={"stream_seconds": 0.0})
    async with asking(service, db, at_once) as ask:
        ask.as_("allocation-manager")
        first = await ask.get("/v1/usage-events/stream")
        assert first.headers["content-type"].startswith("text/event-stream")
        events = [block.split("\n") for block in first.text.split("\n\n") if block.startswith("id: ")]
        assert [line[1] for line in events] == ["event: usage-charged"] * 4
        places = [line[0].removeprefix("id: ") for line in events]
        rest = await ask.get("/v1/usage-events/stream", headers={"last-event-id": places[1]})
        assert [line[4:] for line in rest.text.split("\n") if line.startswith("id: ")] == places[2:]
        page = (await ask.get("/v1/usage-events", params={"after": places[1]})).json()
        assert [one["job_id"] for one in page["items"]] == ["j1", "j4"]
        assert (await ask.get("/v1/usage-events/stream", params={"after": "x"})).status_code == 422
        other = await ask.as_("pi", subject="other@example").get("/v1/usage-events/stream")
        assert other.text.count("event: usage-charged") == 1
        assert (await a_stranger(ask).get("/v1/usage-events/stream")).status_code == 403


async def test_a_stream_tells_what_comes_while_it_is_open_and_a_reader_too_many_is_refused(
    db: Database, settings: AccountingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aifn_accounting.api import usage_feed

    await grant(db)
    monkeypatch.setattr(usage_feed, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(usage_feed, "_HEARTBEAT_SECONDS", 0.0)
    reader = usage_feed.Reader(True, [], [], None, (0, 0), float("inf"))
    stream = usage_feed.follow(db, reader)
    assert (await anext(stream)).startswith(":")
    assert await anext(stream) == ": still here\n\n"
    await charge(db, settings, used("j1"))
    while (said := await anext(stream)).startswith(":"):
        pass
    assert '"job_id":"j1"' in said
    monkeypatch.setattr(usage_feed, "MOST_STREAMS", 1)
    async with asking(service, db, settings) as ask:
        refused = await ask.as_("allocation-manager").get("/v1/usage-events/stream")
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
        await stream.aclose()  # type: ignore[attr-defined]
        assert usage_feed._open_streams == 0
