"""Accounting's HTTP interface: what it shows, what it takes, what it refuses, and to whom."""

import asyncio
from hashlib import sha256
from typing import Any

import httpx
import pytest
from aifn_accounting.actions import usage
from aifn_accounting.app import service
from aifn_accounting.settings import AccountingSettings
from aifn_common.answering import describe_api
from aifn_common.database import Database, transaction
from aifn_events.access import AllocationOpened
from aifn_events.usage import UsageDayStated

from tests.accounting.make import (
    GPU,
    GRANTED,
    START,
    announced,
    charge,
    close,
    grant,
    hold,
    hours,
    know_machine,
    used,
)
from tests.support.http import Asker

PI = "7c1d@myaccessid"
WORDS: dict[str, Any] = {
    "resource": GPU,
    "amount": 64 * 3600,
    "unit": "slice-second",
    "pool": "national",
    "starts_at": "2026-11-21T00:00:00Z",
    "ends_at": "2027-11-21T00:00:00Z",
    "reason": "national call 2026-2",
}


def a_member(ask: Asker) -> Asker:
    """The principal investigator of p1, who has no role but that."""
    return ask.as_("pi", subject=PI)


def a_stranger(ask: Asker) -> Asker:
    """Somebody with a role, but not here."""
    return ask.as_("pi", subject="stranger@example")


async def all_pages(ask: Asker, path: str, limit: int, **params: Any) -> list[dict[str, Any]]:
    """Follow `next` until a page has none, or nothing on it."""
    seen: list[dict[str, Any]] = []
    for _ in range(100):
        page = (await ask.get(path, params={"limit": limit, **params})).json()
        seen += page["items"]
        if page["next"] is None or not page["items"]:
            break
        params["after"] = page["next"]
    return seen


# Projects


async def test_people_see_their_own_projects_and_managers_all_of_their_factory(db: Database, ask: Asker) -> None:
    await grant(db, "p1")
    await grant(db, "p2", principal_investigator="other@example")
    await grant(db, "p3", factory_id="bsc-aif", principal_investigator="other@example")
    assert [one["project_id"] for one in await all_pages(ask, "/v1/projects", 1)] == ["p1", "p2"]
    assert [one["project_id"] for one in await all_pages(a_member(ask), "/v1/projects", 1)] == ["p1"]
    assert [one["project_id"] for one in await all_pages(ask.as_("auditor"), "/v1/projects", 2)] == ["p1", "p2", "p3"]
    assert (await a_stranger(ask).get("/v1/projects")).status_code == 403


async def test_a_project_shows_its_members_and_is_unknown_or_forbidden_to_others(db: Database, ask: Asker) -> None:
    await grant(db)
    answer = await a_member(ask).get("/v1/projects/p1")
    assert answer.json()["members"] == [{"subject": PI, "role": "pi"}]
    known = {"if-none-match": answer.headers["etag"]}
    assert (await ask.get("/v1/projects/p1", headers=known)).status_code == 304
    missing = await ask.get("/v1/projects/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (await a_stranger(ask).get("/v1/projects/p1")).status_code == 403


async def test_a_manager_makes_a_project_once(db: Database, ask: Asker) -> None:
    words = {"project_id": "host-1", "title": "Weather", "principal_investigator": PI}
    made = await ask.post("/v1/projects", json=words)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/projects/host-1")
    again = await ask.post("/v1/projects", json=words)
    assert (again.status_code, again.json()["code"]) == (409, "duplicate_project")
    unnamed = await ask.post("/v1/projects", json=words | {"project_id": None})
    assert unnamed.json()["project_id"].startswith("prj-")
    assert (await a_member(ask).post("/v1/projects", json=words)).status_code == 403
    assert (await ask.get("/v1/projects/host-1")).json()["members"] == [{"subject": PI, "role": "pi"}]


async def test_members_change_only_from_the_revision_that_was_read(db: Database, ask: Asker) -> None:
    await grant(db)
    etag = (await a_member(ask).get("/v1/projects/p1")).headers["etag"]
    words = {"members": [{"subject": PI, "role": "pi"}, {"subject": "new@example", "role": "member"}]}
    path = "/v1/projects/p1/members"
    assert (await ask.put(path, json=words)).status_code == 428
    changed = await ask.put(path, json=words, headers={"if-match": etag})
    assert (changed.status_code, len(changed.json()["members"])) == (200, 2)
    assert (await ask.put(path, json=words, headers={"if-match": etag})).status_code == 412
    assert [one["project_id"] for one in await all_pages(ask.as_("pi", subject="new@example"), "/v1/projects", 5)] == [
        "p1"
    ]
    mere_member = await ask.put(path, json=words, headers={"if-match": changed.headers["etag"]})
    assert mere_member.status_code == 403


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([{"subject": PI, "role": "member"}], "no_principal_investigator"),
        ([{"subject": PI, "role": "pi"}, {"subject": PI, "role": "member"}], "invalid"),
        ([{"subject": PI, "role": "king"}], "invalid"),
        ([], "invalid"),
    ],
)
async def test_a_list_of_members_that_makes_no_sense_is_refused(
    db: Database, ask: Asker, members: list[dict[str, str]], code: str
) -> None:
    await grant(db)
    answer = await ask.put("/v1/projects/p1/members", json={"members": members}, headers={"if-match": '"r0"'})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await db.fetchval("SELECT role FROM membership") == "pi"


# Allocations


async def test_balances_are_shown_in_units_and_in_hours(db: Database, ask: Asker, settings: AccountingSettings) -> None:
    await know_machine(db)
    await grant(db, amount=100 * 64 * 3600)
    await hold(db, amount=10 * 64 * 3600)
    await charge(db, settings, used(amount=8 * 3600))
    [one] = (await a_member(ask).get("/v1/projects/p1/allocations")).json()["items"]
    assert (one["granted"], one["charged"]) == (100 * 64 * 3600, 8 * 3600)
    assert one["granted"] == one["available"] + one["held"] + one["charged"] - one["overrun"]
    assert one["node_hours"] == {
        "granted": "100.000",
        "available": "90.000",
        "held": "9.875",
        "charged": "0.125",
        "overrun": "0.000",
    }
    assert (one["gpu_hours"]["charged"], one["gpu_hours"]["granted"]) == ("0.500", "400.000")
    assert (one["machine_id"], one["partition_id"], one["unit"]) == ("lumi", "lumi-g", "slice-second")
    assert (one["units_per_node"], one["devices_per_node"], one["gpus_per_node"]) == (64, 8, 4)
    assert (await ask.get(f"/v1/allocations/{one['allocation_id']}")).json() == one
    assert (await a_stranger(ask).get(f"/v1/allocations/{one['allocation_id']}")).status_code == 403
    assert (await ask.get("/v1/projects/p1/allocations")).status_code == 403
    assert (await ask.get("/v1/allocations/alloc-none")).status_code == 404


@pytest.mark.parametrize("granted", [True, False])
async def test_balances_are_for_who_is_a_member_at_that_moment(db: Database, ask: Asker, granted: bool) -> None:
    path = "/v1/projects/p1/allocations"
    if granted:
        await grant(db, amount=64 * 3600)
    else:
        words = {"project_id": "p1", "title": "Nothing yet", "principal_investigator": PI}
        assert (await ask.post("/v1/projects", json=words)).status_code == 201
    assert len((await a_member(ask).get(path)).json()["items"]) == int(granted)
    assert (await a_stranger(ask).get(path)).status_code == 403
    await db.execute("DELETE FROM membership WHERE subject = $1", PI)
    assert (await a_member(ask).get(path)).status_code == 403
    assert (await ask.get("/v1/projects/p0/allocations")).status_code == 404


async def test_many_who_ask_at_once_each_get_what_is_theirs(db: Database, ask: Asker) -> None:
    await know_machine(db)
    numbers = range(1, 9)
    for number in numbers:
        await grant(db, f"p{number}", amount=number * 64 * 3600, principal_investigator=f"person{number}@example")

    async def look(project: int, person: int, query: str = "") -> httpx.Response:
        ask.as_("pi", subject=f"person{person}@example")
        return await ask.get(f"/v1/projects/p{project}/allocations{query}")

    theirs = [asyncio.create_task(look(number, number)) for number in numbers]
    await asyncio.sleep(0)
    others = [asyncio.create_task(look(number, number + 1)) for number in numbers]
    missing = asyncio.create_task(look(99, 1))
    cut = asyncio.create_task(look(2, 2, "?limit=1"))
    shown = [(await one).json()["items"] for one in theirs]
    assert [[one["granted"] for one in items] for items in shown] == [[number * 64 * 3600] for number in numbers]
    assert [[one["project_id"] for one in items] for items in shown] == [[f"p{number}"] for number in numbers]
    assert [(await one).status_code for one in others] == [403] * len(numbers)
    assert (await missing).status_code == 404
    assert (await cut).json()["next"] is None


async def test_hours_are_not_shown_while_the_machine_is_not_known(db: Database, ask: Asker) -> None:
    await grant(db)
    [one] = (await ask.get("/v1/projects/p1/allocations")).json()["items"]
    assert (one["granted"], one["node_hours"], one["gpu_hours"]) == (GRANTED, None, None)


async def test_a_grant_is_given_once_however_often_it_is_sent(db: Database, ask: Asker) -> None:
    await know_machine(db)
    await grant(db)
    key = {"idempotency-key": "once"}
    first = await ask.post("/v1/projects/p1/allocations", json=WORDS, headers=key)
    again = await ask.post("/v1/projects/p1/allocations", json=WORDS, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert (first.json()["node_hours"]["granted"], first.json()["reason"]) == ("1.000", "national call 2026-2")
    assert await db.fetchval("SELECT count(*) FROM allocation") == 2
    opened = [AllocationOpened.model_validate_json(row["value"]) for row in await announced(db, AllocationOpened.topic)]
    assert [(one.pool, one.award_id) for one in opened] == [("union", "award-p1"), ("national", None)]
    assert len(await all_pages(ask, "/v1/projects/p1/allocations", 1)) == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"amount": 0}, "invalid"),
        ({"amount": -5}, "invalid"),
        ({"amount": 1.5}, "invalid"),
        ({"amount": 10**15 + 1}, "invalid"),
        ({"amount": 10**30}, "invalid"),
        ({"unit": "node-hour"}, "wrong_unit"),
        ({"resource": "lumi/lumi-g"}, "invalid"),
        ({"resource": "lumi/lumi-x/gpu-time"}, "unknown_resource"),
        ({"pool": "private"}, "invalid"),
        ({"reason": "  "}, "invalid"),
        ({"reason": None}, "invalid"),
        ({"ends_at": WORDS["starts_at"]}, "invalid"),
        ({"starts_at": 1700000000}, "invalid"),
        ({"gift": True}, "invalid"),
    ],
)
async def test_a_grant_that_makes_no_sense_is_refused(
    db: Database, ask: Asker, change: dict[str, Any], code: str
) -> None:
    await know_machine(db)
    await grant(db)
    answer = await ask.post("/v1/projects/p1/allocations", json=WORDS | change)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await db.fetchval("SELECT count(*) FROM allocation") == 1


async def test_only_a_manager_of_the_factory_grants_and_only_to_a_project_there_is(db: Database, ask: Asker) -> None:
    await know_machine(db)
    await grant(db)
    await grant(db, "p2", factory_id="bsc-aif")
    assert (await ask.post("/v1/projects/nothing/allocations", json=WORDS)).status_code == 404
    assert (await ask.post("/v1/projects/p2/allocations", json=WORDS)).status_code == 403
    assert (await a_member(ask).post("/v1/projects/p1/allocations", json=WORDS)).status_code == 403
    assert await db.fetchval("SELECT count(*) FROM allocation") == 2


@pytest.mark.parametrize("owners", [["bsc-aif"], []])
async def test_nobody_grants_time_on_a_machine_of_another_factory_or_of_none(
    db: Database, ask: Asker, owners: list[str]
) -> None:
    await know_machine(db, factory_ids=owners)
    await grant(db)
    answer = await ask.post("/v1/projects/p1/allocations", json=WORDS)
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_resource")
    assert (answer.json()["resource"], answer.json()["factory_id"]) == (GPU, "lumi-aif")
    assert await db.fetchval("SELECT count(*) FROM allocation") == 1


async def test_each_factory_of_a_shared_machine_grants_and_one_that_left_it_does_not(db: Database, ask: Asker) -> None:
    await grant(db)
    await know_machine(db, factory_ids=["bsc-aif", "lumi-aif"])
    assert (await ask.post("/v1/projects/p1/allocations", json=WORDS)).status_code == 201
    await know_machine(db, factory_ids=["bsc-aif"], revision=1)
    assert (await ask.post("/v1/projects/p1/allocations", json=WORDS)).status_code == 403


async def test_a_statement_tells_every_posting_and_they_sum_to_the_balances(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await hold(db, amount=1000)
    await charge(db, settings, used(amount=600))
    await close(db)
    await charge(db, settings, used(amount=500, revision=1))
    [one] = (await a_member(ask).get("/v1/projects/p1/allocations")).json()["items"]
    lines = await all_pages(ask, f"/v1/allocations/{one['allocation_id']}/statement", 2)
    assert [line["kind"] for line in lines] == ["grant", "hold", "charge", "release", "refund"]
    assert [line["job_id"] for line in lines] == [None, "j1", "j1", "j1", "j1"]
    assert [line["usage"]["revision"] if line["usage"] else None for line in lines] == [None, None, 0, None, 1]
    sums: dict[str, int] = {}
    for line in lines:
        assert sum(posting["amount"] for posting in line["postings"]) == 0
        for posting in line["postings"]:
            sums[posting["account"]] = sums.get(posting["account"], 0) + posting["amount"]
    assert sums == {"union_pool": -GRANTED, "available": GRANTED - 500, "held": 0, "consumed": 500}
    assert (await a_stranger(ask).get(f"/v1/allocations/{one['allocation_id']}/statement")).status_code == 403


# Usage


async def test_every_charge_can_be_read_from_the_first_and_one_goes_on_where_one_was(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db, "p1")
    await grant(db, "p2", principal_investigator="other@example")
    await charge(db, settings, *(used(f"j{n}", n + 1, f"p{n % 2 + 1}") for n in range(6)))
    seen = await all_pages(ask, "/v1/usage-events", 4)
    assert [one["amount"] for one in seen] == [1, 2, 3, 4, 5, 6]
    assert {one["user"][:2] for one in seen} == {"u-"}
    last = (await ask.get("/v1/usage-events", params={"limit": 100})).json()["next"]
    assert (await ask.get("/v1/usage-events", params={"after": last})).json() == {"items": [], "next": None}
    await charge(db, settings, used("j0", 50, revision=1))
    [new] = (await ask.get("/v1/usage-events", params={"after": last})).json()["items"]
    assert (new["job_id"], new["revision"], new["amount"]) == ("j0", 1, 50)
    assert len(await all_pages(ask, "/v1/usage-events", 2, project="p2")) == 3
    assert {one["project_id"] for one in await all_pages(a_member(ask), "/v1/usage-events", 3)} == {"p1"}
    assert await all_pages(ask, "/v1/usage-events", 3, project="p2") == []
    assert (await a_stranger(ask).get("/v1/usage-events")).status_code == 403


async def test_a_job_shows_what_it_held_and_what_its_segments_cost(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await hold(db, amount=1000)
    await charge(db, settings, used(amount=300), used(amount=200, segment=1), used(amount=310, revision=1))
    job = (await a_member(ask).get("/v1/jobs/j1/charges")).json()
    assert (job["held"], job["remaining"], job["charged"], job["segments_charged"]) == (1000, 490, 510, 2)
    assert (job["outcome"], job["released_at"]) == (None, None)
    assert [(one["segment"], one["revision"], one["amount"]) for one in job["charges"]] == [(1, 0, 200), (0, 1, 310)]
    await close(db, segments=2)
    job = (await ask.get("/v1/jobs/j1/charges")).json()
    assert (job["remaining"], job["outcome"], job["segments_expected"]) == (0, "completed", 2)
    assert job["released_at"] is not None
    assert (await a_stranger(ask).get("/v1/jobs/j1/charges")).status_code == 403
    assert (await ask.get("/v1/jobs/j2/charges")).status_code == 404


async def test_what_a_job_cost_another_project_is_not_shown_to_its_own(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await grant(db, "p2", principal_investigator="other@example")
    await hold(db, amount=1000)
    await charge(db, settings, used(amount=300), used(amount=200, project="p2", segment=1, local_user="secret"))
    job = (await a_member(ask).get("/v1/jobs/j1/charges")).json()
    assert (job["project_id"], job["charged"], job["segments_charged"]) == ("p1", 300, 1)
    assert [one["project_id"] for one in job["charges"]] == ["p1"]


async def test_usage_without_a_placement_is_shown_too(db: Database, ask: Asker, settings: AccountingSettings) -> None:
    await grant(db)
    await charge(db, settings, used(amount=300))
    job = (await a_member(ask).get("/v1/jobs/j1/charges")).json()
    assert (job["held"], job["allocation_id"], job["charged"]) == (0, None, 300)


async def test_a_day_is_complete_when_count_amounts_and_digest_agree(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    odd = START.replace(microsecond=5)
    records = [
        used("j1", 10),
        used("j2", 20, submitted_at=odd),
        used("j3", 30, local_job_id="LOCAL"),
        used("j1", 11, revision=1),
    ]
    late = used("j4", 40, started_at=START - hours(24))
    lines = sorted(
        f"{one.local_job_id}|{one.submitted_at.isoformat().replace('+00:00', 'Z')}|{one.segment}|{one.revision}\n"
        for one in records[1:]
    )
    stated = UsageDayStated.example(
        records=3,
        totals=[{"resource": GPU, "records": 3, "amount": 61}],
        digest=sha256("".join(lines).encode()).hexdigest(),
    )
    async with transaction(db) as tx:
        await usage.state_usage_day(tx, stated)
    await charge(db, settings, *records[:3], late)
    ask.as_("operator")
    [day] = (await ask.get("/v1/completeness", params={"machine": "lumi"})).json()["items"]
    assert (day["complete"], day["records"], day["totals"][0]["amount"]) == (False, 3, 60)
    await charge(db, settings, records[3])
    [day] = (await ask.get("/v1/completeness", params={"machine": "lumi"})).json()["items"]
    assert (day["complete"], day["digest"]) == (True, stated.digest)
    assert (await ask.get("/v1/completeness", params={"machine": "bsc"})).json()["items"] == []
    assert (await ask.get("/v1/completeness")).status_code == 422
    assert (await a_stranger(ask).get("/v1/completeness", params={"machine": "lumi"})).status_code == 403


async def test_days_come_in_pages(db: Database, ask: Asker) -> None:
    for day in ("2026-11-03", "2026-11-01", "2026-11-02"):
        async with transaction(db) as tx:
            await usage.state_usage_day(tx, UsageDayStated.example(day=day))
    seen = await all_pages(ask, "/v1/completeness", 1, machine="lumi")
    assert [one["day"] for one in seen] == ["2026-11-01", "2026-11-02", "2026-11-03"]
    assert {one["complete"] for one in seen} == {False}


# The books


async def test_the_books_are_verified_with_numbers_for_every_check(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await hold(db, amount=1000)
    await charge(db, settings, used(amount=600))
    ask.as_("auditor")
    answer = (await ask.get("/v1/ledger/verify")).json()
    assert answer["passed"]
    found = {one["check"]: (one["expected"], one["found"]) for one in answer["checks"]}
    assert found["charged is the sum of unique usage records"] == (600, 600)
    assert found["held is the sum of what jobs hold"] == (400, 400)
    assert found["available is the sum of its postings"] == (GRANTED - 1000, GRANTED - 1000)
    assert found["postings of all accounts sum to zero"] == (0, 0)
    await db.execute("UPDATE allocation SET held = held - 1, available = available + 1")
    assert not (await ask.get("/v1/ledger/verify")).json()["passed"]
    assert (await a_stranger(ask).get("/v1/ledger/verify")).status_code == 403


# Any route


@pytest.mark.parametrize("path", ["/v1/usage-events", "/v1/projects/p1/allocations", "/v1/completeness?machine=lumi"])
async def test_a_cursor_of_somewhere_else_is_refused(db: Database, ask: Asker, path: str) -> None:
    await grant(db)
    for cursor in ("not base64!", "bm9uc2Vuc2U", "LTE", "OTk5OTk5OTk5OTk5OTk5OTk5OTk"):
        answer = await ask.get(path, params={"after": cursor} | ({"machine": "lumi"} if "machine" in path else {}))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_nobody_asks_without_a_token(db: Database, ask: Asker) -> None:
    del ask.headers["authorization"]
    for path in describe_api(service).openapi()["paths"]:
        if path.startswith("/v1/"):
            assert (await ask.get(path.replace("{", "").replace("}", ""))).status_code in (401, 405)
