"""Rows as CSV or as JSON lines, a piece at a time, so that no export is ever whole in memory."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

Value = str | int | Decimal | datetime | None
Row = Mapping[str, Value]


def written(value: Value) -> str | int | None:
    """A value as text: moments as RFC 3339 in UTC, decimals with all their digits, what is not there as None."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, Decimal) else value


def csv_head(columns: Sequence[str]) -> str:
    """The first line."""
    return csv_lines(columns, [dict(zip(columns, columns, strict=True))])


def csv_lines(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Lines as RFC 4180 has them; what is not there is an empty field.

    >>> csv_lines(["job", "amount"], [{"job": 'a,b', "amount": 5}, {"job": None, "amount": 0}]).splitlines()
    ['"a,b",5', ',0']
    """
    text = io.StringIO()
    writer = csv.writer(text)
    for row in rows:
        writer.writerow([written(row[name]) for name in columns])
    return text.getvalue()


def json_lines(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """One object a line; decimals are strings, as in the API.

    >>> json_lines(["job", "amount"], [{"job": "j1", "amount": 5}]).splitlines()
    ['{"job": "j1", "amount": 5}']
    """
    return "".join(json.dumps({name: written(row[name]) for name in columns}) + "\n" for row in rows)
