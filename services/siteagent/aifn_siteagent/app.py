"""Assembles the site agent; the only `main`."""

from aifn_common.service import Service, Timer, run

from aifn_siteagent import subscribers, timers
from aifn_siteagent.settings import SiteAgentSettings

service = Service(
    name="siteagent",
    package="aifn_siteagent",
    hears=subscribers.hears,
    timers=[Timer("follow", every_seconds=timers.SHORTEST_PAUSE_SECONDS, action=timers.tick)],
    settings=SiteAgentSettings,
)


def main() -> None:
    """The command `aifn-siteagent worker|migrate`."""
    run(service)
