"""Assembles the Data Lab from its rooms."""

from aifn_common.service import Service, run

from aifn_datalab import subscribers
from aifn_datalab.settings import DatalabSettings

service = Service(
    name="datalab",
    package="aifn_datalab",
    hears=subscribers.hears,
    settings=DatalabSettings,
    routers=["aifn_datalab.api:router"],
)


def main() -> None:
    """Run in one role: `aifn-datalab api|worker|migrate`."""
    run(service)
