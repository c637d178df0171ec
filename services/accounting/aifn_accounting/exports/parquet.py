"""Rows as a Parquet file. The library is read in when it is used: workers never need it."""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from aifn_accounting.exports.tables import Row, Value

if TYPE_CHECKING:
    from arro3.core import Array, RecordBatch

Kind = Literal["text", "integer", "decimal", "moment"]
DECIMAL_PLACES = 6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ParquetFile:
    """Takes rows in batches and becomes a file: columns compressed as they come, moments in microseconds of UTC."""

    def __init__(self, columns: Mapping[str, Kind]) -> None:
        from arro3.core import DataType, Field, Schema

        self._columns = columns
        types = {
            "text": DataType.utf8(),
            "integer": DataType.int64(),
            "decimal": DataType.decimal128(28, DECIMAL_PLACES),
            "moment": DataType.timestamp("us", tz="UTC"),
        }
        self._types = {name: types[kind] for name, kind in columns.items()}
        self._schema = Schema([Field(name, kind, nullable=True) for name, kind in self._types.items()])
        self._batches: list[RecordBatch] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Take some rows."""
        from arro3.core import RecordBatch

        arrays = [self._array(name, kind, [row[name] for row in rows]) for name, kind in self._columns.items()]
        self._batches.append(RecordBatch.from_arrays(arrays, schema=self._schema))

    def written(self) -> bytes:
        """The file."""
        from arro3.core import RecordBatchReader
        from arro3.io import write_parquet

        target = io.BytesIO()
        write_parquet(RecordBatchReader.from_batches(self._schema, self._batches), target, compression="zstd(3)")
        return target.getvalue()

    def _array(self, name: str, kind: Kind, values: Sequence[Value]) -> "Array":
        from arro3.core import Array, DataType

        if kind == "text":
            return Array([None if value is None else str(value) for value in values], DataType.utf8())
        if kind == "integer":
            return Array(values, DataType.int64())
        if kind == "decimal":
            return Array([None if value is None else str(value) for value in values], DataType.utf8()).cast(
                self._types[name]
            )
        return Array([_microseconds(value) for value in values], DataType.int64()).cast(self._types[name])


def _microseconds(value: Value) -> int | None:
    if not isinstance(value, datetime):
        return None
    since = value - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
