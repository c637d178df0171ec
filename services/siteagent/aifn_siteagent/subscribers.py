"""What the agent listens to: the passport of its machine, jobs sent to it, and wishes to cancel them."""

from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Subscriptions
from aifn_events.placement import JobCancelRequested, JobDispatched
from aifn_events.registry import MachineDescribed

from aifn_siteagent import actions
from aifn_siteagent.settings import SiteAgentSettings

hears = Subscriptions("siteagent")


@hears(MachineDescribed)
async def on_machine_described(event: MachineDescribed, db: Db, settings: SiteAgentSettings) -> None:
    """Keep the passport of our machine."""
    await deliver_once(db, event, lambda tx, told: actions.describe_machine(tx, told, settings))


@hears(JobDispatched)
async def on_job_dispatched(event: JobDispatched, db: Db, settings: SiteAgentSettings) -> None:
    """Queue a job that is meant for our machine."""
    await deliver_once(db, event, lambda tx, told: actions.queue_job(tx, told, settings))


@hears(JobCancelRequested)
async def on_job_cancel_requested(event: JobCancelRequested, db: Db, settings: SiteAgentSettings) -> None:
    """Stop a job of our machine."""
    await deliver_once(db, event, lambda tx, told: actions.cancel_job(tx, told, settings))
