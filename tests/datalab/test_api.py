"""The Data Lab over HTTP: shapes, permissions, refusals."""

from typing import Any

import pytest
from aifn_common.database import Database

from tests.datalab.make import allocation, know_places, know_project, machine
from tests.support.http import Asker

WORDS: dict[str, Any] = {
    "title": "Finnish speech corpus",
    "licence": "CC-BY-4.0",
    "sensitivity": "open",
    "grade": "open",
    "location": "s3://lumi-o/finnish-speech/",
    "contact": "datalab@example.eu",
}
SECRET = {"sensitivity": "confidential", "grade": "industrial"}
PERSONAL = {"sensitivity": "personal", "grade": "data_space", "legal_basis": "consent", "residency": ["FI"]}


async def offer(api: Asker, dataset_id: str = "speech", **words: Any) -> None:
    answer = await api.as_("data-steward").post("/v1/datasets", json=WORDS | {"dataset_id": dataset_id} | words)
    assert answer.status_code == 201, answer.text


async def ask(api: Asker, dataset_id: str = "speech", **words: Any) -> Any:
    body = {"dataset_id": dataset_id, "project_id": "p1", "purpose": "train"} | words
    return await api.as_("pi").post("/v1/access-requests", json=body)


async def test_a_steward_describes_a_dataset_and_everybody_signed_in_finds_it(api: Asker) -> None:
    await offer(api, residency=["SE", "FI", "FI"], size_bytes=1)
    answer = await api.as_("applicant").get("/v1/datasets/speech")
    assert answer.status_code == 200
    view = answer.json()
    assert view["residency"] == ["FI", "SE"]
    assert (view["factory_id"], view["revision"], view["retired"]) == ("lumi-aif", 0, False)
    assert (await api.get("/v1/datasets", params={"q": "finn"})).json()["items"] == [view]


async def test_a_dataset_that_the_asker_has_already_is_not_sent_again(api: Asker) -> None:
    await offer(api)
    tag = (await api.get("/v1/datasets/speech")).headers["etag"]
    assert (await api.get("/v1/datasets/speech", headers={"if-none-match": tag})).status_code == 304


async def test_a_duplicate_is_a_conflict_that_names_the_dataset(api: Asker) -> None:
    await offer(api)
    answer = await api.post("/v1/datasets", json=WORDS | {"dataset_id": "speech"})
    assert (answer.status_code, answer.json()["code"]) == (409, "dataset_exists")
    assert answer.json()["dataset_id"] == "speech"


async def test_the_same_post_with_an_idempotency_key_happens_once(api: Asker, db: Database) -> None:
    await know_project(db)
    await offer(api)
    body = {"dataset_id": "speech", "project_id": "p1"}
    answers = [
        await api.as_("pi").post("/v1/access-requests", json=body, headers={"idempotency-key": "k1"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert await db.fetchval("SELECT count(*) FROM access_request") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"location": "https://bob:secret@example.eu/x"}, "location_refused"),
        ({"location": "ftp://example.eu/x"}, "location_refused"),
        ({"sensitivity": "personal", "grade": "data_space", "residency": ["FI"]}, "description_incomplete"),
        ({"sensitivity": "confidential"}, "description_incomplete"),
        ({"sensitivity": "secret"}, "invalid"),
        ({"size_bytes": -1}, "invalid"),
        ({"size_bytes": 2**63}, "invalid"),
        ({"size_bytes": 1.5}, "invalid"),
        ({"residency": ["Finland"]}, "invalid"),
        ({"title": "   "}, "invalid"),
        ({"title": "a\u0000b"}, "invalid"),
        ({"legal_basis": "because"}, "invalid"),
        ({"dataset_id": "Not A Slug"}, "invalid"),
        ({"colour": "red"}, "invalid"),
    ],
)
async def test_a_description_that_makes_no_sense_is_refused_and_nothing_is_kept(
    api: Asker, db: Database, words: dict[str, Any], code: str
) -> None:
    answer = await api.as_("data-steward").post("/v1/datasets", json=WORDS | {"dataset_id": "speech"} | words)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert await db.fetchval("SELECT count(*) FROM dataset") == 0


async def test_a_change_needs_the_revision_it_was_made_from(api: Asker) -> None:
    await offer(api)
    changed = WORDS | {"title": "Speech, second edition"}
    assert (await api.put("/v1/datasets/speech", json=changed)).status_code == 428
    answer = await api.put("/v1/datasets/speech", json=changed, headers={"if-match": '"r0"'})
    assert (answer.status_code, answer.headers["etag"], answer.json()["title"]) == (200, '"r1"', changed["title"])
    late = await api.put("/v1/datasets/speech", json=WORDS, headers={"if-match": '"r0"'})
    assert late.status_code == 412


async def test_a_retired_dataset_leaves_the_list_and_cannot_be_changed_or_retired_again(api: Asker) -> None:
    await offer(api)
    gone = await api.delete("/v1/datasets/speech")
    assert (gone.status_code, gone.json()["retired"]) == (200, True)
    assert (await api.get("/v1/datasets")).json()["items"] == []
    assert len((await api.get("/v1/datasets", params={"retired": True})).json()["items"]) == 1
    changed = await api.put("/v1/datasets/speech", json=WORDS, headers={"if-match": gone.headers["etag"]})
    assert (changed.status_code, changed.json()["code"]) == (409, "dataset_retired")
    assert (await api.delete("/v1/datasets/speech")).status_code == 409


async def test_a_long_list_comes_in_pages(api: Asker) -> None:
    for number in range(5):
        await offer(api, f"set-{number}")
    seen: list[str] = []
    after: dict[str, Any] = {}
    while True:
        page = (await api.get("/v1/datasets", params={"limit": 2} | after)).json()
        seen += [item["dataset_id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert seen == [f"set-{number}" for number in range(5)]


async def test_a_project_asks_and_is_told_every_reason(api: Asker, db: Database) -> None:
    await know_project(db)
    await know_places(db, machine(), allocation())
    await offer(api, "voices", **PERSONAL)
    answer = await ask(api, "voices", legal_basis="consent")
    assert answer.status_code == 201
    view = answer.json()
    assert (view["state"], view["decided_by"], view["in_force"]) == ("granted", "rule", True)
    assert view["expires_at"] == "2127-01-21T09:00:00Z"
    assert [reason["rule"] for reason in view["reasons"]] == [
        "on_offer",
        "project_open",
        "purpose",
        "legal_basis",
        "allocation",
        "residency",
    ]
    assert (await api.get(answer.headers["location"])).json() == view


async def test_a_second_request_is_a_conflict_that_names_the_first(api: Asker, db: Database) -> None:
    await know_project(db)
    await offer(api, **SECRET)
    first = (await ask(api)).json()
    second = await ask(api)
    assert (second.status_code, second.json()["code"]) == (409, "request_open")
    assert second.json()["request_id"] == first["request_id"]


async def test_a_steward_decides_once(api: Asker, db: Database) -> None:
    await know_project(db)
    await offer(api, **SECRET)
    path = f"/v1/access-requests/{(await ask(api)).json()['request_id']}"
    api.as_("data-steward")
    granted = await api.post(f"{path}/decision", json={"granted": True, "reason": "agreement signed"})
    assert (granted.status_code, granted.json()["state"]) == (200, "granted")
    assert granted.json()["steward"] == "data-steward"
    again = await api.post(f"{path}/decision", json={"granted": False, "reason": "changed my mind"})
    assert (again.status_code, again.json()["code"]) == (409, "already_decided")
    assert (await api.get(path)).json()["state"] == "granted"


async def test_only_people_of_the_project_may_ask(api: Asker, db: Database) -> None:
    await know_project(db)
    await offer(api)
    body = {"dataset_id": "speech", "project_id": "p1"}
    for persona in ("applicant", "data-steward", "newcomer"):
        assert (await api.as_(persona).post("/v1/access-requests", json=body)).status_code == 403
    unknown = await api.as_("pi").post("/v1/access-requests", json=body | {"project_id": "p2"})
    assert unknown.status_code == 403


async def test_only_stewards_of_the_factory_describe_and_decide(api: Asker, db: Database) -> None:
    await know_project(db)
    await offer(api, **SECRET)
    path = f"/v1/access-requests/{(await ask(api)).json()['request_id']}/decision"
    verdict = {"granted": True, "reason": "for myself"}
    foreign = ["data-steward:factory:bsc-aif"]
    assert (await api.as_("pi").post(path, json=verdict)).status_code == 403
    api.as_("data-steward", subject="eve", entitlements=foreign)
    assert (await api.post(path, json=verdict)).status_code == 403
    assert (await api.post("/v1/datasets", json=WORDS | {"dataset_id": "other"})).status_code == 403
    assert (await api.delete("/v1/datasets/speech")).status_code == 403


async def test_people_see_the_requests_of_their_projects_and_stewards_those_of_their_factory(
    api: Asker, db: Database
) -> None:
    await know_project(db)
    await know_project(db, "p2", subject="other")
    await offer(api, **SECRET)
    mine = (await ask(api)).json()["request_id"]
    api.as_("pi", subject="other")
    theirs = await api.post("/v1/access-requests", json={"dataset_id": "speech", "project_id": "p2"})

    async def seen() -> list[str]:
        items = (await api.get("/v1/access-requests")).json()["items"]
        return [item["request_id"] for item in items]

    assert await seen() == [theirs.json()["request_id"]]
    assert (await api.get(f"/v1/access-requests/{mine}")).status_code == 403
    api.as_("data-steward")
    assert set(await seen()) == {mine, theirs.json()["request_id"]}
    filtered = (await api.get("/v1/access-requests", params={"project_id": "p1", "state": "pending"})).json()["items"]
    assert [item["request_id"] for item in filtered] == [mine]
    assert (await api.as_("newcomer").get("/v1/access-requests")).status_code == 403


async def test_what_does_not_exist_is_not_found(api: Asker, db: Database) -> None:
    await know_project(db)
    assert (await api.as_("data-steward").get("/v1/datasets/nothing")).json()["code"] == "not_found"
    assert (await api.delete("/v1/datasets/nothing")).status_code == 404
    assert (await api.get("/v1/access-requests/req-nothing")).status_code == 404
    assert (await ask(api, "nothing")).status_code == 404
