"""Assembles accounting; the only `main`."""

from aifn_common.service import Service, run

from aifn_accounting import api, subscribers
from aifn_accounting.settings import AccountingSettings

service = Service(
    name="accounting",
    package="aifn_accounting",
    routers=api.routers,
    hears=subscribers.hears,
    settings=AccountingSettings,
)


def main() -> None:
    """Run one role: `aifn-accounting api|worker|migrate`."""
    run(service)
