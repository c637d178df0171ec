"""What the scheduler does by the clock."""

from aifn_common import outbox
from aifn_common.database import Database, transaction

from aifn_scheduler.actions import planning
from aifn_scheduler.settings import SchedulerSettings


async def plan_tick(db: Database, settings: SchedulerSettings) -> None:
    """Plan what waits."""
    async with transaction(db) as tx:
        placed = await planning.plan_jobs(tx, settings)
    if placed:
        outbox.nudge()
