"""What the agent does as time goes by: follow its batch system."""

import asyncio

from aifn_common.database import Database, transaction
from aifn_common.outbox import nudge

from aifn_siteagent import actions
from aifn_siteagent.settings import SiteAgentSettings

SHORTEST_PAUSE_SECONDS = 0.05


async def tick(db: Database, settings: SiteAgentSettings) -> None:
    """Record and announce what has happened in the batch system since the last look, and rest as configured."""
    async with transaction(db) as tx:
        news = await actions.follow(tx, settings)
    if news:
        nudge()
    await asyncio.sleep(max(0.0, settings.tick_seconds - SHORTEST_PAUSE_SECONDS))
