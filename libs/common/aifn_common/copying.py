"""Many rows at once by COPY, in PostgreSQL's binary format: for a busy table, at little more than half the cost.

asyncpg looks up how to write each value of each row. Where the columns are known, and most texts repeat, a row is
quicker put together here. Source: PostgreSQL's documentation of COPY, "Binary Format".
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice

from aifn_common.database import Transaction

NULL = b"\xff\xff\xff\xff"
_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TAIL = b"\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ROWS_AT_ONCE = 500

_count = struct.Struct(">h").pack
_length = struct.Struct(">i").pack
_int = struct.Struct(">ii").pack
_bigint = struct.Struct(">iq").pack
_two_bigints = struct.Struct(">iqiq").pack
_three_bigints = struct.Struct(">iqiqiq").pack


def copied_row(count: int, *parts: bytes) -> bytes:
    """A row of so many values, in parts of one or more, each as one of the functions here makes it, or NULL."""
    return _count(count) + b"".join(parts)


def text(value: str) -> bytes:
    """A value of the type text or json."""
    encoded = value.encode()
    return _length(len(encoded)) + encoded


def raw(value: bytes) -> bytes:
    """A value of the type bytea, or of the type text or json in UTF-8."""
    return _length(len(value)) + value


@lru_cache(maxsize=65_536)
def words(*values: str) -> bytes:
    """Values of the type text that many rows have together."""
    return b"".join(map(text, values))


@lru_cache(maxsize=65_536)
def integers(*values: int) -> bytes:
    """Values of the type int that many rows have together."""
    return b"".join([_int(4, value) for value in values])


def bigint(value: int) -> bytes:
    """A value of the type bigint."""
    return _bigint(8, value)


def bigints(first: int, second: int) -> bytes:
    """Two values of the type bigint."""
    return _two_bigints(8, first, 8, second)


def moment(value: datetime) -> bytes:
    """A value of the type timestamptz; it is aware."""
    return _bigint(8, (value - _EPOCH) // _MICROSECOND)


def moments(first: datetime, second: datetime, third: datetime) -> bytes:
    """Three values of the type timestamptz; they are aware."""
    return _three_bigints(
        8, (first - _EPOCH) // _MICROSECOND, 8, (second - _EPOCH) // _MICROSECOND, 8, (third - _EPOCH) // _MICROSECOND
    )


async def copy_rows(tx: Transaction, table: str, rows: Iterable[bytes], *, columns: Sequence[str]) -> None:
    """Write rows, each made by `copied_row` with a value for each of the columns, of exactly its type.

    They may be made as they are asked for: the database writes meanwhile, and others of this process get their turn.
    """

    async def parts() -> AsyncIterator[bytes]:
        rest = iter(rows)
        yield _HEAD
        while some := b"".join(islice(rest, _ROWS_AT_ONCE)):
            yield some
            await asyncio.sleep(0)
        yield _TAIL

    await tx.copy_to_table(table, source=parts(), columns=columns, format="binary")
