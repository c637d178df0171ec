"""What accounting tells of itself in metrics: whether the ledger holds, and days whose usage is not complete."""

import time

from aifn_common import telemetry
from aifn_common.database import Database, reading

from aifn_accounting.store import reads

VERIFY_SECONDS = 3600
"""Every posting is summed: as often as is cheap, as rarely as one can wait for the alarm."""
_GAPS = "SELECT machine_id, count(*) AS days FROM usage_gap WHERE closed_at IS NULL GROUP BY 1"


class Measures:
    """Asked every few seconds; the ledger is summed when an hour has passed since the last time."""

    def __init__(self) -> None:
        self._verified_at: float | None = None

    async def measure(self, db: Database) -> None:
        """Put the state of the books into the metrics."""
        telemetry.metrics.days_incomplete.drop()
        for row in await db.fetch(_GAPS):
            telemetry.metrics.days_incomplete.set(row["days"], machine=row["machine_id"])
        now = time.monotonic()
        if self._verified_at is None or now - self._verified_at >= VERIFY_SECONDS:
            async with reading(db) as tx:
                checks = await reads.verify(tx)
            self._verified_at = now
            telemetry.metrics.ledger_drift.set(sum(check.differing for check in checks))
