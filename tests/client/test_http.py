"""The client over HTTP: pages, retries, keys, refusals."""

import itertools
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from aifn_client.context import Context
from aifn_client.errors import Misuse, Problem, Unreachable, Unreadable
from aifn_client.http import ATTEMPTS, LONGEST_PAUSE_SECONDS, Aifn, path
from aifn_client.models import Machine
from hypothesis import given
from hypothesis import strategies as st

from tests.client.conftest import page, problem
from tests.client.samples import sample

BUSY = httpx.Response(503, headers={"retry-after": "2"}, json={"code": "try_again", "detail": "the database is away"})
Handler = Callable[[httpx.Request], httpx.Response]


class Asked:
    """A client whose services answer one after the other, with the requests it made and the pauses it took."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self._answers = iter(answers)
        context = Context(services={"registry": "http://registry.test"})
        transport = httpx.MockTransport(self._answer)
        self.aifn = Aifn(context, token=lambda: "secret", transport=transport, pause=self.pauses.append)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_list_is_read_to_its_last_page() -> None:
    asked = Asked(page({"n": 1}, {"n": 2}, then="abc"), page({"n": 3}, then=None))
    assert [item["n"] for item in asked.aifn.items("registry", "/v1/machines", stage="operating")] == [1, 2, 3]
    assert [dict(request.url.params) for request in asked.requests] == [
        {"stage": "operating", "limit": "200"},
        {"stage": "operating", "limit": "200", "after": "abc"},
    ]


def test_no_more_is_asked_for_than_is_wanted() -> None:
    asked = Asked(page(*({"n": n} for n in range(200)), then="abc"), page(*({"n": n} for n in range(50)), then="def"))
    assert len(list(asked.aifn.items("registry", "/v1/machines", at_most=250))) == 250
    assert [request.url.params["limit"] for request in asked.requests] == ["200", "50"]


def test_a_page_is_only_asked_for_when_it_is_needed() -> None:
    asked = Asked(page({"n": 1}, then="abc"))
    assert next(asked.aifn.items("registry", "/v1/machines")) == {"n": 1}
    assert len(asked.requests) == 1


def test_a_cursor_that_stands_still_ends_the_list() -> None:
    asked = Asked(page({"n": 1}, then="abc"), page({"n": 2}, then="abc"))
    assert len(list(asked.aifn.items("registry", "/v1/machines"))) == 2


@pytest.mark.parametrize("answer", [[], {"items": 7}, {"next": None}, {"items": [], "next": 7}])
def test_an_answer_that_is_no_page_is_said_to_be_none(answer: Any) -> None:
    with pytest.raises(Unreadable, match="list"):
        list(Asked(httpx.Response(200, json=answer)).aifn.items("registry", "/v1/machines"))


@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_a_service_that_is_away_is_asked_again_after_the_pause_it_wants(method: str) -> None:
    asked = Asked(BUSY, BUSY, httpx.Response(200, json={"ok": True}))
    assert getattr(asked.aifn, method)("registry", "/v1/machines") == {"ok": True}
    assert asked.pauses == [2, 2]


def test_it_is_not_asked_for_ever() -> None:
    asked = Asked(*[BUSY] * ATTEMPTS)
    with pytest.raises(Unreachable, match="the database is away"):
        asked.aifn.get("registry", "/v1/machines")
    assert (len(asked.requests), len(asked.pauses)) == (ATTEMPTS, ATTEMPTS - 1)


@pytest.mark.parametrize("said", ["86400", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "²", ""])
def test_no_pause_is_longer_than_a_person_would_wait(said: str) -> None:
    asked = Asked(httpx.Response(503, headers={b"retry-after": said.encode()}), httpx.Response(200, json=[]))
    asked.aifn.get("registry", "/v1/machines")
    assert 0 < asked.pauses[0] <= LONGEST_PAUSE_SECONDS


def test_a_post_keeps_its_key_when_it_is_sent_again_and_the_next_has_another() -> None:
    done = httpx.Response(201, json={})
    asked = Asked(BUSY, httpx.RemoteProtocolError("dropped"), done, done)
    asked.aifn.post("registry", "/v1/machines", {"a": 1})
    asked.aifn.post("registry", "/v1/machines", {"a": 1})
    keys = [request.headers["idempotency-key"] for request in asked.requests]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(request.content == asked.requests[0].content for request in asked.requests)


def test_a_key_of_ones_own_is_used() -> None:
    asked = Asked(httpx.Response(201, json={}))
    asked.aifn.post("registry", "/v1/machines", {}, key="tuesday")
    assert asked.requests[0].headers["idempotency-key"] == "tuesday"


def test_a_read_carries_the_token_and_no_key() -> None:
    asked = Asked(httpx.Response(200, json={}))
    asked.aifn.get("registry", "/v1/machines")
    assert asked.requests[0].headers["authorization"] == "Bearer secret"
    assert "idempotency-key" not in asked.requests[0].headers


@pytest.mark.parametrize("fault", [httpx.ConnectError("refused"), httpx.ConnectTimeout("late"), httpx.ReadTimeout("")])
def test_a_service_that_does_not_answer_is_named_at_once(fault: httpx.HTTPError) -> None:
    asked = Asked(fault)
    with pytest.raises(Unreachable, match=r"registry .* at http://registry\.test"):
        asked.aifn.get("registry", "/v1/machines")
    assert asked.pauses == []


def test_a_refusal_carries_its_code_and_its_members() -> None:
    answer = problem(409, "allocation_exceeded", "alloc-1 was asked for 9, 4 left", asked=9, available=4)
    with pytest.raises(Problem) as caught:
        Asked(answer).aifn.post("registry", "/v1/machines", {})
    refusal = caught.value
    assert (refusal.status, refusal.code, refusal.detail) == (
        409,
        "allocation_exceeded",
        "alloc-1 was asked for 9, 4 left",
    )
    assert refusal.members == {"asked": 9, "available": 4}


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"[]", b"", b'{"detail": 7}', b"\xff"])
def test_a_refusal_in_other_words_is_still_one(content: bytes) -> None:
    with pytest.raises(Problem, match="registry answered with status 404") as caught:
        Asked(httpx.Response(404, content=content)).aifn.get("registry", "/v1/machines")
    assert caught.value.code == "http_404"


def test_a_fault_of_the_service_is_no_refusal() -> None:
    with pytest.raises(Unreachable, match="our fault"):
        Asked(problem(500, "fault", "this is our fault; it has been noted")).aifn.get("registry", "/v1/machines")


@pytest.mark.parametrize("answer", [httpx.Response(200, text="hello"), httpx.Response(302, headers={"location": "x"})])
def test_an_answer_that_is_no_json_and_a_redirection_are_not_taken_for_answers(answer: httpx.Response) -> None:
    with pytest.raises((Unreadable, Problem)):
        Asked(answer).aifn.get("registry", "/v1/machines")


def test_an_answer_without_a_body_is_none() -> None:
    assert Asked(httpx.Response(204)).aifn.delete("registry", "/v1/machines") is None


def test_a_thing_that_lacks_what_is_shown_says_which_field() -> None:
    raw = {**sample(Machine), "stage": None}
    with pytest.raises(Unreadable, match="stage"):
        Asked(httpx.Response(200, json=raw)).aifn.one(Machine, "registry", "/v1/machines/lumi")


@given(st.text(min_size=1))
def test_a_name_stays_one_segment_whatever_it_contains(name: str) -> None:
    try:
        made = path("/v1/jobs/{}/why", name)
    except (Misuse, UnicodeEncodeError):
        return
    url = httpx.URL("http://scheduler.test" + made)
    segments = url.raw_path.decode().split("/")
    assert len(segments) == 5
    assert segments[:3] == ["", "v1", "jobs"]
    assert segments[4] == "why"
    assert url.query == b""


@pytest.mark.parametrize("name", ["", " ", ".", "..", "..."])
def test_what_is_no_name_never_becomes_a_path(name: str) -> None:
    with pytest.raises(Misuse):
        path("/v1/jobs/{}", name)


def test_every_pause_without_advice_grows() -> None:
    asked = Asked(*[httpx.Response(429) for _ in range(ATTEMPTS)])
    with pytest.raises(Problem) as caught:
        asked.aifn.get("registry", "/v1/machines")
    assert caught.value.advice == "try again in a while"
    assert all(first < second for first, second in itertools.pairwise(asked.pauses))
