"""Rows put together by hand for COPY are the rows that PostgreSQL reads."""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import pytest
from aifn_common.copying import NULL, bigint, copied_row, copy_rows, integers, moment, moments, text, words
from aifn_common.database import Database, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MAKERS: list[Callable[[Any], bytes]] = [integers, bigint, text, words, moment, text]
COLUMNS = ("i", "b", "t", "w", "m", "j")
INTS = st.integers(-(2**31), 2**31 - 1)
BIGINTS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
AGES = st.integers(-50_000_000_000_000_000, 200_000_000_000_000_000).map(lambda us: timedelta(microseconds=us))
MOMENTS = st.builds(lambda age, tz: (datetime(2000, 1, 1, tzinfo=UTC) + age).astimezone(tz), AGES, OFFSETS)
VALUES = (INTS, BIGINTS, TEXTS, TEXTS, MOMENTS, st.just('{"a/b-c/d":1}'))
ROWS = st.lists(st.tuples(*(one | st.none() for one in VALUES)))
KEPT = "CREATE TEMP TABLE kept (i int, b bigint, t text, w text, m timestamptz, j json) ON COMMIT DROP"


def as_row(values: tuple[Any, ...]) -> bytes:
    return copied_row(
        len(values), *(NULL if value is None else make(value) for make, value in zip(MAKERS, values, strict=True))
    )


async def there_and_back(db: Database, rows: Iterable[bytes]) -> list[tuple[Any, ...]]:
    async with transaction(db) as tx:
        await tx.execute(KEPT)
        await copy_rows(tx, "kept", rows, columns=COLUMNS)
        return [tuple(row) for row in await tx.fetch("SELECT i, b, t, w, m, j FROM kept ORDER BY ctid")]


async def test_whatever_is_written_is_read_back(db: Database) -> None:
    loop = asyncio.get_running_loop()

    @given(rows=ROWS)
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def check(rows: list[tuple[Any, ...]]) -> None:
        assert asyncio.run_coroutine_threadsafe(there_and_back(db, map(as_row, rows)), loop).result(30) == rows

    await asyncio.to_thread(check)


@given(st.tuples(MOMENTS, MOMENTS, MOMENTS))
def test_three_moments_are_three_times_one(three: tuple[datetime, datetime, datetime]) -> None:
    assert moments(*three) == b"".join(map(moment, three))


async def test_thousands_of_rows_keep_their_order(db: Database) -> None:
    rows = [(n, n, str(n), "same", datetime(2026, 11, 21, tzinfo=UTC), "{}") for n in range(2345)]
    assert await there_and_back(db, map(as_row, rows)) == rows


async def test_others_get_their_turn_while_many_rows_are_made(db: Database) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    seen = []

    def rows() -> Iterable[bytes]:
        for number in range(5000):
            seen.append(turns)
            yield as_row((number, number, "t", "w", datetime(2026, 11, 21, tzinfo=UTC), "{}"))

    waiting = asyncio.create_task(others())
    await there_and_back(db, rows())
    waiting.cancel()
    assert len(set(seen)) >= 10


async def test_no_rows_are_no_fault(db: Database) -> None:
    assert await there_and_back(db, []) == []


async def test_a_row_of_another_width_is_refused_as_a_whole(db: Database) -> None:
    with pytest.raises(asyncpg.BadCopyFileFormatError):
        await there_and_back(db, [copied_row(2, integers(1), bigint(1))])
