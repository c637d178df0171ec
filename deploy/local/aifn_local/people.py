"""Asks the services' APIs as the people of a factory do, each with a token of the development issuer."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx

from aifn_local.errors import StackError
from aifn_local.factory import Factory

PATIENCE_SECONDS = 120.0
TOKEN_PATIENCE_SECONDS = 15.0


class Refused(Exception):
    """An API said no; `problem` is its problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('code')}: {problem.get('detail')}")
        self.status = status
        self.problem = problem


class Person:
    """Somebody who is signed in. A service that is away is asked again, with the same Idempotency-Key."""

    def __init__(self, http: httpx.AsyncClient, factory: Factory, persona: str, subject: str) -> None:
        self._http = http
        self._factory = factory
        self._persona = persona
        self._token = ""
        self.subject = subject

    async def sign_in(self) -> None:
        """Get a fresh token. Raises StackError when the issuer stays away."""
        form = {"persona": self._persona, "subject": self.subject}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = await self._http.post(f"{self._factory.issuer}/token", data=form)
                answer.raise_for_status()
            except httpx.HTTPError as fault:
                if time.monotonic() > deadline:
                    raise StackError(f"the issuer gives no token: {fault!r}") from None
            else:
                self._token = answer.json()["access_token"]
                return
            await asyncio.sleep(0.2)

    async def get(self, service: str, path: str, **query: Any) -> Any:
        """The answer to a question. Raises Refused."""
        return await self._ask("GET", service, path, params=query)

    async def pages(self, service: str, path: str, **query: Any) -> list[dict[str, Any]]:
        """All items of a list, page by page."""
        items: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            page = await self.get(service, path, limit=200, **query, **after)
            items += page["items"]
            if page["next"] is None:
                return items
            after = {"after": page["next"]}

    async def post(self, service: str, path: str, body: Mapping[str, Any], *, key: str) -> Any:
        """Have something done, once, however often this is tried. Raises Refused."""
        return await self._ask("POST", service, path, json=body, headers={"idempotency-key": key})

    async def eventually(self, service: str, path: str, what: str, **query: Any) -> Any:
        """The answer to a question, once it is not 403 or 404 any more: a fact that is still on its way."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return await self.get(service, path, **query)
            except Refused as refused:
                if refused.status not in (403, 404):
                    raise
                if time.monotonic() > deadline:
                    raise StackError(f"{what} did not appear within {PATIENCE_SECONDS:.0f} s") from None
            await asyncio.sleep(0.05)

    async def _ask(self, method: str, service: str, path: str, **more: Any) -> Any:
        own = more.pop("headers", {})
        url = self._factory.url(service) + path
        asked = time.monotonic()
        while True:
            waited = time.monotonic() - asked
            try:
                headers = {"authorization": f"Bearer {self._token}", **own}
                answer = await self._http.request(method, url, headers=headers, **more)
            except httpx.TransportError as fault:
                if waited > PATIENCE_SECONDS:
                    raise StackError(f"{service} does not answer: {fault!r}") from None
            else:
                if answer.status_code < 400:
                    return answer.json()
                if answer.status_code == 401 and waited < TOKEN_PATIENCE_SECONDS:
                    # An issuer that was started again has new keys; a service looks for them every few seconds.
                    await self.sign_in()
                elif answer.status_code not in (500, 503) or waited > PATIENCE_SECONDS:
                    raise Refused(answer.status_code, _problem(answer))
            await asyncio.sleep(0.2)


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = answer.json()
    except ValueError:
        return {"code": "unreadable", "detail": answer.text[:200]}
    return found


async def sign_in(http: httpx.AsyncClient, factory: Factory, persona: str, subject: str | None = None) -> Person:
    """A person with a fresh token. Raises StackError when the issuer stays away."""
    person = Person(http, factory, persona, subject or persona)
    await person.sign_in()
    return person
