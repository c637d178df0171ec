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
