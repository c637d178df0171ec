"""What the scheduler hears, each from topic to action."""

from aifn_common import membership
from aifn_common.database import Transaction
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Subscriptions
from aifn_events.access import AllocationOpened, ProjectDescribed
from aifn_events.federation import AwardFromPeer, CapacityFromPeer, HandoverFromPeer
from aifn_events.placement import BudgetHeld, BudgetRefused, JobEnded, JobStarted
from aifn_events.registry import CapacityReported, MachineDescribed
from aifn_events.shares import AllocationChanged

from aifn_scheduler.actions import access, handover, jobs, machines
from aifn_scheduler.settings import SchedulerSettings

hears = Subscriptions("scheduler")


@hears(MachineDescribed)
async def on_machine_described(event: MachineDescribed, db: Db) -> None:
    await deliver_once(db, event, machines.remember_machine)


@hears(CapacityReported)
async def on_capacity_reported(event: CapacityReported, db: Db, settings: SchedulerSettings) -> None:
    async def remember(tx: Transaction, event: CapacityReported) -> None:
        await machines.remember_capacity(tx, event, may_be_ahead=settings.capacity_ahead)

    await deliver_once(db, event, remember)


@hears(ProjectDescribed)
async def on_project_described(event: ProjectDescribed, db: Db) -> None:
    await deliver_once(db, event, membership.remember_project)


@hears(AllocationOpened)
async def on_allocation_opened(event: AllocationOpened, db: Db) -> None:
    await deliver_once(db, event, machines.remember_allocation)


@hears(AllocationChanged)
async def on_allocation_changed(event: AllocationChanged, db: Db) -> None:
    await deliver_once(db, event, machines.remember_allocation)


@hears(BudgetHeld)
async def on_budget_held(event: BudgetHeld, db: Db) -> None:
    await deliver_once(db, event, jobs.dispatch_job)


@hears(BudgetRefused)
async def on_budget_refused(event: BudgetRefused, db: Db) -> None:
    await deliver_once(db, event, jobs.refuse_job)


@hears(JobStarted)
async def on_job_started(event: JobStarted, db: Db) -> None:
    await deliver_once(db, event, jobs.start_job)


@hears(JobEnded)
async def on_job_ended(event: JobEnded, db: Db) -> None:
    await deliver_once(db, event, jobs.end_job)


@hears(AwardFromPeer)
async def on_award_from_peer(event: AwardFromPeer, db: Db, settings: SchedulerSettings) -> None:
    async def hear(tx: Transaction, event: AwardFromPeer) -> None:
        await access.hear_award(tx, event, settings)

    await deliver_once(db, event, hear)


@hears(CapacityFromPeer)
async def on_capacity_from_peer(event: CapacityFromPeer, db: Db) -> None:
    await deliver_once(db, event, handover.remember_peer)


@hears(HandoverFromPeer)
async def on_handover_from_peer(event: HandoverFromPeer, db: Db, settings: SchedulerSettings) -> None:
    async def hear(tx: Transaction, event: HandoverFromPeer) -> None:
        await handover.hear(tx, event, settings.factory)

    await deliver_once(db, event, hear)
