"""Remembers what others told: machines, what is in service, which project may compute where."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from aifn_common.database import Row, Transaction
from aifn_events.access import AllocationOpened
from aifn_events.registry import CapacityReported, MachineDescribed
from aifn_events.shares import AllocationChanged

from aifn_scheduler.domain.admission import Allocation
from aifn_scheduler.domain.machines import Partition

_REVISION = "SELECT revision FROM machine WHERE machine_id = $1 FOR UPDATE"
_PUT_MACHINE = """
INSERT INTO machine (machine_id, revision, retired, factory_ids) VALUES ($1, $2, $3, $4)
ON CONFLICT (machine_id) DO UPDATE SET
    revision = EXCLUDED.revision, retired = EXCLUDED.retired, factory_ids = EXCLUDED.factory_ids"""
_PUT_PARTITION = """
INSERT INTO partition (partition_id, machine_id, kind, stage, nodes, devices_per_node, gpus_per_node, cores_per_node,
                       software_stack, resource, units_per_node, retired)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (partition_id) DO UPDATE SET
    machine_id = EXCLUDED.machine_id, kind = EXCLUDED.kind, stage = EXCLUDED.stage, nodes = EXCLUDED.nodes,
    devices_per_node = EXCLUDED.devices_per_node, gpus_per_node = EXCLUDED.gpus_per_node,
    cores_per_node = EXCLUDED.cores_per_node, software_stack = EXCLUDED.software_stack,
    resource = EXCLUDED.resource, units_per_node = EXCLUDED.units_per_node, retired = EXCLUDED.retired"""
_RETIRE_OTHERS = "UPDATE partition SET retired = true WHERE machine_id = $1 AND partition_id <> ALL($2::text[])"
_PARTITIONS = """
SELECT partition_id, machine_id, kind, stage, nodes, devices_per_node, gpus_per_node, cores_per_node, software_stack,
       resource, units_per_node, partition.retired, factory_ids
FROM partition JOIN machine USING (machine_id)"""
_PARTITION = f"{_PARTITIONS} WHERE partition_id = $1"

_OBSERVED = "SELECT observed_at FROM capacity WHERE partition_id = $1 FOR UPDATE"
_PUT_CAPACITY = """
INSERT INTO capacity (partition_id, machine_id, observed_at, nodes_in_service) VALUES ($1, $2, $3, $4)
ON CONFLICT (partition_id) DO UPDATE SET
    machine_id = EXCLUDED.machine_id, observed_at = EXCLUDED.observed_at, nodes_in_service = EXCLUDED.nodes_in_service
WHERE capacity.observed_at < EXCLUDED.observed_at"""
_CAPACITIES = "SELECT partition_id, machine_id, observed_at, nodes_in_service FROM capacity"

_PUT_ALLOCATION = """
INSERT INTO allocation (allocation_id, project_id, machine_id, partition_id, resource, starts_at, ends_at, revision)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (allocation_id) DO UPDATE
SET starts_at = EXCLUDED.starts_at, ends_at = EXCLUDED.ends_at, revision = EXCLUDED.revision
WHERE allocation.revision < EXCLUDED.revision"""
# Whole seconds, but never a start before its moment: what has begun is rounded down, what has not is rounded up.
_ALLOCATIONS = """
SELECT project_id, partition_id,
       CASE WHEN starts_at <= $2 THEN floor(extract(epoch FROM starts_at))
            ELSE ceil(extract(epoch FROM starts_at)) END::bigint AS starts,
       floor(extract(epoch FROM ends_at))::bigint AS ends
FROM allocation WHERE project_id = ANY($1::text[])"""
_PROJECT_CLOSED = "SELECT closed FROM member_project WHERE project_id = $1"


async def machine_revision(tx: Transaction, machine_id: str) -> int | None:
    """The highest revision known of a machine, its row locked; None if it is not known."""
    revision: int | None = await tx.fetchval(_REVISION, machine_id)
    return revision


async def put_machine(tx: Transaction, event: MachineDescribed) -> None:
    """Keep a machine's passport; partitions it no longer names are retired."""
    await tx.execute(_PUT_MACHINE, event.machine_id, event.revision, event.retired, event.factory_ids)
    await tx.executemany(
        _PUT_PARTITION,
        [
            (
                passport.partition_id,
                event.machine_id,
                passport.kind,
                passport.stage,
                passport.nodes,
                passport.devices_per_node,
                passport.gpus_per_node,
                passport.cores_per_node,
                passport.software_stack,
                passport.resource,
                passport.units_per_node,
                event.retired,
            )
            for passport in event.partitions
        ],
    )
    await tx.execute(_RETIRE_OTHERS, event.machine_id, [passport.partition_id for passport in event.partitions])


async def get_partitions(tx: Transaction) -> dict[str, Partition]:
    """Every partition in the network, by id: some dozens."""
    return {row["partition_id"]: _partition(row) for row in await tx.fetch(_PARTITIONS)}


async def find_partition(tx: Transaction, partition_id: str) -> Partition | None:
    """One partition; None if no passport has named it yet."""
    row = await tx.fetchrow(_PARTITION, partition_id)
    return None if row is None else _partition(row)


async def last_observation(tx: Transaction, partition_id: str) -> datetime | None:
    """When the report known of a partition was made, its row locked; None without one."""
    moment: datetime | None = await tx.fetchval(_OBSERVED, partition_id)
    return moment


async def put_capacity(tx: Transaction, event: CapacityReported) -> None:
    """Keep a report, unless one as new is known."""
    await tx.execute(_PUT_CAPACITY, event.partition_id, event.machine_id, event.observed_at, event.nodes_in_service)


async def get_reports(tx: Transaction) -> Mapping[str, tuple[str, datetime, int]]:
    """By partition: the machine that was named, the moment of its last report, and nodes in service."""
    return {
        row["partition_id"]: (row["machine_id"], row["observed_at"], row["nodes_in_service"])
        for row in await tx.fetch(_CAPACITIES)
    }


async def put_allocation(tx: Transaction, event: AllocationOpened | AllocationChanged) -> None:
    """Keep that a project may use a partition, and when; the highest revision counts. The amount is accounting's."""
    if isinstance(event, AllocationChanged):
        machine_id, partition_id, _ = event.resource.split("/")
        revision = event.revision
    else:
        machine_id, partition_id, revision = event.machine_id, event.partition_id, 0
    await tx.execute(
        _PUT_ALLOCATION,
        event.allocation_id,
        event.project_id,
        machine_id,
        partition_id,
        event.resource,
        event.starts_at,
        event.ends_at,
        revision,
    )


async def get_allocations(tx: Transaction, project_ids: Iterable[str], now: datetime) -> Sequence[Allocation]:
    """Where these projects may compute, from when until when."""
    return [Allocation(**row) for row in await tx.fetch(_ALLOCATIONS, sorted(set(project_ids)), now)]


async def is_project_closed(tx: Transaction, project_id: str) -> bool | None:
    """Whether a project has been closed; None if it is not known here. The table is the plumbing's membership."""
    closed: bool | None = await tx.fetchval(_PROJECT_CLOSED, project_id)
    return closed


def _partition(row: Row) -> Partition:
    return Partition(**{**row, "factory_ids": tuple(row["factory_ids"])})
