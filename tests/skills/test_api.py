"""Skills over HTTP: shapes, permissions, refusals."""

from typing import Any

import pytest
from aifn_common.database import Database, transaction
from aifn_common.membership import remember_project

from tests.skills.make import LATER, described, granted, hear, jump_to, load, machine, session, teach
from tests.support.http import Asker

WORDS: dict[str, Any] = {"title": "Porting to ROCm", "kind": "hands_on", "level": "hpc_familiar", "hours": 8}
TIMES: dict[str, Any] = {
    "starts_at": "2126-12-03T08:00:00Z",
    "ends_at": "2126-12-03T16:00:00Z",
    "teaching": "online",
    "seats": 2,
}


async def test_everybody_signed_in_can_search_the_catalogue(api: Asker, db: Database) -> None:
    await load(db)
    answer = await api.as_("applicant").get("/v1/courses", params={"q": "rocm", "level": "hpc_familiar"})
    (view,) = answer.json()["items"]
    assert (view["course_id"], view["provider"], view["example"]) == ("rocm-porting", "lumi-aif", True)
    one = await api.get("/v1/courses/rocm-porting")
    assert one.json() == view
    assert (
        await api.get("/v1/courses/rocm-porting", headers={"if-none-match": one.headers["etag"]})
    ).status_code == 304


async def test_a_long_list_comes_in_pages(api: Asker, db: Database) -> None:
    await load(db)
    api.as_("pi")
    for path, key, count in (("/v1/courses", "course_id", 16), ("/v1/sessions", "session_id", 8)):
        seen: list[str] = []
        after: dict[str, Any] = {}
        while True:
            page = (await api.get(path, params={"limit": 3} | after)).json()
            seen += [item[key] for item in page["items"]]
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert len(seen) == len(set(seen)) == count


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/seats"])
@pytest.mark.parametrize("cursor", ["eA", "eCB5", "MjAyNi0xMS0yMVQwOTowMDowMCB4"])
async def test_a_cursor_of_another_list_is_refused_or_harmless(api: Asker, path: str, cursor: str) -> None:
    answer = await api.as_("applicant").get(path, params={"after": cursor})
    assert answer.status_code in (200, 422)
    assert path == "/v1/seats" or answer.json()["code"] == "invalid"


async def test_a_trainer_adds_and_changes_a_course_of_the_factory(api: Asker) -> None:
    made = await api.as_("trainer").post("/v1/courses", json=WORDS | {"course_id": "porting", "topics": ["rocm"]})
    assert (made.status_code, made.headers["location"]) == (201, "/v1/courses/porting")
    assert (made.json()["provider"], made.json()["example"]) == ("lumi-aif", False)
    again = await api.post("/v1/courses", json=WORDS | {"course_id": "porting"})
    assert (again.status_code, again.json()["code"]) == (409, "course_exists")
    changed = WORDS | {"title": "Porting"}
    assert (await api.put("/v1/courses/porting", json=changed)).status_code == 428
    done = await api.put("/v1/courses/porting", json=changed, headers={"if-match": made.headers["etag"]})
    assert (done.status_code, done.json()["revision"], done.json()["title"]) == (200, 1, "Porting")
    late = await api.put("/v1/courses/porting", json=WORDS, headers={"if-match": made.headers["etag"]})
    assert late.status_code == 412


async def test_only_trainers_of_the_teaching_factory_write(api: Asker, db: Database) -> None:
    await load(db)
    for persona, entitlements in (("pi", None), ("trainer", ["trainer:factory:bsc-aif"])):
        api.as_(persona, entitlements=entitlements)
        assert (await api.post("/v1/courses", json=WORDS | {"course_id": "porting"})).status_code == 403
        assert (await api.post("/v1/courses/rocm-porting/sessions", json=TIMES)).status_code == 403
        put = await api.put("/v1/courses/rocm-porting", json=WORDS, headers={"if-match": '"r0"'})
        assert put.status_code == 403
    api.as_("trainer")
    foreign = await api.put("/v1/courses/python-to-gpu", json=WORDS, headers={"if-match": '"r0"'})
    assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"hours": 0}, "invalid"),
        ({"hours": 10**9}, "invalid"),
        ({"level": "guru"}, "invalid"),
        ({"title": " "}, "invalid"),
        ({"topics": ["Not A Topic"]}, "invalid"),
        ({"prerequisites": ["nothing"]}, "prerequisite_wrong"),
        ({"prerequisites": ["porting"]}, "prerequisite_wrong"),
        ({"colour": "red"}, "invalid"),
    ],
)
async def test_a_course_that_makes_no_sense_is_refused_and_not_kept(
    api: Asker, db: Database, words: dict[str, Any], code: str
) -> None:
    answer = await api.as_("trainer").post("/v1/courses", json=WORDS | {"course_id": "porting"} | words)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await db.fetchval("SELECT count(*) FROM course") == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"seats": 0}, "invalid"),
        ({"seats": -3}, "invalid"),
        ({"seats": 10**6}, "invalid"),
        ({"starts_at": "2126-12-03T08:00:00"}, "invalid"),
        ({"starts_at": "2020-12-03T08:00:00Z"}, "session_times_wrong"),
        ({"ends_at": "2126-12-03T08:00:00Z"}, "session_times_wrong"),
    ],
)
async def test_a_session_that_makes_no_sense_is_refused(
    api: Asker, db: Database, words: dict[str, Any], code: str
) -> None:
    await teach(db)
    answer = await api.as_("trainer").post("/v1/courses/porting/sessions", json=TIMES | words)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert await db.fetchval("SELECT count(*) FROM session") == 0


async def test_people_book_their_own_seat_until_all_are_taken(api: Asker, db: Database) -> None:
    await teach(db)
    planned = await api.as_("trainer").post("/v1/courses/porting/sessions", json=TIMES | {"session_id": "s1"})
    assert (planned.status_code, planned.json()["seats_free"]) == (201, 2)
    for subject in ("mari", "ada"):
        booked = await api.as_("applicant", subject=subject).post("/v1/sessions/s1/seats")
        assert (booked.status_code, booked.json()["subject"]) == (201, subject)
    twice = await api.post("/v1/sessions/s1/seats")
    assert (twice.status_code, twice.json()["code"]) == (409, "seat_booked_already")
    full = await api.as_("applicant", subject="eve").post("/v1/sessions/s1/seats")
    assert (full.status_code, full.json()["code"], full.json()["seats"]) == (409, "sold_out", 2)
    assert (await api.delete("/v1/sessions/s1/seats/mine")).status_code == 404
    left = await api.as_("applicant", subject="mari").delete("/v1/sessions/s1/seats/mine")
    assert (left.status_code, left.json()["seats_free"]) == (200, 1)
    assert (await api.get("/v1/sessions/s1")).json()["seats_free"] == 1


async def test_the_same_booking_with_an_idempotency_key_is_answered_as_before(api: Asker, db: Database) -> None:
    await teach(db, session())
    answers = [
        await api.as_("applicant").post("/v1/sessions/porting-1/seats", headers={"idempotency-key": "k"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()


async def test_a_session_that_has_begun_is_refused_and_leaves_the_list(api: Asker, db: Database) -> None:
    await teach(db, session())
    jump_to(LATER)
    refused = await api.as_("applicant").post("/v1/sessions/porting-1/seats")
    assert (refused.status_code, refused.json()["code"]) == (409, "session_past")
    assert (await api.get("/v1/sessions")).json()["items"] == []
    assert len((await api.get("/v1/sessions", params={"past": True})).json()["items"]) == 1


async def test_people_see_their_own_seats_and_trainers_those_of_their_factory(api: Asker, db: Database) -> None:
    await teach(db, session())
    for subject in ("mari", "ada"):
        await api.as_("applicant", subject=subject).post("/v1/sessions/porting-1/seats")

    async def seen(**params: Any) -> list[str]:
        return [item["subject"] for item in (await api.get("/v1/seats", params=params)).json()["items"]]

    assert await seen() == ["ada"]
    api.as_("trainer")
    assert await seen(session_id="porting-1") == ["ada", "mari"]
    assert await seen(mine=True) == []
    api.as_("trainer", entitlements=["trainer:factory:bsc-aif"])
    assert await seen() == []


async def test_members_see_what_was_suggested_to_their_project_and_why(api: Asker, db: Database) -> None:
    await load(db)
    event = granted(mode="aif_fast_lane")
    await hear(db, machine(), event, granted("award-9", "p9", mode="aif_fast_lane"))
    async with transaction(db) as tx:
        await remember_project(tx, described())
    (view,) = (await api.as_("pi").get("/v1/suggestions")).json()["items"]
    assert (view["project_id"], view["course_id"], view["rule"]) == ("p1", "rocm-porting", "first-amd-project")
    assert view["cause"]["topic"] == "aifn-award-granted-v1"
    assert (view["cause"]["id"], view["cause"]["award_id"]) == (event.id, "award-1")
    assert view["because"]
    api.as_("trainer")
    assert len((await api.get("/v1/suggestions")).json()["items"]) == 2
    assert len((await api.get("/v1/suggestions", params={"project_id": "p9"})).json()["items"]) == 1
    assert (await api.as_("applicant", subject="eve").get("/v1/suggestions")).status_code == 403


async def test_a_stranger_is_refused_and_nothing_is_found_where_nothing_is(api: Asker) -> None:
    for path in ("/v1/courses", "/v1/sessions", "/v1/seats", "/v1/suggestions"):
        assert (await api.as_("newcomer").get(path)).status_code == 403
    api.as_("trainer")
    assert (await api.get("/v1/courses/nothing")).json()["code"] == "not_found"
    assert (await api.get("/v1/sessions/nothing")).status_code == 404
    assert (await api.post("/v1/courses/nothing/sessions", json=TIMES)).status_code == 404
    assert (await api.as_("applicant").post("/v1/sessions/nothing/seats")).status_code == 404
