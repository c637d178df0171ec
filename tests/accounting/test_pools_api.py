"""Pools, caps, approvals, people and the trail over HTTP: what is shown, taken and refused, and to whom."""

from typing import Any

import pytest
from aifn_accounting.actions import awards
from aifn_accounting.app import service
from aifn_accounting.settings import AccountingSettings
from aifn_common.answering import describe_api
from aifn_common.database import Database, transaction

from tests.accounting.make import GPU, award, charge, grant, hold, know_machine, used
from tests.accounting.make_pools import have_cap, have_pool, pool_now
from tests.accounting.test_api import PI, WORDS, a_member, a_stranger, all_pages
from tests.support.http import Asker, asking
from tests.support.settings import settings as make_settings

POOL: dict[str, Any] = {
    "pool_id": "lumi-g-union-2026", "kind": "union", "title": "Union's share", "funder": "eurohpc-ju", "resource": GPU,
    "starts_at": "2026-01-01T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z", "reason": "the year's share",
}  # fmt: skip
CAP: dict[str, Any] = {
    "cap_id": "small-2026", "policy_version": "2025-12", "mode_group": "playground_and_fast_lane", "pool_kind": "union",
    "resource": GPU, "starts_at": "2026-01-01T00:00:00Z", "ends_at": "2027-01-01T00:00:00Z", "base": "share",
    "reason": "Access Policy 2025.12",
}  # fmt: skip
FUND = POOL | {"pool_id": "ai-office", "kind": "fund", "title": "AI Office fund", "earmark": "model evaluation"}
BECAUSE = {"reason": "the year is over"}


def a_second_manager(ask: Asker) -> Asker:
    return ask.as_("allocation-manager", subject="second@example")


def a_fund_manager(ask: Asker) -> Asker:
    return ask.as_("newcomer", subject="fund@example", entitlements=["fund-manager:factory:lumi-aif"])


# Pools and caps


async def test_a_pool_is_made_funded_changed_and_explained(db: Database, ask: Asker) -> None:
    await know_machine(db)
    made = await ask.post("/v1/pools", json=POOL)
    assert (made.status_code, made.json()["available"]) == (201, 0)
    assert (await ask.post("/v1/pools", json=POOL)).json()["code"] == "duplicate_pool"
    path = made.headers["location"]
    funded = await ask.post(f"{path}/funding", json={"amount": 1000, "reason": "from the JU"})
    assert (funded.status_code, funded.json()["funded"]) == (200, 1000)
    less = await ask.post(f"{path}/withdrawals", json={"amount": 100, "reason": "needed elsewhere"})
    assert less.json()["available"] == 900
    too_much = await ask.post(f"{path}/withdrawals", json={"amount": 901, "reason": "needed elsewhere"})
    assert (too_much.status_code, too_much.json()["code"], too_much.json()["available"]) == (409, "pool_exhausted", 900)

    words = {"title": "Union's share", "reserved": 10, "reason": "a regular call is open"}
    assert (await ask.put(path, json=words)).status_code == 428
    etag = (await ask.get(path)).headers["etag"]
    changed = await ask.put(path, json=words, headers={"if-match": etag})
    assert (changed.status_code, changed.json()["reserved"]) == (200, 10)
    assert (await ask.put(path, json=words, headers={"if-match": etag})).status_code == 412
    lines = (await ask.get(f"{path}/statement")).json()["items"]
    assert [(one["kind"], one["source_role"], one["amount"]) for one in lines] == [
        ("sub_grant", "funder", 1000), ("transfer", "union_pool", 100),
    ]  # fmt: skip
    trail = await all_pages(ask, "/v1/changes", 2, thing="pool")
    assert [one["action"] for one in trail] == ["create_pool", "fund_pool", "withdraw_from_pool", "change_pool"]
    assert (trail[1]["before"]["funded"], trail[1]["after"]["funded"], trail[1]["reason"]) == (0, 1000, "from the JU")


async def test_lists_of_pools_and_caps_have_filters_and_pages(db: Database, ask: Asker) -> None:
    for name, kind in (("a", "union"), ("b", "national"), ("c", "union")):
        await have_pool(db, name, kind=kind)
    await have_cap(db, "x")
    await have_cap(db, "y", mode_group="regular", modes=("regular",))
    assert [one["pool_id"] for one in await all_pages(ask, "/v1/pools", 2)] == ["a", "b", "c"]
    assert [one["pool_id"] for one in await all_pages(ask, "/v1/pools", 1, kind="union")] == ["a", "c"]
    assert await all_pages(ask, "/v1/pools", 1, open_at="2027-06-01T00:00:00Z") == []
    assert [one["cap_id"] for one in await all_pages(ask, "/v1/caps", 1)] == ["x", "y"]
    assert [one["cap_id"] for one in await all_pages(ask, "/v1/caps", 1, mode="aif_fast_lane")] == ["x"]
    assert len(await all_pages(ask, "/v1/cap-rules", 3, policy_version="2025-12")) == 6
    assert len(await all_pages(a_member(ask).as_("pi"), "/v1/use-or-lose-policies", 2)) == 3


async def test_a_cap_takes_its_ceiling_from_the_published_rule_and_needs_a_source_where_there_is_none(
    db: Database, ask: Asker
) -> None:
    await have_pool(db, amount=5000)
    made = await ask.post("/v1/caps", json=CAP)
    assert made.status_code == 201
    assert (made.json()["pct"], made.json()["ceiling"], made.json()["modes"]) == (
        10,
        500,
        ["aif_playground", "aif_fast_lane"],
    )
    assert (await ask.post("/v1/caps", json=CAP | {"cap_id": "again"})).json()["code"] == "duplicate_cap"
    carried = CAP | {"cap_id": "regular", "mode_group": "regular"}
    assert (await ask.post("/v1/caps", json=carried)).json()["code"] == "unconfirmed_cap"
    assert (await ask.post("/v1/caps", json=carried | {"source": "confirmed by the JU"})).status_code == 201
    own = CAP | {"cap_id": "own", "mode_group": "host", "source": "our board", "base": "stated"}
    assert (await ask.post("/v1/caps", json=own)).json()["code"] == "unconfirmed_cap"
    own |= {"pct": 50, "modes": ["host_national"]}
    assert (await ask.post("/v1/caps", json=own)).json()["code"] == "no_base"
    assert (await ask.post("/v1/caps", json=own | {"base_amount": 300})).json()["ceiling"] == 150
    change = {"pct": 20, "base": "share", "yields": False, "source": "a later policy", "reason": "it has changed"}
    changed = await ask.put("/v1/caps/small-2026", json=change, headers={"if-match": made.headers["etag"]})
    assert changed.json()["ceiling"] == 1000


async def test_headroom_is_live_for_everybody_who_has_a_role(db: Database, ask: Asker) -> None:
    query = {"resource": GPU, "mode": "aif_playground", "policy_version": "2025-12", "at": "2026-11-21T09:00:00Z"}
    applicant = ask.as_("applicant", entitlements=["applicant"])
    assert (await applicant.get("/v1/headroom", params=query)).json()["headroom"] is None
    await have_pool(db, amount=1000)
    await have_cap(db)
    assert (await applicant.get("/v1/headroom", params=query)).json()["headroom"] == 100
    await grant(db, amount=70)
    shown = (await applicant.get("/v1/headroom", params=query)).json()
    assert (shown["headroom"], shown["pool"]["available"], shown["caps"][0]["used"]) == (30, 930, 70)
    later = query | {"at": "2027-06-01T00:00:00Z"}
    assert (await applicant.get("/v1/headroom", params=later)).json()["code"] == "pool_not_open"


async def test_a_grant_out_of_an_empty_pool_is_refused_by_type_and_leaves_nothing(db: Database, ask: Asker) -> None:
    await grant(db)
    await have_pool(db, "national-2026", 1000, kind="national")
    answer = await ask.post("/v1/projects/p1/allocations", json=WORDS | {"amount": 1001})
    assert (answer.status_code, answer.json()["code"], answer.json()["available"]) == (409, "pool_exhausted", 1000)
    assert await db.fetchval("SELECT count(*) FROM allocation") == 1
    given = await ask.post("/v1/projects/p1/allocations", json=WORDS | {"amount": 1000})
    assert (given.status_code, given.json()["pool_id"]) == (201, "national-2026")
    assert await pool_now(db, "national-2026") == (1000, 1000, 0)


async def test_strangers_and_members_change_no_pool_and_no_cap(db: Database, ask: Asker) -> None:
    await have_pool(db, amount=10)
    await have_cap(db)
    for who in (a_member, a_stranger, lambda one: one.as_("auditor")):
        somebody = who(ask)
        assert (await somebody.post("/v1/pools", json=POOL)).status_code == 403
        assert (await somebody.post("/v1/caps", json=CAP)).status_code == 403
        more = {"amount": 1, "reason": "for us"}
        assert (await somebody.post("/v1/pools/union-2026/funding", json=more)).status_code == 403
    foreign = ask.as_("allocation-manager", entitlements=["allocation-manager:factory:bsc-aif"])
    assert (await foreign.post("/v1/pools/union-2026/withdrawals", json=more)).status_code == 403
    assert (await foreign.get("/v1/pools/union-2026/statement")).status_code == 403


async def test_a_fund_regrants_credits_for_its_purpose_and_is_its_managers_alone(db: Database, ask: Asker) -> None:
    await grant(db)
    credit = "lumi-aif/model-api/credit"
    resource = {"resource": credit, "unit": "credit", "title": "API credits", "reason": "the fund gives them"}
    manager = a_fund_manager(ask)
    assert (await manager.post("/v1/resources", json=resource)).status_code == 201
    assert (await manager.post("/v1/resources", json=resource)).json()["code"] == "duplicate_resource"
    assert (await manager.post("/v1/pools", json=POOL)).status_code == 403
    assert (await manager.post("/v1/pools", json=FUND | {"resource": credit})).status_code == 201
    below = FUND | {"resource": credit, "pool_id": "university", "parent": "ai-office"}
    assert (await manager.post("/v1/pools", json=below)).status_code == 201
    assert (
        await manager.post("/v1/pools/ai-office/funding", json={"amount": 500, "reason": "2026"})
    ).status_code == 200
    regrant = {"amount": 200, "source": "ai-office", "reason": "evaluators"}
    assert (await manager.post("/v1/pools/university/funding", json=regrant)).json()["available"] == 200

    words = WORDS | {"resource": credit, "unit": "credit", "amount": 150, "pool_id": "university"}
    assert (await manager.post("/v1/projects/p1/allocations", json=words)).json()["code"] == "wrong_earmark"
    words |= {"earmark": "model evaluation"}
    assert (await manager.post("/v1/projects/p1/allocations", json=words | {"unit": "slice-second"})).json()[
        "code"
    ] == "wrong_unit"
    given = await manager.post("/v1/projects/p1/allocations", json=words)
    assert (given.status_code, given.json()["unit"], given.json()["node_hours"]) == (201, "credit", None)
    assert (await pool_now(db, "ai-office"), await pool_now(db, "university")) == ((500, 200, 300), (200, 150, 50))
    other = ask.as_("allocation-manager")
    assert (await other.post("/v1/projects/p1/allocations", json=words)).status_code == 403
    kinds = [one["unit"] for one in await all_pages(other, "/v1/resources", 1)]
    assert kinds == ["credit"]


# Awards that wait


async def test_awards_that_wait_are_seen_tried_and_withdrawn(db: Database, ask: Asker) -> None:
    await have_pool(db)
    for project in ("p1", "p2"):
        async with transaction(db) as tx:
            await awards.carry_out_award(tx, award(project, 100, application_id=f"app-{project}"))
    shown = await all_pages(ask, "/v1/pending-awards", 1, state="waiting")
    assert [(one["award_id"], one["code"]) for one in shown] == [
        ("award-p1", "pool_exhausted"), ("award-p2", "pool_exhausted"),
    ]  # fmt: skip
    tried = await ask.post("/v1/pending-awards/award-p1/retry")
    assert (tried.json()["state"], tried.json()["tries"]) == ("waiting", 2)
    await ask.post("/v1/pools/union-2026/funding", json={"amount": 500, "reason": "from the JU"})
    assert (await ask.post("/v1/pending-awards/award-p1/retry")).json()["state"] == "carried_out"
    gone = await ask.post("/v1/pending-awards/award-p2/withdrawal", json=BECAUSE)
    assert gone.json()["state"] == "withdrawn"
    again = await ask.post("/v1/pending-awards/award-p2/retry")
    assert (again.status_code, again.json()["code"]) == (409, "award_settled")
    assert (await a_member(ask).post("/v1/pending-awards/award-p2/retry")).status_code == 403
    assert await pool_now(db) == (500, 100, 400)


# A second person


@pytest.fixture
async def careful(db: Database) -> Any:
    """Asks an accounting in which grants above ten node-hours need a second person."""
    strict = make_settings(
        AccountingSettings, pseudonym_key="a-key-for-tests-only", second_person_above={"node-hour": 10}
    )
    async with asking(service, db, strict) as asker:
        yield asker.as_("allocation-manager", subject="first@example")


async def test_a_large_grant_waits_for_another_person_and_takes_nothing_meanwhile(db: Database, careful: Asker) -> None:
    await grant(db)
    await have_pool(db, "national-2026", 64 * 3600 * 11, kind="national")
    path, large = "/v1/projects/p1/allocations", WORDS | {"amount": 64 * 3600 * 11}
    asked = await careful.post(path, json=large)
    assert (asked.status_code, asked.json()["state"]) == (202, "waiting")
    assert await pool_now(db, "national-2026") == (64 * 3600 * 11, 0, 64 * 3600 * 11)
    decide = f"/v1/approvals/{asked.json()['approval_id']}/decision"
    yes = {"approve": True, "reason": "the board agrees"}
    alone = await careful.post(decide, json=yes)
    assert (alone.status_code, alone.json()["code"]) == (403, "same_person")
    assert (await a_member(careful).post(decide, json=yes)).status_code == 403
    decided = await a_second_manager(careful).post(decide, json=yes)
    assert (decided.status_code, decided.json()["state"]) == (200, "approved")
    shown = await careful.get(f"/v1/allocations/{decided.json()['allocation_id']}")
    assert (shown.json()["granted"], shown.json()["granted_by"]) == (64 * 3600 * 11, "first@example")
    assert "second@example" in shown.json()["reason"]
    assert (await careful.post(decide, json=yes)).json()["code"] == "already_decided"
    trail = [one["action"] for one in await all_pages(careful, "/v1/changes", 5, project="p1")]
    assert trail == ["ask_approval", "grant", "decide_approval"]


async def test_small_grants_that_add_up_to_a_large_one_need_a_second_person_too(db: Database, careful: Asker) -> None:
    await know_machine(db)
    await grant(db)
    path, part = "/v1/projects/p1/allocations", WORDS | {"amount": 64 * 3600 * 6}
    assert (await careful.post(path, json=part)).status_code == 201
    asked = await careful.post(path, json=part)
    assert asked.status_code == 202
    decide = f"/v1/approvals/{asked.json()['approval_id']}/decision"
    no = await a_second_manager(careful).post(decide, json={"approve": False, "reason": "too much"})
    assert no.json()["state"] == "rejected"
    waiting = await all_pages(careful, "/v1/approvals", 5, state="waiting")
    assert (waiting, await db.fetchval("SELECT count(*) FROM allocation")) == ([], 2)


async def test_an_approval_that_finds_its_pool_empty_goes_on_waiting(db: Database, careful: Asker) -> None:
    await grant(db)
    await have_pool(db, "national-2026", kind="national")
    large = WORDS | {"amount": 64 * 3600 * 11}
    asked = await careful.post("/v1/projects/p1/allocations", json=large)
    decide = f"/v1/approvals/{asked.json()['approval_id']}/decision"
    yes = {"approve": True, "reason": "the board agrees"}
    refused = await a_second_manager(careful).post(decide, json=yes)
    assert (refused.status_code, refused.json()["code"]) == (409, "pool_exhausted")
    waiting = await all_pages(careful, "/v1/approvals", 5, state="waiting", project="p1")
    assert [one["asked_by"] for one in waiting] == ["first@example"]


# Allocations


async def test_top_ups_and_extensions_need_the_revision_that_was_read(db: Database, ask: Asker) -> None:
    await know_machine(db)
    await grant(db)
    listed = await all_pages(ask, "/v1/allocations", 1, resource=GPU, mode="aif_playground")
    path = f"/v1/allocations/{listed[0]['allocation_id']}"
    etag = (await ask.get(path)).headers["etag"]
    more = {"amount": 50, "reason": "a referee asked for it"}
    assert (await ask.post(f"{path}/top-ups", json=more)).status_code == 428
    topped = await ask.post(f"{path}/top-ups", json=more, headers={"if-match": etag})
    assert (topped.status_code, topped.json()["granted"], topped.json()["revision"]) == (200, 1_000_050, 1)
    later = {"ends_at": "2027-02-01T00:00:00Z", "reason": "the model is late"}
    assert (await ask.post(f"{path}/extensions", json=later, headers={"if-match": etag})).status_code == 412
    extended = await ask.post(f"{path}/extensions", json=later, headers={"if-match": '"r1"'})
    assert (extended.status_code, extended.json()["ends_at"]) == (200, "2027-02-01T00:00:00Z")
    earlier = await ask.post(
        f"{path}/extensions", json=later | {"ends_at": "2026-12-01T00:00:00Z"}, headers={"if-match": '"r2"'}
    )
    assert (earlier.status_code, earlier.json()["code"]) == (422, "invalid")
    assert (await a_member(ask).post(f"{path}/top-ups", json=more, headers={"if-match": '"r2"'})).status_code == 403
    assert await all_pages(ask, "/v1/allocations", 1, ends_before="2027-01-01T00:00:00Z") == []


async def test_limits_say_what_rules_leave_of_an_allocation(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await have_pool(db, amount=5000, use_or_lose="cineca-monthly")
    await grant(db, amount=1000, mode="regular", inference_cap_pct=10)
    await hold(db, "i1", 60, workload="inference")
    await charge(db, settings, used("t1", 200))
    (one,) = await all_pages(ask, "/v1/allocations", 1)
    shown = (await a_member(ask).get(f"/v1/allocations/{one['allocation_id']}/limits")).json()
    assert shown["inference"] == {"cap_pct": 10, "limit": 100, "used": 60, "left": 40}
    assert (shown["growth_left"], shown["latest_end"]) == (100, "2027-04-20T09:00:00Z")
    assert (shown["use_or_lose"]["id"], shown["month"]["used"], shown["month"]["over"]) == ("cineca-monthly", 200, 0)
    assert shown["contract_needed_until"] == "2027-04-20"


# People and projects


async def test_contracts_are_kept_judged_and_shown_to_those_who_may_see_them(db: Database, ask: Asker) -> None:
    await grant(db)
    path = f"/v1/projects/p1/people/{PI}"
    words = {"contract_ends_on": "2027-03-01", "local_user": "mmeikalainen", "reason": "says the host"}
    assert (await a_member(ask).put(path, json=words, headers={"if-match": '"r0"'})).status_code == 403
    put = await ask.as_("allocation-manager").put(path, json=words, headers={"if-match": '"r0"'})
    assert (put.status_code, put.json()["outlives"]) == (200, False)
    assert (await ask.put(path, json=words, headers={"if-match": '"r0"'})).status_code == 412
    (shown,) = (await a_member(ask).get("/v1/projects/p1/people")).json()["items"]
    assert (shown["contract_ends_on"], shown["local_user"]) == ("2027-03-01", "mmeikalainen")
    assert (await ask.as_("auditor").get("/v1/projects/p1/people")).status_code == 403
    unknown = await ask.as_("allocation-manager").put(f"{path}-2", json=words, headers={"if-match": '"r0"'})
    assert unknown.status_code == 404
    long = WORDS | {"ends_at": "2026-12-02T00:00:00Z"}
    await know_machine(db)
    refused = await ask.post("/v1/projects/p1/allocations", json=long)
    assert (refused.status_code, refused.json()["code"]) == (409, "contract_too_short")


async def test_use_by_person_has_names_inside_and_pseudonyms_outside(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await charge(db, settings, used("a", 100), used("b", 50, local_user="other"), used("a", 70, revision=1))
    path = "/v1/projects/p1/usage-by-person"
    person = {"contract_ends_on": None, "local_user": "mmeikalainen", "reason": "says the site"}
    await ask.put(f"/v1/projects/p1/people/{PI}", json=person, headers={"if-match": '"r0"'})
    own = {one["local_user"]: (one["amount"], one["jobs"], one["subject"]) for one in await all_pages(ask, path, 1)}
    assert own == {"mmeikalainen": (70, 1, PI), "other": (50, 1, None)}
    outside = await all_pages(ask.as_("auditor"), path, 1)
    assert {(one["local_user"], one["subject"], one["amount"]) for one in outside} == {
        (None, None, 70),
        (None, None, 50),
    }
    assert all(one["user"].startswith("u-") for one in outside)
    await db.execute("UPDATE membership SET role = 'member'")
    mine = await all_pages(a_member(ask), path, 5)
    assert [(one["local_user"], one["amount"]) for one in mine] == [("mmeikalainen", 70)]
    nothing = await all_pages(ask, path, 5, since="2030-01-01T00:00:00Z")
    assert nothing == []
    assert (await a_stranger(ask).get(path)).status_code == 403


async def test_names_that_awards_give_are_reserved(db: Database, ask: Asker) -> None:
    words = {"project_id": "aif-2026-0117", "title": "Weather", "principal_investigator": PI}
    refused = await ask.post("/v1/projects", json=words)
    assert (refused.status_code, refused.json()["code"]) == (409, "reserved_project_id")
    assert (await ask.post("/v1/projects", json=words | {"project_id": "aif-2026-weather"})).status_code == 201
    async with transaction(db) as tx:
        await awards.carry_out_award(tx, award("aif-2026-0117"))
    assert (await ask.get("/v1/projects/aif-2026-0117")).status_code == 200


async def test_a_project_is_closed_once_by_its_manager_when_nothing_is_held(db: Database, ask: Asker) -> None:
    await grant(db)
    await hold(db)
    path = "/v1/projects/p1/closure"
    assert (await a_member(ask).post(path, json=BECAUSE, headers={"if-match": '"r0"'})).status_code == 403
    manager = ask.as_("allocation-manager")
    assert (await manager.post(path, json=BECAUSE)).status_code == 428
    refused = await manager.post(path, json=BECAUSE, headers={"if-match": '"r0"'})
    assert (refused.status_code, refused.json()["code"], refused.json()["held"]) == (409, "holds_open", 1000)
    await grant(db, "p2", application_id="app-2")
    done = await manager.post("/v1/projects/p2/closure", json=BECAUSE, headers={"if-match": '"r0"'})
    assert (done.status_code, done.json()["closed"]) == (200, True)
    again = await manager.post("/v1/projects/p2/closure", json=BECAUSE, headers={"if-match": done.headers["etag"]})
    assert again.json()["code"] == "project_closed"


async def test_the_trail_is_append_only_and_for_those_who_look_after_it(db: Database, ask: Asker) -> None:
    await have_pool(db, amount=5)
    with pytest.raises(Exception, match="append-only"):
        await db.execute("DELETE FROM change_log")
    assert (await a_member(ask).get("/v1/changes")).status_code == 403
    seen = await all_pages(ask.as_("auditor"), "/v1/changes", 1)
    assert [(one["action"], one["actor"]) for one in seen] == [
        ("create_pool", "manager@example"), ("fund_pool", "manager@example"),
    ]  # fmt: skip


def test_every_route_of_pools_and_people_is_in_the_document() -> None:
    paths = describe_api(service).openapi()["paths"]
    for path in ("/v1/pools/{pool_id}/funding", "/v1/headroom", "/v1/pending-awards/{award_id}/retry", "/v1/clearing"):
        assert path in paths
