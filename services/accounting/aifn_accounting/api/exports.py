"""Exports: what was used as CSV, JSON lines, Parquet, FOCUS or OGF usage records, and balances for Open OnDemand."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import date, datetime
from typing import Annotated, Any, Literal, TypeVar

from aifn_common import clock
from aifn_common.database import Database, Transaction, reading
from aifn_common.errors import Invalid, Refusal
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of
from aifn_events.vocabulary import MachineId
from fastapi import Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from aifn_accounting.actions import values
from aifn_accounting.api.reports import stretch
from aifn_accounting.export_views import (
    USAGE_COLUMNS,
    BalanceFileView,
    HourValueView,
    HourValueWords,
    usage_row,
)
from aifn_accounting.exports import focus, ondemand, tables, usage_record
from aifn_accounting.exports.parquet import Kind, ParquetFile
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import exports
from aifn_accounting.store.reports import Reach

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]
Since = Annotated[date | None, Query(description="first day, UTC; none: this month")]
Until = Annotated[date | None, Query(description="day after the last; none: the end of this month")]
Format = Literal["csv", "jsonl", "parquet"]
T = TypeVar("T")
Source = Callable[[Transaction], AsyncIterator[list[T]]]

MOST_ROWS = 10_000_000
MOST_ROWS_OF_PARQUET = 1_000_000
"""A Parquet file is put together in memory: a million rows are some hundred megabytes."""
MOST_AT_ONCE = 2
_TYPES: Mapping[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
}
_ANY_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {name.partition(";")[0]: {"schema": {"type": "string"}} for name in _TYPES.values()}},
}
_running = 0


class TooManyExports(Refusal):
    """This process writes as many exports as it can."""

    code = "too_many_exports"
    status = 503


class TooManyRows(Refusal):
    """The file would be larger than this process can put together."""

    code = "too_many_rows"


@router.get(
    "/exports/usage",
    summary="What was charged, as a table",
    tags=["exports"],
    response_class=Response,
    responses=_ANY_FILE,
)
async def export_usage(
    request: Request,
    who: Who,
    since: Since = None,
    until: Until = None,
    format: Format = "csv",  # noqa: A002
) -> Response:
    """Runs that ended within the days, the present revision of each, one row for each resource and allocation."""
    reach, first, last = _asked(who, since, until)

    def source(tx: Transaction) -> AsyncIterator[list[exports.ChargedRun]]:
        return exports.stream_runs(tx, reach, first, last, limit=_limit(format))

    return await _table(request, source, usage_row, USAGE_COLUMNS, format, "usage")


@router.get(
    "/exports/focus",
    summary="What was used, in FOCUS 1.2",
    tags=["exports"],
    response_class=Response,
    responses=_ANY_FILE,
)
async def export_focus(
    request: Request,
    who: Who,
    since: Since = None,
    until: Until = None,
    format: Format = "csv",  # noqa: A002
) -> Response:
    """A row for each allocation and UTC day. Billed cost is 0; list cost is from the table of hour values."""
    reach, first, last = _asked(who, since, until)

    def source(tx: Transaction) -> AsyncIterator[list[focus.DayUse]]:
        return exports.stream_days(tx, reach, first, last, limit=_limit(format))

    return await _table(request, source, focus.row, focus.COLUMNS, format, "focus")


@router.get(
    "/exports/usage-records",
    summary="What was charged, as OGF usage records 2.0",
    tags=["exports"],
    response_class=Response,
    responses={200: {"content": {"application/xml": {"schema": {"type": "string"}}}}},
)
async def export_usage_records(request: Request, who: Who, since: Since = None, until: Until = None) -> Response:
    """Runs that ended within the days, the present revision of each. Who ran them is a pseudonym."""
    reach, first, last = _asked(who, since, until)

    async def text(tx: Transaction) -> AsyncIterator[str]:
        yield usage_record.HEAD
        async for batch in exports.stream_runs(tx, reach, first, last, limit=MOST_ROWS):
            yield "".join(usage_record.element(one) for one in batch)
        yield usage_record.TAIL

    return _file(_with_connection(request.app.state.db, text), "application/xml", "usage-records.xml")


@router.get("/exports/ondemand", summary="Balances for Open OnDemand", tags=["exports"])
async def export_ondemand(
    tx: Tx,
    who: Who,
    settings: Settings,
    machine: Annotated[MachineId, Query(description="whose portal")],
    unit: Annotated[ondemand.Unit, Query(description="of all values")] = "gpu-hours",
) -> BalanceFileView:
    """Local user names, so for the factory's own people: of everybody who has run something there, by project."""
    who.must("usage.read", factory=settings.factory)
    now = clock.now()
    found = await exports.user_balances(tx, machine, settings.factory, now, unit)
    return BalanceFileView.model_validate(ondemand.balance_file(found, unit, now))


@router.get("/hour-values", summary="What an hour is worth", tags=["exports"])
async def list_hour_values(tx: Tx, who: Who, page: Paging) -> Page[HourValueView]:
    """Every value ever entered, by resource and date; empty until the operator enters one."""
    who.scope("report.read")
    found = await exports.list_values(
        tx, after=None if page.after is None else _value_place(page.after), limit=page.limit + 1
    )
    return make_page(
        [HourValueView.of(one) for one in found],
        page.limit,
        lambda view: f"{view.resource}\n{view.valid_from.isoformat()}",
    )


@router.post("/hour-values", status_code=201, summary="Say what an hour is worth", tags=["exports"])
async def enter_hour_value(words: HourValueWords, tx: Tx, who: Who, settings: Settings) -> HourValueView:
    """From a moment on, with its source; used for list costs in exports, nothing is ever billed."""
    who.must("value.write", factory=settings.factory)
    return HourValueView.of(
        await values.enter_value(
            tx,
            settings.factory,
            resource=words.resource,
            unit=words.unit,
            valid_from=words.valid_from,
            amount=words.amount,
            currency=words.currency,
            source=words.source,
            by=who.subject,
        )
    )


def _asked(who: Who, since: date | None, until: date | None) -> tuple[Reach, datetime, datetime]:
    scope = who.scope("usage.read")
    return Reach(scope.everything, scope.projects, scope.factories), *stretch(since, until)


def _limit(chosen: Format) -> int:
    return MOST_ROWS_OF_PARQUET + 1 if chosen == "parquet" else MOST_ROWS


def _value_place(cursor: str) -> tuple[str, datetime]:
    resource, _, moment = cursor.partition("\n")
    try:
        return resource, datetime.fromisoformat(moment)
    except ValueError:
        raise Invalid("`after` is not a cursor that a page of this list gave") from None


async def _table(
    request: Request,
    source: "Source[T]",
    row: Callable[[T], tables.Row],
    columns: Mapping[str, Kind],
    chosen: Format,
    name: str,
) -> Response:
    db: Database = request.app.state.db
    names = list(columns)

    async def lines(tx: Transaction) -> AsyncIterator[str]:
        if chosen == "csv":
            yield tables.csv_head(names)
        write = tables.csv_lines if chosen == "csv" else tables.json_lines
        async for batch in source(tx):
            yield write(names, map(row, batch))

    async def whole(tx: Transaction) -> AsyncIterator[bytes]:
        file, rows = ParquetFile(columns), 0
        async for batch in source(tx):
            rows += len(batch)
            if rows > MOST_ROWS_OF_PARQUET:
                raise TooManyRows(f"more than {MOST_ROWS_OF_PARQUET} rows: ask for fewer days, or for csv")
            await asyncio.to_thread(file.add, [row(one) for one in batch])
        yield await asyncio.to_thread(file.written)

    media, title = _TYPES[chosen], f"{name}.{chosen}"
    if chosen == "parquet":
        # Put together before anything is answered, so that a refusal is still an answer.
        return Response(
            b"".join([part async for part in _with_connection(db, whole)]), media_type=media, headers=_as(title)
        )
    return _file(_with_connection(db, lines), media, title)


def _file(parts: AsyncIterator[str], media: str, title: str) -> Response:
    return StreamingResponse(parts, media_type=media, headers=_as(title))


def _as(title: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{title}"', "cache-control": "no-store"}


def _with_connection(db: Database, write: Callable[[Transaction], AsyncIterator[T]]) -> AsyncIterator[T]:
    """Write with a connection of its own, since the route's is given back before its answer. Raises TooManyExports."""
    if _running >= MOST_AT_ONCE:
        raise TooManyExports(f"{MOST_AT_ONCE} exports are being written: try again in a moment")

    async def parts() -> AsyncIterator[T]:
        global _running
        _running += 1
        try:
            async with reading(db) as tx:
                async for part in write(tx):
                    yield part
        finally:
            _running -= 1

    return parts()
