"""Assembles the registry; the only `main`."""

from aifn_common.service import Service, run

from aifn_registry import actions, subscribers
from aifn_registry.settings import RegistrySettings

service = Service(
    name="registry",
    package="aifn_registry",
    routers=["aifn_registry.api:router", "aifn_registry.peer_api:router"],
    hears=subscribers.hears,
    seed=actions.load_seed,
    settings=RegistrySettings,
)


def main() -> None:
    """Run one role: `aifn-registry api|worker|migrate`."""
    run(service)
