"""What accounting hears, and which action follows."""

from collections.abc import Sequence

from aifn_common.database import Transaction
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Rejected, Subscriptions
from aifn_events.access import AwardGranted
from aifn_events.handover import HandoverSettled
from aifn_events.placement import JobClosed, JobPlaced
from aifn_events.registry import MachineDescribed
from aifn_events.usage import UsageDayStated, UsageReported

from aifn_accounting.actions import awards, budget, completeness, exchange, projects, usage
from aifn_accounting.domain.usage import Usage
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.wire import read_usage

hears = Subscriptions("accounting", keeps_log=True)


@hears(MachineDescribed)
async def on_machine_described(event: MachineDescribed, db: Db) -> None:
    """A machine's resources are counted in some way."""
    await deliver_once(db, event, projects.remember_machine)


@hears(AwardGranted)
async def on_award_granted(event: AwardGranted, db: Db, settings: AccountingSettings) -> None:
    """An award opens a project and its allocations, or waits for room; at its hosting factory and nowhere else."""
    if event.factory_id == settings.factory:
        await deliver_once(db, event, awards.carry_out_award)


@hears(JobPlaced)
async def on_job_placed(event: JobPlaced, db: Db) -> None:
    """A placed job needs budget."""
    await deliver_once(db, event, budget.hold_budget)


@hears(JobClosed)
async def on_job_closed(event: JobClosed, db: Db) -> None:
    """A job is over; what it did not use goes back."""
    await deliver_once(db, event, budget.close_job)


@hears(HandoverSettled)
async def on_handover_settled(event: HandoverSettled, db: Db) -> None:
    """A job that ran at another factory, or for one, is to be booked at the agreed rate."""
    await deliver_once(db, event, exchange.settle_handover)


@hears(UsageDayStated)
async def on_usage_day_stated(event: UsageDayStated, db: Db) -> None:
    """A site says what it has sent for a day."""
    await deliver_once(db, event, completeness.hear_statement)


@hears.in_batches(UsageReported, max_records=20_000, read=read_usage)
async def on_usage_reported(
    events: Sequence[Usage], tx: Transaction, settings: AccountingSettings
) -> Sequence[Rejected]:
    """Usage is charged, many records at once. The records' own identity takes the place of the inbox."""
    return await usage.charge_usage(tx, events, settings)
