"""The list of all charges as a stream of server-sent events, for those who would rather listen than ask."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated

from aifn_common.database import CONNECTION_FAULTS, Database, reading
from aifn_common.errors import Refusal
from aifn_common.web import Who, make_router, settings_of
from aifn_events.vocabulary import ProjectId
from fastapi import Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from aifn_accounting.actions.webhooks import cursor_of
from aifn_accounting.api.webhooks import place_in
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import reads
from aifn_accounting.views import UsageEventView

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]

MOST_STREAMS = 100
"""So many readers of one process; each asks the database once a second."""
_PAUSE_SECONDS = 1.0
_HEARTBEAT_SECONDS = 15.0
_AT_ONCE = 200
_open_streams = 0


class TooManyStreams(Refusal):
    """This process has as many readers as it can serve."""

    code = "too_many_streams"
    status = 503


@dataclass
class Reader:
    """Who reads, what of it all they may see, and how far they have come."""

    everything: bool
    projects: Iterable[str]
    factories: Iterable[str]
    project_id: ProjectId | None
    place: tuple[int, int]
    ends_at: float
    clock: Callable[[], float] = field(default=time.monotonic)


@router.get(
    "/usage-events/stream",
    summary="All that is charged, as it becomes known",
    tags=["usage"],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def stream_usage_events(
    request: Request,
    who: Who,
    settings: Settings,
    project: Annotated[ProjectId | None, Query(description="only of this project")] = None,
    after: Annotated[str | None, Query(max_length=1000, description="`next` of a page; none: all")] = None,
    last_event_id: Annotated[str | None, Header(max_length=1000, description="what a browser sends by itself")] = None,
) -> StreamingResponse:
    """Events named `usage-charged`, each with its place as id, from a place or from the first record on.

    The stream ends after a while, so that its reader shows a token again: go on with `Last-Event-ID`, as browsers do by
    themselves, or with `after`. A record may come twice, never out of order.
    """
    scope = who.scope("usage.read")
    place = place_in(last_event_id or after)
    if _open_streams >= MOST_STREAMS:
        raise TooManyStreams(f"{MOST_STREAMS} streams are open here: read pages, or try again later")
    reader = Reader(
        scope.everything,
        scope.projects,
        scope.factories,
        project,
        place,
        time.monotonic() + settings.stream_seconds,
    )
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(follow(request.app.state.db, reader), media_type="text/event-stream", headers=headers)


async def follow(db: Database, reader: Reader) -> AsyncIterator[str]:
    """The stream: what is there, then what comes, and a comment now and then, so that nobody on the way hangs up."""
    global _open_streams
    _open_streams += 1
    try:
        yield ": charges follow\nretry: 2000\n\n"
        said = reader.clock()
        while True:
            found = await _next(db, reader)
            for one in found:
                reader.place = (one.usage_number, one.allocation_number)
                yield _event(one)
                said = reader.clock()
            if len(found) == _AT_ONCE:
                continue
            if reader.clock() >= reader.ends_at:
                return
            if reader.clock() - said >= _HEARTBEAT_SECONDS:
                yield ": still here\n\n"
                said = reader.clock()
            await asyncio.sleep(min(_PAUSE_SECONDS, max(reader.ends_at - reader.clock(), 0)))
    except CONNECTION_FAULTS:
        # The reader comes back by itself, with the last id it has seen.
        return
    finally:
        _open_streams -= 1


async def _next(db: Database, reader: Reader) -> list[reads.Charged]:
    async with reading(db) as tx:
        return await reads.list_charges(
            tx,
            everything=reader.everything,
            projects=reader.projects,
            factories=reader.factories,
            project_id=reader.project_id,
            after=reader.place,
            limit=_AT_ONCE,
        )


def _event(one: reads.Charged) -> str:
    return f"id: {cursor_of(one)}\nevent: usage-charged\ndata: {UsageEventView.of(one).model_dump_json()}\n\n"
