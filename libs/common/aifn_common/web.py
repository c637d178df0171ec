"""HTTP for every service: one transaction a change, one check a request, one shape for errors.

The plumbing of a route, in this order: the body of a change is read (bounded), the person is recognised, a connection
is taken (a transaction, if something may change; none for a read that asks for none), the route runs, its check is
confirmed, the transaction is committed, the answer leaves.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from aifn_common import access, clock, event_log, idempotency, membership, outbox, telemetry
from aifn_common.cursors import read_cursor, write_cursor
from aifn_common.database import Database, Transaction, reading, transaction
from aifn_common.errors import PreconditionFailed, PreconditionRequired, Unauthenticated
from aifn_common.oidc import Identity
from aifn_common.parameters import Endpoint, Values, asks_for, flatten, make_reader, with_values
from aifn_common.problems import PROBLEM, NotModified, Problem, status_of
from aifn_common.settings import ServiceSettings

T = TypeVar("T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_VALUES = "aifn.values"
MAX_PAGE = 200
READS = ("GET", "HEAD")
BEARER = HTTPBearer(auto_error=False, description="an access token of the factory's issuer")


class Route(APIRoute):
    """A route with its connection, its person and its check; see the module's first lines."""

    def __init__(self, path: str, endpoint: Endpoint, **more: Any) -> None:
        self._needs_connection = asks_for(endpoint, _tx, _who)
        super().__init__(path, flatten(endpoint), **more)

    def get_route_handler(self) -> Handler:
        """Wrap the handler FastAPI made."""
        # The bearer scheme is there for OpenAPI: who asks is found out below, before the route's own parameters.
        asked = replace(self.dependant, dependencies=[d for d in self.dependant.dependencies if d.call is not BEARER])
        run = self._handler_of(asked)
        if (read := make_reader(asked)) is not None:
            run = _quickly(read, self._handler_of(with_values(asked, lambda request: request.scope[_VALUES])), run)
        path = self.path_format

        async def handle(request: Request) -> Response:
            began = time.perf_counter()
            status = 500
            try:
                with telemetry.Answering(f"{request.method} {path}", request.headers.get("traceparent")):
                    response = await _walk(request, run, self._needs_connection)
                status = response.status_code
                return response
            except Exception as fault:
                status = status_of(fault)
                raise
            finally:
                telemetry.metrics.answers.add(path, request.method, status)
                telemetry.metrics.answering.record(time.perf_counter() - began, {"route": path})

        return handle

    def _handler_of(self, dependant: Dependant) -> Handler:
        described, self.dependant = self.dependant, dependant
        try:
            return super().get_route_handler()
        finally:
            self.dependant = described


def _quickly(read: Callable[[Request], Values | None], quick: Handler, thorough: Handler) -> Handler:
    async def run(request: Request) -> Response:
        values = read(request)
        if values is None:
            return await thorough(request)
        request.scope[_VALUES] = values
        return await quick(request)

    return run


async def _walk(request: Request, run: Callable[[Request], Awaitable[Response]], needs_connection: bool) -> Response:
    if request.method not in READS:
        await request.body()
    identity = await _identify(request)
    db: Database | None = request.app.state.db
    if db is None:
        raise ConnectionError("the database has not answered yet")
    if request.method in READS:
        if not needs_connection:
            return await _answer(request, run, identity, None)
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
    request: Request, run: Callable[[Request], Awaitable[Response]], identity: Identity, tx: Transaction | None
) -> Response:
    who = access.Who(identity.subject, access.grants_of(identity.entitlements))
    request.state.who = who
    request.state.tx = tx
    response = await run(request)
    if not who.checked:
        raise RuntimeError(f"{request.method} {request.url.path} answered without asking who may")
    if tx is not None and request.method not in READS and response.status_code < 400:
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


async def _db(request: Request) -> Database:
    db: Database = request.app.state.db
    return db


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
Db = Annotated[Database, Depends(_db)]
"""The pool, for a plain read that takes a connection itself: one that asks for neither `Tx` nor `Who` is given none."""
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
