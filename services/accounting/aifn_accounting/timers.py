"""What accounting does by the clock."""

from datetime import timedelta

from aifn_common import clock, event_log
from aifn_common.database import Database, transaction
from aifn_common.outbox import nudge

from aifn_accounting.actions import allocations, awards, completeness, journal, usage, webhooks
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import allocations as allocation_store
from aifn_accounting.store import webhooks as webhook_store

_AT_ONCE = 500


async def call_webhooks(db: Database, settings: AccountingSettings) -> None:
    """Tell webhooks what is new."""
    await webhooks.deliver_due(db, settings)


async def forget_deliveries(db: Database, settings: AccountingSettings) -> None:
    """Drop old lines of the webhooks' log."""
    async with transaction(db) as tx:
        await webhook_store.forget_log(tx, days=settings.webhook_log_days)


async def watch_usage(db: Database, settings: AccountingSettings) -> None:
    """Enter what came late into closed months, and compare site-days with what their sites state."""
    with clock.held():
        async with transaction(db) as tx:
            compared = await completeness.watch_usage(tx, settings)
    if compared:
        nudge()


async def settle_suspense(db: Database, _: AccountingSettings) -> None:
    """Charge usage that nobody could pay, if somebody can now."""
    settled = _AT_ONCE
    while settled == _AT_ONCE:
        with clock.held():
            async with transaction(db) as tx:
                settled = await usage.settle_suspense(tx, limit=_AT_ONCE)
                if settled:
                    await event_log.keep_order(tx, event_log.Order("settle-suspense", {"limit": _AT_ONCE}))
        if settled:
            nudge()


async def retry_awards(db: Database, _: AccountingSettings) -> None:
    """Carry out awards that waited, if there is room now."""
    if await awards.retry_awards(db):
        nudge()


async def seal_journal(db: Database, _: AccountingSettings) -> None:
    """Chain what was written since to the seals of the journal."""
    await journal.seal(db)


async def end_allocations(db: Database, settings: AccountingSettings) -> None:
    """Let what is left after the end expire, and take the due steps of use-or-lose policies; each by itself."""
    now = clock.now()
    ended_before = now - timedelta(days=settings.expiry_grace_days)
    async with db.acquire() as connection:
        over = await allocation_store.over(connection, ended_before=ended_before, limit=_AT_ONCE)
    for number in over:
        with clock.held():
            async with transaction(db) as tx:
                await allocations.expire(tx, number, ended_before=ended_before)
    last = 0
    while True:
        async with db.acquire() as connection:
            some = await allocation_store.under_policy(connection, now, after=last, limit=_AT_ONCE)
        for number in some:
            with clock.held():
                async with transaction(db) as tx:
                    await allocations.apply_policy(tx, number)
        if len(some) < _AT_ONCE:
            break
        last = some[-1]
    nudge()
