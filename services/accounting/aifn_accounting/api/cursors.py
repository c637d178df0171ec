"""Reads the cursors of lists that are not in the order of one text."""

from aifn_common.errors import Invalid


def two_words_in(cursor: str | None) -> tuple[str, str] | None:
    """The two words in a cursor. Raises Invalid."""
    if cursor is None:
        return None
    first, space, second = cursor.partition(" ")
    if not space:
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return first, second
