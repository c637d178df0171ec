"""A place in a list, as those who ask for it hold it: opaque, so that nobody builds one."""

import base64
import binascii

from aifn_common.errors import Invalid


def write_cursor(place: str) -> str:
    """What to hand out for a place.

    >>> write_cursor("17-3")
    'MTctMw'
    """
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> str:
    """The place that a cursor stands for. Raises Invalid.

    >>> read_cursor("MTctMw")
    '17-3'
    """
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Invalid("`after` is not a cursor that a page of this list gave") from None


def number_in(place: str | None) -> int:
    """The number that a place is, zero for the beginning. Raises Invalid.

    >>> number_in("17")
    17
    """
    return numbers_in(place, 1)[0]


def numbers_in(place: str | None, count: int) -> tuple[int, ...]:
    """The whole numbers that make a place, zeros for the beginning. Raises Invalid.

    >>> numbers_in("17-3", 2)
    (17, 3)
    """
    if place is None:
        return (0,) * count
    parts = place.split("-")
    if len(parts) != count or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return tuple(int(part) for part in parts)
