"""What goes wrong, as an answer: one shape for all of it (RFC 9457); and bodies that are too large to be read."""

import json
import logging
from collections.abc import MutableMapping
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aifn_common.database import CONNECTION_FAULTS
from aifn_common.errors import Refusal

log = logging.getLogger(__name__)
PROBLEM = "application/problem+json"
_MEMBERS = {"type", "title", "status", "detail", "code", "headers"}


class Problem(BaseModel):
    """What went wrong, for people and for programs (RFC 9457)."""

    type: str = Field(examples=["urn:aifn:problem:not_found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no such thing"])
    code: str = Field(description="stable, for programs", examples=["not_found"])


class NotModified(Exception):
    """The asker has this revision already."""

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag


class BodyTooLarge(Refusal):
    """The request is larger than this service reads."""

    code = "body_too_large"
    status = 413


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


def status_of(fault: Exception) -> int:
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
