"""Puts the scheduler together; the only `main`."""

from aifn_common.service import Service, Timer, run

from aifn_scheduler import subscribers, timers
from aifn_scheduler.actions.access import load_seed
from aifn_scheduler.settings import SchedulerSettings

service = Service(
    name="scheduler",
    package="aifn_scheduler",
    hears=subscribers.hears,
    settings=SchedulerSettings,
    routers=[
        "aifn_scheduler.api.access:router",
        "aifn_scheduler.api.jobs:router",
        "aifn_scheduler.api.handover:router",
    ],
    timers=[
        Timer("plan", every_seconds=0.25, action=timers.plan_tick),
        Timer("handover", every_seconds=2, action=timers.handover_tick),
    ],
    seed=load_seed,
)


def main() -> None:
    """The `aifn-scheduler` command."""
    run(service)
