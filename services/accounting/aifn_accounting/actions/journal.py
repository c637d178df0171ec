"""Seals the journal, a moment after it was written: what is sealed cannot be changed unnoticed."""

import asyncio

from aifn_common import clock
from aifn_common.database import Database, transaction

from aifn_accounting.store import journal as store

PATIENCE_SECONDS = 30.0
"""Longer than a batch of usage takes; who waits in vain seals what has ended by the next time."""
_LOOK_SECONDS = 0.1


async def seal(db: Database, *, patience_seconds: float = PATIENCE_SECONDS) -> int:
    """Seal all that has been written so far, once everybody who is writing now has ended; returns how many seals.

    It holds up nobody: it looks again and again, and gives up when its patience is at its end.
    """
    async with transaction(db) as tx:
        mark = await store.mark(tx)
    for _ in range(round(patience_seconds / _LOOK_SECONDS) + 1):
        async with db.acquire() as connection:
            if await store.is_settled(connection, mark):
                break
        await asyncio.sleep(min(_LOOK_SECONDS, patience_seconds))
    else:
        return 0
    made = 0
    while await _seal_one(db, mark):
        made += 1
    return made


async def _seal_one(db: Database, mark: store.Mark) -> bool:
    """Make one seal of what lies below a settled mark; False if there is nothing left."""
    async with transaction(db) as tx:
        await store.lock(tx)
        before = await store.last(tx)
        if mark.transfers <= before.transfers and mark.usage <= before.usage:
            return False
        await store.seal(
            tx,
            before,
            transfers=min(mark.transfers, before.transfers + store.AT_ONCE),
            usage=min(mark.usage, before.usage + store.AT_ONCE),
            at=clock.now(),
        )
    return True
