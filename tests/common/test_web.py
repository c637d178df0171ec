"""What every route promises: one transaction, one check, one shape for errors, whatever the request holds."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, cast

import asyncpg
import httpx
import pytest
from aifn_common import errors, web
from aifn_common.cursors import read_cursor
from aifn_common.database import Database
from aifn_common.errors import Forbidden, Invalid, NotFound, PreconditionFailed, Refusal, Stale, Unauthenticated
from aifn_common.kafka import Subscriptions
from aifn_common.outbox import announce, waiting
from aifn_common.service import PLUMBING, Service
from aifn_common.settings import ServiceSettings
from aifn_common.web import (
    Db,
    Page,
    Paging,
    Tx,
    Who,
    check_if_match,
    make_page,
    make_router,
    not_modified,
    set_etag,
)
from aifn_events.placement import JobPlaced
from fastapi import Path, Query, Request, Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from tests.support.backends import Backends
from tests.support.http import ISSUER, Asker, asking
from tests.support.settings import settings

router = make_router()
REFUSALS: dict[str, Exception] = {}


class Thing(BaseModel):
    """A thing with a name."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=500)
    size: int = 0
    notes: dict[str, int] = {}


@router.post("/things", status_code=201)
async def make_thing(thing: Thing, tx: Tx, who: Who, response: Response) -> Thing:
    who.must("machine.read")
    await tx.execute("INSERT INTO thing (name, size) VALUES ($1, $2)", thing.name, thing.size)
    await announce(tx, JobPlaced.example())
    if thing.name == "slow":
        await asyncio.sleep(0.3)
    if thing.name in REFUSALS:
        raise REFUSALS[thing.name]
    response.headers["location"] = f"/v1/things/{thing.name}"
    return thing


@router.post("/forgetful")
async def forget_the_check(tx: Tx) -> str:
    await tx.execute("INSERT INTO thing (name) VALUES ('forgotten')")
    return "done"


@router.get("/forgetful")
async def forget_the_check_of_a_read(tx: Tx) -> str:
    return str(await tx.fetchval("SELECT 'secret'"))


@router.get("/things")
async def list_things(tx: Tx, who: Who, page: Paging) -> Page[str]:
    who.scope("machine.read")
    rows = await tx.fetch(
        "SELECT name FROM thing WHERE name > $1 ORDER BY name LIMIT $2", page.after or "", page.limit + 1
    )
    return make_page([row["name"] for row in rows], page.limit, lambda name: name)


@router.get("/things/{name}")
async def show_thing(
    name: Annotated[str, Path(max_length=500)], tx: Tx, who: Who, request: Request, response: Response
) -> Thing:
    who.must("machine.read")
    row = await tx.fetchrow("SELECT name, size, revision FROM thing WHERE name = $1", name)
    if row is None:
        raise NotFound(f"there is no thing {name}")
    not_modified(request, row["revision"])
    set_etag(response, row["revision"])
    return Thing(name=row["name"], size=row["size"])


@router.put("/things/{name}")
async def change_thing(name: str, thing: Thing, tx: Tx, who: Who, request: Request) -> Thing:
    who.must("machine.read")
    revision = await tx.fetchval("SELECT revision FROM thing WHERE name = $1 FOR UPDATE", name)
    check_if_match(request, revision)
    await tx.execute("UPDATE thing SET size = $2, revision = revision + 1 WHERE name = $1", name, thing.size)
    return thing


@router.get("/sized")
async def things_of_size(tx: Tx, who: Who, size: Annotated[int, Query()]) -> int:
    who.must("machine.read")
    return int(await tx.fetchval("SELECT count(*) FROM thing WHERE size = $1", size))


@router.get("/lost")
async def lose_the_connection(tx: Tx, who: Who, request: Request) -> int:
    who.must("machine.read")
    pid = await tx.fetchval("SELECT pg_backend_pid()")
    await request.app.state.db.execute("SELECT pg_terminate_backend($1)", pid)
    await asyncio.sleep(0.1)
    return int(await tx.fetchval("SELECT 1"))


@router.get("/alone")
async def read_without_a_connection(db: Db, asker: web.Asker) -> str:
    asker.must("machine.read")
    return type(db).__name__


@router.post("/lost")
async def lose_the_connection_of_a_change(tx: Tx, who: Who, request: Request) -> int:
    return await lose_the_connection(tx, who, request)


service = Service(name="registry", package=PLUMBING, hears=Subscriptions("registry"), routers=[router])


@pytest.fixture(scope="module")
async def database(backends: Backends) -> AsyncIterator[Database]:
    """A database with one table more, for all tests of this module."""
    async with backends.database(PLUMBING) as made:
        await made.execute("CREATE TABLE thing (name text, size bigint DEFAULT 0, revision int DEFAULT 1)")
        yield made


@pytest.fixture
async def things(database: Database) -> Database:
    """The same, empty."""
    await database.execute("TRUNCATE thing, outbox, idempotency")
    REFUSALS.clear()
    return database


@pytest.fixture
async def asker(things: Database) -> AsyncIterator[Asker]:
    """Somebody who may, and who gets faults as answers."""
    async with asking(service, things, settings(ServiceSettings, max_body_bytes=2000), raise_faults=False) as made:
        yield made.as_("applicant", subject="mari")


async def count(db: Database) -> int:
    return int(await db.fetchval("SELECT count(*) FROM thing"))


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:aifn:problem:{code}"
    assert body["title"]
    assert body["detail"]
    return body


async def test_a_change_is_committed_and_announced_before_the_answer(asker: Asker, things: Database) -> None:
    answer = await asker.post("/v1/things", json={"name": "a"})
    assert (answer.status_code, answer.headers["location"]) == (201, "/v1/things/a")
    assert (await count(things), await waiting(things)) == (1, 1)


ALL_REFUSALS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Refusal)]


@pytest.mark.parametrize("kind", ALL_REFUSALS)
async def test_a_refusal_is_a_problem_document_and_changes_nothing(
    asker: Asker, things: Database, kind: type[Refusal]
) -> None:
    refusal = kind("because of this")
    refusal.asked = 7  # type: ignore[attr-defined]
    refusal.left = "none"  # type: ignore[attr-defined]
    # A refusal may know values whose names a problem document has other uses for.
    refusal.title = "mine"  # type: ignore[attr-defined]
    refusal.headers = "mine"  # type: ignore[attr-defined]
    REFUSALS["refused"] = refusal
    body = assert_problem(await asker.post("/v1/things", json={"name": "refused"}), kind.status, kind.code)
    assert (body["asked"], body["left"], body["detail"]) == (7, "none", "because of this")
    assert body["title"] != "mine"
    assert (await count(things), await waiting(things)) == (0, 0)


def test_every_kind_of_refusal_there_is_has_been_asked_for() -> None:
    assert {Refusal, NotFound, Forbidden, Unauthenticated, Invalid, Stale, PreconditionFailed} <= set(ALL_REFUSALS)


async def test_our_own_fault_is_a_problem_that_tells_nothing_and_changes_nothing(
    asker: Asker, things: Database
) -> None:
    REFUSALS["bug"] = RuntimeError("password=hunter2")
    answer = await asker.post("/v1/things", json={"name": "bug"})
    assert_problem(answer, 500, "fault")
    assert "hunter2" not in answer.text
    assert (await count(things), await waiting(things)) == (0, 0)


@pytest.mark.parametrize(
    "fault",
    [ConnectionResetError("x"), TimeoutError(), asyncpg.AdminShutdownError("x"), asyncpg.DeadlockDetectedError("x")],
)
async def test_a_database_that_is_away_is_a_503_that_says_try_again(
    asker: Asker, things: Database, fault: Exception
) -> None:
    REFUSALS["away"] = fault
    answer = await asker.post("/v1/things", json={"name": "away"})
    assert_problem(answer, 503, "try_again")
    assert answer.headers["retry-after"]
    assert await count(things) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_connection_lost_in_the_middle_of_a_request_is_a_503(asker: Asker, method: str) -> None:
    assert_problem(await asker.request(method, "/v1/lost"), 503, "try_again")


async def test_before_the_database_has_answered_a_request_is_a_503(asker: Asker) -> None:
    app = asker._transport.app  # type: ignore[attr-defined]
    app.state.db = None
    assert_problem(await asker.get("/v1/things"), 503, "try_again")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_route_that_forgets_its_check_answers_500_and_changes_nothing(
    asker: Asker, things: Database, method: str
) -> None:
    answer = await asker.request(method, "/v1/forgetful")
    assert_problem(answer, 500, "fault")
    assert "secret" not in answer.text
    assert await count(things) == 0


class NoConnections:
    """A pool that has none to give."""

    def acquire(self) -> None:
        raise AssertionError("nobody asked for a connection")


async def test_a_read_that_asks_for_no_connection_is_given_none() -> None:
    async with asking(service, cast(Database, NoConnections()), settings(ServiceSettings)) as asker:
        asker.as_("applicant")
        assert (await asker.get("/v1/alone")).json() == "NoConnections"
        with pytest.raises(AssertionError, match="nobody asked"):
            await asker.get("/v1/things")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic bWFyaTpwdw==", "Bearer a.b.c"])
async def test_without_a_token_nobody_gets_in(asker: Asker, things: Database, header: str | None) -> None:
    del asker.headers["authorization"]
    if header is not None:
        asker.headers["authorization"] = header
    answer = await asker.post("/v1/things", json={"name": "a"})
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert await count(things) == 0


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "because"),
    [
        ({"iat": NOW - 7000, "nbf": NOW - 7000, "exp": NOW - 3600}, "expired"),
        ({"iss": "http://evil.test"}, "not issued by"),
        ({"aud": ["aifn-accounting"]}, "not meant for aifn-registry"),
    ],
    ids=["expired", "of a foreign issuer", "for another service"],
)
async def test_a_token_that_is_truly_signed_and_is_not_for_here_and_now_lets_nobody_in(
    asker: Asker, things: Database, claims: dict[str, Any], because: str
) -> None:
    good = asker.headers["authorization"]
    asker.headers["authorization"] = f"Bearer {ISSUER.token('applicant', subject='mari', **claims)}"
    answer = await asker.post("/v1/things", json={"name": "a"})
    assert because in assert_problem(answer, 401, "unauthenticated")["detail"]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (await count(things), await waiting(things)) == (0, 0)
    # The same key and the same person, with nothing wrong: it was the claim that kept them out.
    asker.headers["authorization"] = good
    assert (await asker.post("/v1/things", json={"name": "a"})).status_code == 201


async def test_the_same_request_with_the_same_key_happens_once_and_gets_the_same_answer(
    asker: Asker, things: Database
) -> None:
    send = {"json": {"name": "a", "size": 3}, "headers": {"idempotency-key": "k1"}}
    first, second = [await asker.post("/v1/things", **send) for _ in range(2)]  # type: ignore[arg-type]
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    assert first.headers["location"] == second.headers["location"]
    assert first.headers["content-type"] == second.headers["content-type"]
    assert (await count(things), await waiting(things)) == (1, 1)


async def test_the_same_key_ten_times_at_once_happens_once(asker: Asker, things: Database) -> None:
    one = asker.post("/v1/things", json={"name": "slow"}, headers={"idempotency-key": "k1"})
    more = [asker.post("/v1/things", json={"name": "slow"}, headers={"idempotency-key": "k1"}) for _ in range(9)]
    answers = await asyncio.gather(one, *more)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert await count(things) == 1


async def test_the_same_key_with_other_words_is_refused(asker: Asker, things: Database) -> None:
    await asker.post("/v1/things", json={"name": "a"}, headers={"idempotency-key": "k1"})
    answer = await asker.post("/v1/things", json={"name": "b"}, headers={"idempotency-key": "k1"})
    assert_problem(answer, 422, "idempotency_key_reused")
    assert await count(things) == 1


async def test_a_key_is_its_owners_alone(asker: Asker, things: Database) -> None:
    for subject in ("mari", "juha"):
        asker.as_("applicant", subject=subject)
        answer = await asker.post("/v1/things", json={"name": subject}, headers={"idempotency-key": "k1"})
        assert answer.json()["name"] == subject
    assert await count(things) == 2


async def test_a_refused_request_may_be_sent_again_under_its_key(asker: Asker, things: Database) -> None:
    REFUSALS["a"] = Stale("not yet")
    for status in (409, 201):
        answer = await asker.post("/v1/things", json={"name": "a"}, headers={"idempotency-key": "k1"})
        assert answer.status_code == status
        REFUSALS.clear()
    assert await count(things) == 1


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_of_a_wrong_length_is_refused(asker: Asker, things: Database, key: str) -> None:
    answer = await asker.post("/v1/things", json={"name": "a"}, headers={"idempotency-key": key})
    assert_problem(answer, 422, "invalid")
    assert await count(things) == 0


@pytest.mark.parametrize("with_length", [True, False])
async def test_a_body_beyond_the_limit_is_refused(asker: Asker, things: Database, with_length: bool) -> None:
    body = json.dumps({"name": "a" * 3000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    answer = await asker.post("/v1/things", content=body if with_length else chunks())
    assert_problem(answer, 413, "body_too_large")
    assert await count(things) == 0


async def test_a_body_that_says_it_is_small_and_is_not_is_refused(asker: Asker) -> None:
    answer = await asker.post("/v1/things", content=b"x" * 3000, headers={"content-length": "10"})
    assert_problem(answer, 413, "body_too_large")


UNFIT: dict[str, bytes] = {
    "a NUL character": b'{"name": "a\\u0000b"}',
    "a number beyond 64 bits": b'{"name": "a", "size": 9223372036854775808}',
    "a negative number beyond 64 bits": b'{"name": "a", "size": -9223372036854775809}',
    "half of a surrogate pair": b'{"name": "\\ud800"}',
    "half of a surrogate pair in an unknown name": b'{"name": "a", "\\ud800": 1}',
    "half of a surrogate pair in a key": b'{"name": "a", "notes": {"\\udfff": "x"}}',
    "not a number": b'{"name": "a", "size": NaN}',
    "an infinite number": b'{"name": "a", "size": 1e999}',
    "a fraction": b'{"name": "a", "size": 1.5}',
    "a missing field": b"{}",
    "an unknown field": b'{"name": "a", "wrong": 1}',
    "another shape": b"[]",
    "no JSON": b"{",
    "nothing": b"",
}


@pytest.mark.parametrize("body", UNFIT.values(), ids=UNFIT)
async def test_a_body_that_makes_no_sense_is_a_422_and_changes_nothing(
    asker: Asker, things: Database, body: bytes
) -> None:
    answer = await asker.post("/v1/things", content=body, headers={"content-type": "application/json"})
    assert_problem(answer, 422, "invalid")
    assert await count(things) == 0


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 1900, b'{"name": ' + b"9" * 1900 + b"}"])
async def test_a_body_that_cannot_be_read_is_the_askers_fault(asker: Asker, things: Database, body: bytes) -> None:
    answer = await asker.post("/v1/things", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert await count(things) == 0


@pytest.mark.parametrize(
    "path",
    ["/v1/sized?size=9223372036854775808", "/v1/sized?size=x", "/v1/sized", "/v1/things/a%00b", "/v1/things?after=%00"],
)
async def test_a_parameter_that_makes_no_sense_is_a_422(asker: Asker, path: str) -> None:
    assert_problem(await asker.get(path), 422, "invalid")


async def test_a_method_that_is_not_there_says_which_are(asker: Asker) -> None:
    answer = await asker.delete("/v1/things")
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


async def test_a_path_that_is_not_there_is_a_problem_too(asker: Asker) -> None:
    assert_problem(await asker.get("/v1/nothing"), 404, "no_such_path")


async def test_pages_follow_each_other_and_show_everything_once(asker: Asker, things: Database) -> None:
    names = [f"thing-{n:02}" for n in range(7)]
    await things.executemany("INSERT INTO thing (name) VALUES ($1)", [(name,) for name in names])
    seen: list[str] = []
    after: str | None = None
    while True:
        params = {"limit": 3} | ({"after": after} if after else {})
        page = (await asker.get("/v1/things", params=params)).json()
        assert len(page["items"]) <= 3
        seen += page["items"]
        after = page["next"]
        if after is None:
            break
    assert seen == names


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "after=%FF%FE", "after=gA"])
async def test_a_page_that_cannot_be_is_refused(asker: Asker, query: str) -> None:
    assert_problem(await asker.get(f"/v1/things?{query}"), 422, "invalid")


@given(st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=12), st.integers(1, 5))
def test_a_cursor_leads_to_what_comes_next_whatever_it_holds(names: list[str], limit: int) -> None:
    names.sort()
    seen: list[str] = []
    after = ""
    while True:
        rows = [name for name in names if name > after][: limit + 1]
        page: Page[str] = make_page(rows, limit, cursor_of=lambda name: name)
        seen += page.items
        if page.next is None:
            break
        after = read_cursor(page.next)
    assert seen == names


async def test_who_has_the_revision_already_gets_304_and_who_changes_must_name_it(
    asker: Asker, things: Database
) -> None:
    await asker.post("/v1/things", json={"name": "a"})
    tag = (await asker.get("/v1/things/a")).headers["etag"]
    for known in (tag, f"W/{tag}", f'"x", {tag}'):
        same = await asker.get("/v1/things/a", headers={"if-none-match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (await asker.get("/v1/things/a", headers={"if-none-match": '"r9"'})).status_code == 200
    change = {"name": "a", "size": 5}
    assert_problem(await asker.put("/v1/things/a", json=change), 428, "precondition_required")
    wrong = await asker.put("/v1/things/a", json=change, headers={"if-match": '"r9"'})
    assert_problem(wrong, 412, "precondition_failed")
    assert await things.fetchval("SELECT size FROM thing") == 0
    assert (await asker.put("/v1/things/a", json=change, headers={"if-match": tag})).status_code == 200
    assert_problem(await asker.put("/v1/things/a", json=change, headers={"if-match": tag}), 412, "precondition_failed")
    assert await things.fetchval("SELECT (size, revision)::text FROM thing") == "(5,2)"
