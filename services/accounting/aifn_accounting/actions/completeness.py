"""Whether all usage has arrived: days are compared with what their sites state, and gaps are announced."""

from dataclasses import replace
from datetime import datetime, timedelta

from aifn_common import clock, event_log
from aifn_common.database import Transaction
from aifn_common.outbox import announce
from aifn_events.usage import UsageDayStated, UsageGapChanged

from aifn_accounting.actions.periods import post_late_entries
from aifn_accounting.actions.usage import state_usage_day
from aifn_accounting.domain.completeness import SiteDay, check_day, gap_of
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import completeness as store
from aifn_accounting.store import usage as usage_store

RECORDS_AT_ONCE = 200_000
DAYS_AT_ONCE = 20
MOST_SILENT_DAYS = 60
"""A site that has been silent for longer is known to be."""


async def hear_statement(tx: Transaction, event: UsageDayStated) -> None:
    """Keep what a site says of a day, and compare it when the grace is over. Raises StatedAhead, Stale."""
    now = clock.now()
    check_day(event.day, now)
    await state_usage_day(tx, event)
    await store.touch_day(tx, event.machine_id, event.day, now)


async def watch_usage(tx: Transaction, settings: AccountingSettings, *, until: int | None = None) -> int:
    """Look at what was heard since the last time: enter it in closed months, compare days that are due.

    `until` is given where the log is carried out again. Returns how many days were compared. One transaction; only one
    at a time.
    """
    now = clock.now()
    after = await store.take_watched(tx)
    last = min(await usage_store.last_number(tx) if until is None else until, after + RECORDS_AT_ONCE)
    await post_late_entries(tx, last)
    if last > after:
        await store.touch_days(tx, after, last, now)
        await store.set_watched(tx, last)
    await store.touch_silent_days(tx, now, MOST_SILENT_DAYS)
    grace = timedelta(seconds=settings.usage_day_grace_seconds)
    ripe = await store.take_ripe(tx, now - grace, DAYS_AT_ONCE)
    for machine_id, day in ripe:
        await _compare(tx, await store.get_day(tx, machine_id, day), now)
    if last > after or ripe:
        words = {"until": last, "usage_day_grace_seconds": settings.usage_day_grace_seconds}
        await event_log.keep_order(tx, event_log.Order("watch-usage", words))
    return len(ripe)


async def _compare(tx: Transaction, one: SiteDay, now: datetime) -> None:
    """Open, renew or close the gap of a day, and say so if something has changed."""
    reason = gap_of(one)
    before = await store.find_open_gap(tx, one.machine_id, one.day)
    if before is None and reason is None:
        return
    gap = store.Gap(
        before.number if before else 0,
        one.machine_id,
        one.day,
        reason or (before.reason if before else ""),
        one.revision,
        one.stated_records,
        one.records,
        one.overlapping,
        before.opened_at if before else now,
        now,
        now if reason is None else None,
    )
    await store.put_gap(tx, gap)
    if before is not None and replace(before, looked_at=now) == gap:
        return
    await announce(
        tx,
        UsageGapChanged(
            machine_id=gap.machine_id,
            day=gap.day,
            state="open" if gap.closed_at is None else "closed",
            reason=gap.reason,
            statement_revision=gap.statement_revision,
            stated_records=gap.stated_records,
            records=gap.records,
            overlapping=gap.overlapping,
            opened_at=gap.opened_at,
            looked_at=now,
        ),
    )
