"""Asks the services over HTTP: bounded in time, tried again where that is safe, refusals as values."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from aifn_client.context import Context, current_token, sign_in_again
from aifn_client.errors import Misuse, Problem, Unreachable, Unreadable
from aifn_client.models import View

V = TypeVar("V", bound=View)
TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 5.0
ATTEMPTS = 4
LONGEST_PAUSE_SECONDS = 10.0
PAGE = 200
_TRY_AGAIN = {429, 503}
_NO_PROXY: Mapping[str, None] = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}

Query = str | int | bool | None


def path(template: str, *segments: str) -> str:
    """A path with names put into it, whatever they contain. Raises Misuse for a name that is none.

    >>> path("/v1/jobs/{}/why", "lumi-aif-0198")
    '/v1/jobs/lumi-aif-0198/why'
    >>> path("/v1/jobs/{}", "a/../b")
    '/v1/jobs/a%2F..%2Fb'
    """
    for segment in segments:
        if not segment.strip(". "):
            raise Misuse(f"{segment!r} is no name")
    return template.format(*(quote(segment, safe="") for segment in segments))


@dataclass(frozen=True)
class Page(Generic[V]):
    """A part of a list; `next` is the cursor to go on from, None at the end."""

    items: list[V]
    next: str | None


class Aifn:
    """A person's connection to the services of a factory.

    Reads, deletions and posts (each has its own Idempotency-Key) are asked again when a service says 503 or drops the
    connection: none of them happens twice. All methods raise Problem, SignInNeeded, Unreachable, UnknownPlace,
    Unreadable.
    """

    def __init__(
        self,
        context: Context,
        *,
        token: Callable[[], str] | None = None,
        transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`token` gives the bearer token, by default that of the environment or of `aifn login`."""
        self.context = context
        self._token = token or (lambda: current_token(context).access_token)
        self._pause = pause
        self._http = httpx.Client(
            timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS),
            transport=transport,
            mounts=None if transport else _NO_PROXY,
            headers={
                "accept": "application/json, application/problem+json",
                "user-agent": f"aifn-client/{version('aifn-client')}",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def one(self, view: type[V], service: str, path: str, **query: Query) -> V:
        """Read one thing."""
        return view.of(self.get(service, path, **query))

    def many(
        self, view: type[V], service: str, path: str, *, at_most: int | None = None, **query: Query
    ) -> Iterator[V]:
        """Read a list, page by page as it is consumed, up to `at_most` items."""
        for item in self.items(service, path, at_most=at_most, **query):
            yield view.of(item)

    def page(self, view: type[V], service: str, path: str, *, after: str | None = None, **query: Query) -> Page[V]:
        """Read one page of a list, for who keeps the cursor."""
        found, then = _page(service, self.get(service, path, **query, limit=PAGE, after=after))
        return Page([view.of(item) for item in found], then)

    def get(self, service: str, path: str, **query: Query) -> Any:
        """The JSON of one answer."""
        return self._ask("GET", service, path, query=query)

    def download(self, service: str, path: str, write: Callable[[bytes], object], **query: Query) -> None:
        """Hand over one answer of any kind, a piece at a time; asked for once, since a part may be written already."""
        base = self.context.url(service)
        params = {name: value for name, value in query.items() if value is not None}
        headers = {"authorization": f"Bearer {self._token()}", "accept": "*/*, application/problem+json"}
        try:
            with self._http.stream("GET", base + path, params=params, headers=headers) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(service, answer)
                for part in answer.iter_bytes():
                    write(part)
        except httpx.HTTPError as fault:
            raise _unreachable(service, base, fault) from None

    def post(
        self, service: str, path: str, body: Any = None, *, key: str | None = None, if_match: str | None = None
    ) -> Any:
        """Have something done, once; with the same `key` it stays once across calls. The JSON of the answer.

        `if_match`: only if the thing is still as it was read, with this ETag.
        """
        headers = {"idempotency-key": key or str(uuid.uuid4())} | ({"if-match": if_match} if if_match else {})
        return self._ask("POST", service, path, body=body, headers=headers)

    def delete(self, service: str, path: str) -> Any:
        """Take something back. The JSON of the answer, None if it has none."""
        return self._ask("DELETE", service, path)

    def items(self, service: str, path: str, *, at_most: int | None = None, **query: Query) -> Iterator[dict[str, Any]]:
        """The items of a list as the API gave them, page by page as they are consumed."""
        left = at_most
        after: str | None = None
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.get(service, path, **{**query, "limit": size, "after": after})
            found, then = _page(service, page)
            yield from found
            if then is None or then == after:
                return
            after = then
            left = None if left is None else left - len(found)

    def sign_in(self, persona: str, subject: str | None = None) -> tuple[str, int]:
        """Ask the development issuer for a token: the token, and for how many seconds it is good."""
        form = {"persona": persona} | ({"subject": subject} if subject else {})
        issuer = self.context.issuer_url
        try:
            answer = self._http.post(f"{issuer}/token", data=form)
            body = answer.json()
            if answer.status_code == 200:
                return str(body["access_token"]), int(body["expires_in"])
            raise Problem(answer.status_code, str(body["error"]), str(body.get("error_description", body["error"])))
        except httpx.HTTPError as fault:
            raise _unreachable("the issuer", issuer, fault) from None
        except (ValueError, KeyError, TypeError):
            raise Unreadable(f"{issuer} does not answer as a development issuer does") from None

    def _ask(
        self,
        method: str,
        service: str,
        path: str,
        *,
        query: Mapping[str, Query] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        base = self.context.url(service)
        request = self._http.build_request(
            method,
            base + path,
            params={name: value for name, value in (query or {}).items() if value is not None},
            json=body,
            headers={**(headers or {}), "authorization": f"Bearer {self._token()}"},
        )
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                answer = self._http.send(request)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as fault:
                if last:
                    raise _unreachable(service, base, fault) from None
                self._pause(attempt / 2)
                continue
            except httpx.HTTPError as fault:
                raise _unreachable(service, base, fault) from None
            if answer.status_code not in _TRY_AGAIN or last:
                return _read(service, answer)
            self._pause(_pause_seconds(answer, attempt))
        raise AssertionError


def _pause_seconds(answer: httpx.Response, attempt: int) -> float:
    said = answer.headers.get("retry-after", "")
    wanted = float(said) if said.isascii() and said.isdigit() and len(said) < 6 else attempt / 2
    return min(wanted, LONGEST_PAUSE_SECONDS)


def _unreachable(service: str, base: str, fault: httpx.HTTPError) -> Unreachable:
    why = "took too long" if isinstance(fault, httpx.TimeoutException) else "does not answer"
    return Unreachable(f"{service} {why} at {base}", advice="is the factory running? `aifn up` starts one here")


def _page(service: str, page: Any) -> tuple[list[dict[str, Any]], str | None]:
    try:
        found, then = page["items"], page.get("next")
    except (TypeError, KeyError, AttributeError):
        raise Unreadable(f"{service} did not answer with a list") from None
    if not isinstance(found, list) or not isinstance(then, str | None):
        raise Unreadable(f"{service} did not answer with a list")
    return found, then


def _read(service: str, answer: httpx.Response) -> Any:
    if answer.is_success:
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError:
            raise Unreadable(f"{service} did not answer in JSON") from None
    raise _refusal(service, answer)


class _ProblemDocument(BaseModel):
    code: str = ""
    detail: str = ""
    title: str = ""


def _refusal(service: str, answer: httpx.Response) -> Problem | Unreachable:
    """An answer that is none, as an error that says what to do."""
    status = answer.status_code
    try:
        members = answer.json()
        document = _ProblemDocument.model_validate(members)
    except (ValueError, ValidationError):
        members, document = {}, _ProblemDocument()
    detail = document.detail or document.title or f"{service} answered with status {status}"
    if status >= 500:
        return Unreachable(f"{service} cannot answer now: {detail}", advice="try again in a while")
    known = {"type", "title", "status", "detail", "code"}
    more = {name: value for name, value in members.items() if name not in known}
    return Problem(status, document.code or f"http_{status}", detail, members=more, advice=_ADVICE.get(status, ""))


_ADVICE = {
    401: f"{sign_in_again()}, or set AIFN_TOKEN to a fresh one",
    403: "`aifn whoami` shows who you are; another role may be allowed to",
    429: "try again in a while",
}
