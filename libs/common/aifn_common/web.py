"""HTTP for every service: one transaction a change, one check a request, one shape for errors.

The plumbing of a route, in this order: the body is read (bounded), the person is recognised, a connection is taken
(a transaction, if something may change), the route runs, its check is confirmed, the transaction is committed, the
answer leaves.
"""

import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, MutableMapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Generic, TypeVar

import asyncpg
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aifn_common import access, clock, event_log, idempotency, membership, outbox, telemetry
from aifn_common.cursors import read_cursor, write_cursor
from aifn_common.database import CONNECTION_FAULTS, Database, Transaction, reading, transaction
from aifn_common.errors import PreconditionFailed, PreconditionRequired, Refusal, Unauthenticated
from aifn_common.oidc import Identity
from aifn_common.parameters import Endpoint, flatten
from aifn_common.settings import ServiceSettings

log = logging.getLogger(__name__)
T = TypeVar("T")
PROBLEM = "application/problem+json"
_MEMBERS = {"type", "title", "status", "detail", "code", "headers"}
MAX_PAGE = 200
BEARER = HTTPBearer(auto_error=False, description="an access token of the factory's issuer")


class BodyTooLarge(Refusal):
    """The request is larger than this service reads."""

    code = "body_too_large"
    status = 413


class NotModified(Exception):
    """The asker has this revision already."""

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag


class Problem(BaseModel):
    """What went wrong, for people and for programs (RFC 9457)."""

    type: str = Field(examples=["urn:aifn:problem:not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no such thing"])
    code: str = Field(description="stable, for programs", examples=["not_found"])


class Route(APIRoute):
    """A route with its connection, its person and its check; see the module's first lines."""

    def __init__(self, path: str, endpoint: Endpoint, **more: Any) -> None:
        super().__init__(path, flatten(endpoint), **more)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler FastAPI made."""
        described = self.dependant
        # The bearer scheme is there for OpenAPI: who asks is found out below, before the route's own parameters.
        self.dependant = replace(described, dependencies=[d for d in described.dependencies if d.call is not BEARER])
        run = super().get_route_handler()
        self.dependant = described
        path = self.path_format

        async def handle(request: Request) -> Response:
            began = time.perf_counter()
            status = 500
            try:
                with telemetry.Answering(f"{request.method} {path}", request.headers.get("traceparent")):
                    response = await _walk(request, run)
                status = response.status_code
                return response
            except Exception as fault:
                status = _status_of(fault)
                raise
            finally:
                telemetry.metrics.answers.add(path, request.method, status)
                telemetry.metrics.answering.record(time.perf_counter() - began, {"route": path})

        return handle


def _status_of(fault: Exception) -> int:
    """The status that `add_problems` answers a fault with."""
    if isinstance(fault, Refusal):
        return fault.status
    if isinstance(fault, HTTPException):
        return fault.status_code
    if isinstance(fault, NotModified):
        return 304
    if isinstance(fault, RequestValidationError | asyncpg.DataError):
        return 422
    return 503 if isinstance(fault, CONNECTION_FAULTS) else 500


async def _walk(request: Request, run: Callable[[Request], Awaitable[Response]]) -> Response:
    await request.body()
    identity = await _identify(request)
    db: Database | None = request.app.state.db
    if db is None:
        raise ConnectionError("the database has not answered yet")
    if request.method in ("GET", "HEAD"):
        async with reading(db) as connection:
            return await _answer(request, run, identity, connection)
    with clock.held():
        async with transaction(db) as tx:
            response = await _once(request, run, identity, tx)
    outbox.nudge()
    return response


async def _once(
    request: Request, run: Callable[[Request], Awaitable[Response]], identity: Identity, tx: Transaction
) -> Response:
    key = request.headers.get("idempotency-key") if request.method == "POST" else None
    if key is None:
        return await _answer(request, run, identity, tx)
    said = f"{request.method} {request.url.path}?{request.url.query}\n".encode() + await request.body()
    known = await idempotency.begin(tx, identity.subject, key, hashlib.sha256(said).hexdigest())
    if known is not None:
        return Response(known.body, known.status, known.headers)
    response = await _answer(request, run, identity, tx)
    headers = {name: value for name, value in response.headers.items() if name in ("content-type", "location", "etag")}
    await idempotency.keep(tx, identity.subject, key, response.status_code, headers, bytes(response.body))
    return response


async def _answer(
    request: Request, run: Callable[[Request], Awaitable[Response]], identity: Identity, tx: Transaction
) -> Response:
    who = access.Who(identity.subject, access.grants_of(identity.entitlements))
    request.state.who = who
    request.state.tx = tx
    response = await run(request)
    if not who.checked:
        raise RuntimeError(f"{request.method} {request.url.path} answered without asking who may")
    if request.method not in ("GET", "HEAD") and response.status_code < 400:
        await _keep(request, identity, tx)
    return response


async def _keep(request: Request, identity: Identity, tx: Transaction) -> None:
    settings: ServiceSettings = request.app.state.settings
    if settings.logged is not None and not request.url.path.startswith(settings.logged.aside):
        await event_log.keep_order(tx, await _order(request, identity, settings, settings.logged.deciding))


async def _order(
    request: Request, identity: Identity, settings: ServiceSettings, deciding: Collection[str]
) -> event_log.Order:
    """A request as the event log keeps it: all that its outcome depends on, and no token."""
    kept = ("content-type", "if-match")
    return event_log.Order(
        f"{request.method} {request.scope['raw_path'].decode('ascii')}",
        {"query": request.url.query},
        by=identity.subject,
        entitlements=sorted(identity.entitlements),
        headers={name: value for name in kept if (value := request.headers.get(name)) is not None},
        body=await request.body(),
        settings=settings.model_dump(mode="json", include=set(deciding)),
    )


async def _identify(request: Request) -> Identity:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("sign in first: a bearer token is needed (aifn login)")
    identity: Identity = await request.app.state.validator.identify(token.strip())
    return identity


# Dependencies are coroutines, also where they wait for nothing: others are sent to a thread each time.
async def _tx(request: Request) -> Transaction:
    tx: Transaction = request.state.tx
    return tx


async def _asker(request: Request) -> access.Who:
    asker: access.Who = request.state.who
    return asker


async def _who(request: Request) -> access.Who:
    who: access.Who = request.state.who
    who.join(await membership.projects_of(request.state.tx, who.subject))
    return who


async def settings_of(request: Request) -> Any:
    """This service's settings, for a route: `settings: Annotated[MySettings, Depends(settings_of)]`."""
    return request.app.state.settings


Tx = Annotated[Transaction, Depends(_tx)]
Who = Annotated[access.Who, Depends(_who)]
Asker = Annotated[access.Who, Depends(_asker)]
"""Who asks, with the roles of the token alone: for a route that reads the roles in its project with what it shows."""


def make_router() -> APIRouter:
    """A router under /v1 whose routes keep the promises of this module."""
    problem = {"model": Problem, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    return APIRouter(
        prefix="/v1",
        route_class=Route,
        dependencies=[Depends(BEARER)],
        responses={"default": {"description": "a problem, see `code`", **problem}},
    )


class PageParams:
    """Which part of a list: at most `limit` items, those after the cursor that the page before gave."""

    def __init__(self, limit: int, after: str | None) -> None:
        self.limit = limit
        self.after = None if after is None else read_cursor(after)


async def _page_params(
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="most items on a page")] = 50,
    after: Annotated[str | None, Query(max_length=1000, description="`next` of the page before")] = None,
) -> PageParams:
    return PageParams(limit, after)


Paging = Annotated[PageParams, Depends(_page_params)]


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T]
    next: str | None = Field(description="cursor for `after`; null on the last page")


def make_page(rows: Sequence[T], limit: int, cursor_of: Callable[[T], str]) -> Page[T]:
    """A page from up to `limit` + 1 rows: the one too many tells that there is more.

    >>> page = make_page(["a", "b", "c"], 2, cursor_of=lambda row: row)
    >>> page.items, read_cursor(page.next)
    (['a', 'b'], 'b')
    """
    items = list(rows[:limit])
    more = len(rows) > limit
    return Page(items=items, next=write_cursor(cursor_of(items[-1])) if more else None)


def etag_of(revision: int) -> str:
    """The entity tag of a revision."""
    return f'"r{revision}"'


def set_etag(response: Response, revision: int) -> None:
    """Say which revision an answer shows."""
    response.headers["etag"] = etag_of(revision)


def not_modified(request: Request, revision: int) -> None:
    """Stop here with 304 if the asker has this revision already."""
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag_of(revision) in known:
        raise NotModified(etag_of(revision))


def check_if_match(request: Request, revision: int) -> None:
    """A change must name the revision it was made from. Raises PreconditionRequired or PreconditionFailed."""
    said = request.headers.get("if-match")
    if said is None:
        raise PreconditionRequired(f"send If-Match with the ETag you read; it is {etag_of(revision)} now")
    if etag_of(revision) not in [tag.strip() for tag in said.split(",")]:
        raise PreconditionFailed(f"this was changed meanwhile: it is {etag_of(revision)} now; read it again")


def add_problems(app: FastAPI) -> None:
    """Turn every error into a problem document."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        headers = {"www-authenticate": "Bearer"} if refusal.status == 401 else None
        details = {name: value for name, value in refusal.details.items() if isinstance(value, int | str | bool | list)}
        more = {name: value for name, value in details.items() if name not in _MEMBERS}
        return problem_response(refusal.status, refusal.code, str(refusal), headers=headers, **more)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, wrong: RequestValidationError) -> Response:
        errors = [
            {"where": ".".join(str(part) for part in error["loc"]), "message": error["msg"]}
            for error in wrong.errors()[:20]
        ]
        detail = "; ".join(f"{error['where']}: {error['message']}" for error in errors)[:1000]
        return problem_response(422, "invalid", detail, errors=errors)

    @app.exception_handler(HTTPException)
    async def http(_: Request, wrong: HTTPException) -> Response:
        code = {404: "no_such_path", 405: "method_not_allowed"}.get(wrong.status_code, "http_error")
        return problem_response(wrong.status_code, code, str(wrong.detail), headers=wrong.headers)

    @app.exception_handler(NotModified)
    async def unchanged(_: Request, known: NotModified) -> Response:
        return Response(status_code=304, headers={"etag": known.etag})

    @app.exception_handler(asyncpg.DataError)
    async def unfit(_: Request, wrong: asyncpg.DataError) -> Response:
        return problem_response(422, "invalid", f"a value cannot be kept: {str(wrong)[:200]}")

    for fault in CONNECTION_FAULTS:
        app.add_exception_handler(fault, _away)
    app.add_exception_handler(Exception, _our_fault)


async def _away(_: Request, fault: Exception) -> Response:
    log.warning("the database is away: %r", fault)
    return problem_response(503, "try_again", "something this needs is away; try again", headers={"retry-after": "2"})


async def _our_fault(request: Request, fault: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=fault)
    return problem_response(500, "fault", "this is our fault; it has been noted")


def problem_response(
    status: int, code: str, detail: str, *, headers: MutableMapping[str, str] | Any = None, **more: Any
) -> Response:
    """A problem document; `more` become its extension members."""
    body = {
        **more,
        "type": f"urn:aifn:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
    }
    # Half of a surrogate pair, which JSON can say and UTF-8 cannot, stays escaped.
    return Response(json.dumps(body, default=str), status, headers=headers, media_type=PROBLEM)


class BodyLimit:
    """Refuses bodies over a size before they are read, whether they say their length or not."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting what it sends."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            if said.isdigit() and int(said) > self._most:
                raise BodyTooLarge(f"{int(said)} bytes are more than {self._most}")
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise BodyTooLarge(f"the body is larger than {self._most} bytes")
            return message

        await self._app(scope, counted, send)
