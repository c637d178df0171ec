"""What the scheduler does by the clock."""

import asyncio
import time

from aifn_common import outbox, telemetry
from aifn_common.database import Database, transaction

from aifn_scheduler.actions import handover, planning
from aifn_scheduler.settings import SchedulerSettings

_LONGEST_REST_SECONDS = 2.0


async def plan_tick(db: Database, settings: SchedulerSettings) -> None:
    """Plan what waits; then rest three times as long as that took, so that other work goes on."""
    began = time.monotonic()
    async with transaction(db) as tx:
        placed = await planning.plan_jobs(tx, settings)
    if placed:
        outbox.nudge()
        telemetry.metrics.placed.add(placed)
    took = time.monotonic() - began
    telemetry.metrics.planning.record(took)
    await asyncio.sleep(min(3 * took, _LONGEST_REST_SECONDS))


async def handover_tick(db: Database, settings: SchedulerSettings) -> None:
    """Offer what waits too long to other factories, and decide what is overdue on our side."""
    async with transaction(db) as tx:
        offered = await handover.offer_waiting(tx, settings)
    async with transaction(db) as tx:
        overdue = await handover.sweep(tx)
    if offered or overdue:
        outbox.nudge()
