"""Assembles accounting; the only `main`."""

from aifn_common.service import Service, Timer, run

from aifn_accounting import subscribers, timers
from aifn_accounting.actions import rates
from aifn_accounting.measures import Measures
from aifn_accounting.settings import AccountingSettings

service = Service(
    name="accounting",
    package="aifn_accounting",
    routers=["aifn_accounting.api:routers"],
    hears=subscribers.hears,
    settings=AccountingSettings,
    seed=rates.load_seed,
    measures=[Measures().measure],
    timers=[
        Timer("call-webhooks", every_seconds=1, action=timers.call_webhooks),
        Timer("watch-usage", every_seconds=5, action=timers.watch_usage),
        Timer("forget-deliveries", every_seconds=3600, action=timers.forget_deliveries),
        Timer("settle-suspense", every_seconds=5, action=timers.settle_suspense),
        Timer("retry-awards", every_seconds=5, action=timers.retry_awards),
        Timer("seal-journal", every_seconds=5, action=timers.seal_journal),
        Timer("end-allocations", every_seconds=60, action=timers.end_allocations),
    ],
)


def main() -> None:
    """Run one role: `aifn-accounting api|worker|migrate`."""
    run(service)
