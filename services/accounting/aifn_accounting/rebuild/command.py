"""The operator's command: `aifn ledger rebuild`, and where there is no `aifn`, `python -m aifn_accounting.rebuild`."""

import argparse
import asyncio
import sys

from aifn_common.database import CONNECTION_FAULTS
from aifn_common.errors import Refusal
from aifn_common.settings import WrongSetting, read_settings

from aifn_accounting.rebuild.books import rebuild as rebuild_books
from aifn_accounting.settings import AccountingSettings

_HELP_INTO = "address of an empty database, e.g. postgresql://user@host/rebuilt"
_HELP_SHUFFLE = "then once more with usage shuffled and partly heard twice, by this number"
NOT_REACHED = 3


def rebuild(into: str, shuffle: int | None = None) -> None:
    """Make the books anew from the event log, in the empty database INTO, and compare.

    Runs where accounting runs, with its settings (AIFN_DATABASE_URL, AIFN_PSEUDONYM_KEY, ...); accounting may go on.
    With --shuffle N then once more in another order, made from N. Exit status 1 if something differs.
    """
    sys.exit(asyncio.run(_run(into, shuffle)))


async def _run(into: str, shuffle: int | None) -> int:
    try:
        settings = read_settings(AccountingSettings)
        return 0 if await rebuild_books(settings, into, shuffle=shuffle, say=print) else 1
    except (WrongSetting, Refusal) as wrong:
        print(f"aifn ledger rebuild: {wrong}", file=sys.stderr)
        return 1
    except CONNECTION_FAULTS as away:
        print(f"aifn ledger rebuild: a database cannot be reached: {' '.join(str(away).split())}", file=sys.stderr)
        return NOT_REACHED


def main() -> None:
    """The same without `aifn`."""
    parser = argparse.ArgumentParser(prog="python -m aifn_accounting.rebuild", description=rebuild.__doc__)
    parser.add_argument("into", help=_HELP_INTO)
    parser.add_argument("--shuffle", type=int, default=None, metavar="N", help=_HELP_SHUFFLE)
    words = parser.parse_args()
    rebuild(words.into, words.shuffle)
