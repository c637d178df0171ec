"""What a route depends on becomes part of it: nothing may change for those who ask, nor in OpenAPI."""

from contextlib import AsyncExitStack
from typing import Annotated, Any
from urllib.parse import urlencode

import httpx
import pytest
from aifn_common.parameters import TwoMeanings, Values, flatten, make_reader
from aifn_common.web import Paging, make_router
from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.dependencies.utils import get_dependant, solve_dependencies
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel

calls: list[str] = []


async def _agent(request: Request) -> str:
    calls.append("agent")
    return request.headers["user-agent"]


async def _slice(limit: Annotated[int, Query(ge=1, le=9)] = 3, after: str | None = None) -> tuple[int, str | None]:
    return limit, after


async def _deep(agent: Annotated[str, Depends(_agent)]) -> str:
    return f"deep {agent}"


def _thread(request: Request) -> str:
    return request.method


Agent = Annotated[str, Depends(_agent)]
Slice = Annotated[tuple[int, str | None], Depends(_slice)]


async def show(
    name: str,
    part: Slice,
    agent: Agent,
    deep: Annotated[str, Depends(_deep)],
    thread: Annotated[str, Depends(_thread)],
    asked: Request,
    response: Response,
    wanted: Annotated[int, Query(le=5)] = 1,
) -> dict[str, Any]:
    """Show what came."""
    response.headers["x-name"] = name
    told = {"name": name, "part": part, "agent": agent, "deep": deep, "thread": thread, "wanted": wanted}
    return {**told, "path": asked.url.path}


async def _get(endpoint: Any, path: str) -> httpx.Response:
    app = FastAPI()
    app.get("/things/{name}", summary="One")(endpoint)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://t", headers={"user-agent": "tester"}) as client:
        return await client.get(path)


@pytest.mark.parametrize(
    "query",
    ["", "?limit=9&after=x&wanted=5", "?limit=10", "?limit=many&wanted=6", "?after=a&after=b&else=1"],
)
async def test_a_flattened_route_answers_as_before(query: str) -> None:
    plain, flat = await _get(show, f"/things/a{query}"), await _get(flatten(show), f"/things/a{query}")
    assert flat.status_code == plain.status_code
    assert flat.headers.get("x-name") == plain.headers.get("x-name")
    if plain.status_code == 200:
        assert flat.json() == plain.json()
    else:
        assert _by_place(flat.json()) == _by_place(plain.json())


def _by_place(problem: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(problem["detail"], key=lambda one: one["loc"])


async def test_a_flattened_route_is_described_as_before() -> None:
    assert (await _get(flatten(show), "/openapi.json")).json() == (await _get(show, "/openapi.json")).json()


async def test_a_dependency_is_not_asked_when_a_parameter_of_the_route_is_wrong() -> None:
    calls.clear()

    async def only_agent(name: int, agent: Agent) -> str:
        return f"{name} {agent}"

    assert (await _get(flatten(only_agent), "/things/x")).status_code == 422
    assert calls == []
    assert (await _get(flatten(only_agent), "/things/7")).json() == "7 tester"
    assert calls == ["agent"]


def test_a_route_without_dependencies_stays_as_it_is() -> None:
    async def plain(name: str) -> str:
        return name

    assert flatten(plain) is plain


def test_one_name_with_two_meanings_is_refused_when_the_route_is_made() -> None:
    async def confused(part: Slice, limit: Annotated[int, Query(ge=0)] = 100) -> str:
        return f"{part} {limit}"

    with pytest.raises(TwoMeanings, match="limit"):
        flatten(confused)


class Filter(BaseModel):
    colour: str = "red"


async def quick(
    number: int,
    name: str,
    wanted: bool,
    at: Annotated[AwareDatetime | None, Query()] = None,
    many: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=9, alias="most")] = 3,
) -> None:
    """All kinds of parameters that a route of ours has in its path and its query."""


_SAID = st.one_of(
    st.sampled_from(["", "1", "9", "10", "true", "no", "2026-11-21T00:00:00Z", "2026-11-21", "a b", "é", "null"]),
    st.text(max_size=5),
)


@given(
    path=st.tuples(_SAID, _SAID),
    query=st.lists(st.tuples(st.sampled_from(["wanted", "at", "many", "limit", "most", "else"]), _SAID), max_size=6),
)
async def test_the_quick_reader_reads_what_fastapi_reads_or_nothing(
    path: tuple[str, str], query: list[tuple[str, str]]
) -> None:
    dependant = get_dependant(path="/{number}/{name}", call=quick)
    read = make_reader(dependant)
    assert read is not None
    async with AsyncExitStack() as stack:
        scope = {
            "type": "http",
            "headers": [],
            "path_params": {"number": path[0], "name": path[1]},
            "query_string": urlencode(query).encode(),
            "fastapi_inner_astack": stack,
            "fastapi_function_astack": stack,
        }
        solved = await solve_dependencies(
            request=Request(scope), dependant=dependant, async_exit_stack=stack, embed_body_fields=False
        )
        found = read(Request(scope))
    assert found is None if solved.errors else found in (None, solved.values)


def _reads(endpoint: Any, query: str = "") -> Values | None:
    read = make_reader(get_dependant(path="/", call=endpoint))
    assert read is not None
    return read(Request({"type": "http", "headers": [], "path_params": {}, "query_string": query.encode()}))


def test_the_quick_reader_reads_a_page_of_a_list() -> None:
    async def listed(page: Paging, overrun: bool = False) -> None: ...

    assert _reads(flatten(listed)) == {"limit": 50, "after": None, "overrun": False}
    assert _reads(flatten(listed), "limit=7&overrun=true") == {"limit": 7, "after": None, "overrun": True}
    assert _reads(flatten(listed), "limit=seven") is None


async def _header(accept: Annotated[str, Header()]) -> None: ...


async def _body(filter_: Filter) -> None: ...


async def _model(filter_: Annotated[Filter, Query()]) -> None: ...


async def _model_or_none(filter_: Annotated[Filter | None, Query()] = None) -> None: ...


async def _list_by_default(many: Annotated[list[str], Query()] = []) -> None: ...  # noqa: B006


@pytest.mark.parametrize("endpoint", [_header, _body, _model, _model_or_none, _list_by_default, show])
def test_what_is_more_than_words_of_a_path_and_a_query_is_left_to_fastapi(endpoint: Any) -> None:
    assert make_reader(get_dependant(path="/", call=endpoint)) is None


def test_openapi_still_names_the_bearer_scheme_of_every_route() -> None:
    router = make_router()

    @router.get("/things")
    async def things(page: Paging) -> list[str]:
        return [str(page.limit)]

    app = FastAPI()
    app.router.routes.extend(router.routes)
    described = app.openapi()
    assert described["paths"]["/v1/things"]["get"]["security"] == [{"HTTPBearer": []}]
    assert [one["name"] for one in described["paths"]["/v1/things"]["get"]["parameters"]] == ["limit", "after"]
