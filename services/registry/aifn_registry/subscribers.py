"""What the registry hears: capacity reports of the sites."""

from aifn_common.database import Transaction
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Subscriptions
from aifn_events.registry import CapacityReported

from aifn_registry import actions
from aifn_registry.settings import RegistrySettings

hears = Subscriptions("registry")


@hears(CapacityReported)
async def on_capacity_reported(event: CapacityReported, db: Db, settings: RegistrySettings) -> None:
    """A site agent has looked into its batch system."""

    async def remember(tx: Transaction, event: CapacityReported) -> None:
        await actions.remember_capacity(tx, event, may_be_ahead=settings.capacity_ahead)

    await deliver_once(db, event, remember)
