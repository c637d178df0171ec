"""Add charges up to sums that name nobody, and tell the sums that changed."""

import hashlib
from collections.abc import Sequence

from aifn_common import outbox
from aifn_common.database import Database, Transaction, transaction
from aifn_events.federation import UsageMonthSummed
from aifn_events.usage import UsageCharged

from aifn_fedgate.actions import publish
from aifn_fedgate.domain.usage import hour_of, identity_of, summed
from aifn_fedgate.door import Door
from aifn_fedgate.store import usage as store

AT_ONCE = 500


async def add_up(tx: Transaction, charges: Sequence[UsageCharged]) -> None:
    """Count each charge once, at its highest revision, in the hour in which its segment ended."""
    newest: dict[bytes, UsageCharged] = {}
    for charge in charges:
        identity = hashlib.sha256(repr(identity_of(charge)).encode()).digest()
        known = newest.get(identity)
        if known is None or charge.revision > known.revision:
            newest[identity] = charge
    rows = [(identity, hour_of(charge), charge.revision, charge.amount) for identity, charge in sorted(newest.items())]
    await store.put_charges(tx, rows)


async def tell_sums(db: Database, door: Door) -> int:
    """Tell every sum that changed since it was told, and the months they belong to; returns how many were told."""
    told = 0
    while True:
        async with door.lock, transaction(db) as tx:
            rows = await store.take_untold(tx, AT_ONCE)
            sums = [
                summed(key, amount=amount, records=records, revision=revision, member=door.me, now=door.now())
                for key, amount, records, revision in rows
            ]
            await publish.tell_all(tx, door, "usage", [(one, "") for one in sums])
            for project, month in sorted({(key.project_id, f"{key.hour:%Y-%m}") for key, *_ in rows}):
                amounts, revision = await store.sum_month(tx, project, month)
                summary = UsageMonthSummed(
                    project_id=project,
                    month=month,
                    amounts=amounts,
                    revision=revision,
                    source=f"urn:aifn:{door.me}:fedgate",
                    time=door.now(),
                )
                await publish.tell(tx, door, "usage-summary", summary)
        told += len(rows)
        if len(rows) < AT_ONCE:
            break
    if told:
        outbox.nudge()
    return told
