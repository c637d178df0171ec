"""Keep what others tell of machines, capacity and projects."""

from datetime import timedelta

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Stale
from aifn_events.access import AllocationOpened
from aifn_events.registry import CapacityReported, MachineDescribed
from aifn_events.shares import AllocationChanged

from aifn_scheduler.domain.machines import ObservedInFuture, check_report
from aifn_scheduler.store import machines as store


async def remember_machine(tx: Transaction, event: MachineDescribed) -> None:
    """Keep a machine's passport. Raises Stale, if a later one is known."""
    known = await store.machine_revision(tx, event.machine_id)
    if known is not None and event.revision < known:
        raise Stale(f"machine {event.machine_id} is known in revision {known}, this is {event.revision}")
    if known != event.revision:
        await store.put_machine(tx, event)


async def remember_capacity(tx: Transaction, event: CapacityReported, *, may_be_ahead: timedelta) -> None:
    """Keep what a site has in service. A report may come before the passport, and is then held against it by the plan.

    Raises: ObservedInFuture, ForeignReport, AbsurdCapacity; Stale, if a later report is known.
    """
    ahead = event.observed_at - clock.now()
    if ahead > may_be_ahead:
        raise ObservedInFuture(event.partition_id, ahead=ahead)
    partition = await store.find_partition(tx, event.partition_id)
    if partition is not None:
        check_report(partition, machine_id=event.machine_id, nodes_in_service=event.nodes_in_service)
    known = await store.last_observation(tx, event.partition_id)
    if known is not None and event.observed_at < known:
        raise Stale(f"{event.partition_id} was seen at {known.isoformat()}, this is of {event.observed_at.isoformat()}")
    await store.put_capacity(tx, event)


async def remember_allocation(tx: Transaction, event: AllocationOpened | AllocationChanged) -> None:
    """Keep that a project may compute on a partition, and from when until when."""
    await store.put_allocation(tx, event)
