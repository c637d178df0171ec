"""What a route depends on becomes part of it: nothing may change for those who ask, nor in OpenAPI."""

from typing import Annotated, Any

import httpx
import pytest
from aifn_common.parameters import TwoMeanings, flatten
from fastapi import Depends, FastAPI, Query, Request, Response

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
