"""What accounting does by the clock."""

from aifn_common.database import Database, transaction
from aifn_common.outbox import nudge

from aifn_accounting.actions import completeness, webhooks
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import webhooks as webhook_store


async def call_webhooks(db: Database, settings: AccountingSettings) -> None:
    """Tell webhooks what is new."""
    await webhooks.deliver_due(db, settings)


async def forget_deliveries(db: Database, settings: AccountingSettings) -> None:
    """Drop old lines of the webhooks' log."""
    async with transaction(db) as tx:
        await webhook_store.forget_log(tx, days=settings.webhook_log_days)


async def watch_usage(db: Database, settings: AccountingSettings) -> None:
    """Enter what came late into closed months, and compare site-days with what their sites state."""
    async with transaction(db) as tx:
        compared = await completeness.watch_usage(tx, settings)
    if compared:
        nudge()
