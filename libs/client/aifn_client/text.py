"""How values look to people: moments, stretches of time, sizes; and what never reaches a terminal."""

import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from aifn_client.errors import Misuse

UNKNOWN = "–"
_CLOCK = re.compile(r"(?:(\d{1,4})-)?(\d{1,5}):([0-5]\d):([0-5]\d)", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_STRETCH = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_BYTES = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def plain(value: object) -> str:
    """A value as one word or sentence, safe to print: a service's text cannot move the cursor or colour the screen.

    >>> plain("evil\\x1b[2J"), plain(None), plain(True), plain(["FI", "EE"])
    ('evil�[2J', '–', 'yes', 'FI, EE')
    """
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, list | tuple):
        return ", ".join(plain(one) for one in value) or UNKNOWN
    return "".join(one if one == "\n" or unicodedata.category(one) not in ("Cc", "Cf") else "�" for one in str(value))


def moment(value: datetime | None) -> str:
    """A moment in the reader's own time zone, as ISO 8601 with its offset, a space before the clock time."""
    return UNKNOWN if value is None else value.astimezone().isoformat(sep=" ", timespec="seconds")


def stretch(seconds: int | None) -> str:
    """A stretch of time as batch systems write it.

    >>> stretch(5400), stretch(93784), stretch(None)
    ('1:30:00', '1-02:03:04', '–')
    """
    if seconds is None:
        return UNKNOWN
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{days}-{hours:02}:{minutes:02}:{rest:02}" if days else f"{hours}:{minutes:02}:{rest:02}"


def seconds_of(text: str) -> int:
    """A stretch of time as people write it, in seconds. A bare number is refused: sites differ on its unit.

    >>> seconds_of("90m"), seconds_of("1:30:00"), seconds_of("2-00:00:00")
    (5400, 5400, 172800)

    Raises: Misuse.
    """
    if found := _STRETCH.fullmatch(text):
        return int(found[1]) * _UNITS[found[2]]
    if found := _CLOCK.fullmatch(text):
        return int(found[1] or 0) * 86_400 + int(found[2]) * 3600 + int(found[3]) * 60 + int(found[4])
    raise Misuse(f"{text!r} is no length of time", advice="write it as 90m, 2h, 1:30:00 or 2-00:00:00")


def age(seconds: int) -> str:
    """How long ago, in the largest unit that fits.

    >>> age(42), age(7300)
    ('42 s ago', '2 h ago')
    """
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"


def size(count: int | None) -> str:
    """A number of bytes, in thousands.

    >>> size(184_000_000_000), size(512), size(None)
    ('184.0 GB', '512 bytes', '–')
    """
    if count is None:
        return UNKNOWN
    power = min((len(str(count)) - 1) // 3, len(_BYTES) - 1)
    return f"{count} bytes" if power == 0 else f"{Decimal(count).scaleb(-3 * power):.1f} {_BYTES[power]}"


def product(count: int | None, *words: str | None) -> str:
    """So many of something; what is not known is left out.

    >>> product(8, "AMD", "Instinct MI250X"), product(None, None), product(0, None)
    ('8 × AMD Instinct MI250X', '–', '–')
    """
    what = " ".join(word for word in words if word)
    if not what:
        return str(count) if count else UNKNOWN
    return f"{count} × {what}" if count else what


def count(number: int, word: str) -> str:
    """So many things.

    >>> count(1, "node"), count(2, "node")
    ('1 node', '2 nodes')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


def ratio(part: int | None, whole: int | None) -> str:
    """Part of a whole.

    >>> ratio(3, 20)
    '3/20'
    """
    return f"{plain(part)}/{plain(whole)}"


def lines(values: Iterable[object]) -> str:
    """Values below each other."""
    return "\n".join(plain(value) for value in values) or UNKNOWN
