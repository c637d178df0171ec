"""Says whether the books in a database hold, and ends: `python -m aifn_accounting.verify`, for a restored database.

Nothing is written. It ends with status 0 if every check holds, 1 if one does not, 65 if the schema is not this
program's, 69 if the database does not answer in time, 78 if a setting is wrong.
"""

import asyncio
import os
import sys

from aifn_common.database import close, reading
from aifn_common.migrations import fit, newest_of
from aifn_common.service import CannotStart, connect_for_a_while
from aifn_common.settings import WrongSetting, read_settings

from aifn_accounting.app import service
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import reads


async def verify(settings: AccountingSettings, *, patience_seconds: float = 60) -> list[reads.Check]:
    """Every check of the books, on a schema that this program knows. Raises CannotStart."""
    db = await connect_for_a_while(settings, patience_seconds)
    try:
        problem = (await fit(db, newest_of(*service.packages))).problem
        if problem is not None:
            raise CannotStart(os.EX_DATAERR, problem)
        async with reading(db) as tx:
            return await reads.verify(tx)
    finally:
        await close(db)


def main() -> int:
    """Print a line for each check; returns the status to end with."""
    try:
        checks = asyncio.run(verify(read_settings(AccountingSettings)))
    except WrongSetting as wrong:
        print(f"aifn-accounting: {wrong}", file=sys.stderr)
        return os.EX_CONFIG
    except CannotStart as wrong:
        print(f"aifn-accounting: {wrong}", file=sys.stderr)
        return wrong.status
    for one in checks:
        verdict = "holds" if not one.differing else f"DOES NOT HOLD in {one.differing} places"
        print(f"{one.name}: {one.resource}: expected {one.expected}, found {one.found}: {verdict}")
    return int(any(one.differing for one in checks))


if __name__ == "__main__":
    sys.exit(main())
