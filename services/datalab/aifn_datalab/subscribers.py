"""What the Data Lab hears: who belongs to a project, where it computes, and in which country that is."""

from aifn_common import membership
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Subscriptions
from aifn_events.access import AllocationOpened, ProjectDescribed
from aifn_events.registry import MachineDescribed
from aifn_events.shares import AllocationChanged

from aifn_datalab import actions

hears = Subscriptions("datalab")


@hears(ProjectDescribed)
async def on_project_described(event: ProjectDescribed, db: Db) -> None:
    """Members may ask for datasets."""
    await deliver_once(db, event, membership.remember_project)


@hears(AllocationOpened)
async def on_allocation_opened(event: AllocationOpened, db: Db) -> None:
    """A grant ends with the allocation, and data may only go where the project computes."""
    await deliver_once(db, event, actions.remember_allocation)


@hears(AllocationChanged)
async def on_allocation_changed(event: AllocationChanged, db: Db) -> None:
    """It ends later, or holds another amount."""
    await deliver_once(db, event, actions.remember_allocation)


@hears(MachineDescribed)
async def on_machine_described(event: MachineDescribed, db: Db) -> None:
    """A machine stands in a country."""
    await deliver_once(db, event, actions.remember_machine)
