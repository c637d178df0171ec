"""What the registry does: each function one transaction, always read, decide, write, announce."""

import logging
from datetime import timedelta

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Invalid
from aifn_common.outbox import announce
from aifn_events.registry import CapacityReported, FactoryDescribed, MachineDescribed, PartitionPassport

from aifn_registry import first_day, store
from aifn_registry.domain import passports
from aifn_registry.domain.capacity import Capacity, MachineRetired, StaleCapacity, UnknownPartition, accept_capacity
from aifn_registry.domain.passports import Factory, Machine, Partition
from aifn_registry.settings import RegistrySettings

log = logging.getLogger(__name__)


async def register_machine(tx: Transaction, machine: Machine) -> Machine:
    """Take a machine into the registry. Raises MachineExists, PartitionExists, UnknownReference, Invalid."""
    await _check_machine_references(tx, machine)
    new = passports.first_description(machine)
    await store.add_machine(tx, new)
    await announce(tx, machine_described(new))
    return new


async def describe_machine(tx: Transaction, known: Machine, described: Machine) -> Machine:
    """Replace a machine's description; `known` was read with its row locked.

    Raises: UnitFixed, PartitionExists, UnknownReference, Invalid.
    """
    await _check_machine_references(tx, described)
    new = passports.describe_again(known, described)
    await store.put_machine(tx, new)
    await announce(tx, machine_described(new))
    return new


async def retire_machine(tx: Transaction, known: Machine, reason: str) -> Machine:
    """Take a machine out of the network; `known` was read with its row locked. Raises AlreadyRetired."""
    new = passports.retire_machine(known, reason)
    await store.put_machine(tx, new)
    await announce(tx, machine_described(new))
    return new


async def register_factory(tx: Transaction, factory: Factory) -> Factory:
    """Take a factory or antenna into the registry. Raises FactoryExists, UnknownReference."""
    await _check_factory_references(tx, factory)
    await store.add_factory(tx, factory)
    await announce(tx, factory_described(factory))
    return factory


async def describe_factory(tx: Transaction, known: Factory, described: Factory) -> Factory:
    """Replace a member's description; `known` was read with its row locked. Raises UnknownReference, Invalid."""
    if described.kind != known.kind:
        raise Invalid(f"{known.factory_id} is a member of kind {known.kind} and stays one")
    await _check_factory_references(tx, described)
    new = passports.describe_factory_again(known, described)
    await store.put_factory(tx, new)
    await announce(tx, factory_described(new))
    return new


async def retire_factory(tx: Transaction, known: Factory, reason: str) -> Factory:
    """Take a member out of the network; `known` was read with its row locked. Raises AlreadyRetired."""
    new = passports.retire_factory(known, reason)
    await store.put_factory(tx, new)
    await announce(tx, factory_described(new))
    return new


async def remember_capacity(tx: Transaction, event: CapacityReported, *, may_be_ahead: timedelta) -> None:
    """Keep what a site saw in its batch system, unless something newer is known.

    That nothing of a retired machine is in service is no news: its site says so once as it hears of the retirement.

    Raises: UnknownPartition, MachineRetired, AbsurdCapacity, ObservedInFuture, StaleCapacity.
    """
    partition = await store.get_reported(tx, event.machine_id, event.partition_id)
    if partition is None:
        raise UnknownPartition(event.machine_id, event.partition_id)
    if partition.retired:
        if event.nodes_in_service == 0:
            return
        raise MachineRetired(event.machine_id)
    accepted = accept_capacity(partition, _capacity(event), partition.known, may_be_ahead=may_be_ahead)
    if not await store.put_capacity(tx, accepted):
        # Another report came in between, and was newer.
        newer = await store.get_capacity(tx, event.partition_id)
        assert newer is not None
        raise StaleCapacity(event.partition_id, observed_at=accepted.observed_at, known=newer.observed_at)


def _capacity(event: CapacityReported) -> Capacity:
    return Capacity(
        partition_id=event.partition_id,
        observed_at=event.observed_at,
        received_at=clock.now(),
        source=event.source,
        backend=event.backend,
        nodes_in_service=event.nodes_in_service,
        nodes_idle=event.nodes_idle,
        slices_idle=event.slices_idle,
        jobs_running=event.jobs_running,
        jobs_waiting=event.jobs_waiting,
    )


async def load_seed(tx: Transaction, settings: RegistrySettings) -> None:  # noqa: ARG001 - the plumbing passes it
    """Add what the first day's data has and the registry has not, and announce it; a record that is there stays."""
    factories = await store.known_factory_ids(tx)
    for factory in first_day.factories():
        if factory.factory_id not in factories:
            await store.add_factory(tx, factory)
            await announce(tx, factory_described(factory))
    machines = await store.known_machine_ids(tx)
    partitions = await store.known_partition_ids(tx)
    for machine in first_day.machines():
        if machine.machine_id in machines:
            continue
        if taken := partitions & {one.partition_id for one in machine.partitions}:
            log.warning("%s is left out: an operator has registered %s elsewhere", machine.machine_id, sorted(taken))
            continue
        new = passports.first_description(machine)
        await store.add_machine(tx, new)
        await announce(tx, machine_described(new))
    for name, content in first_day.references().items():
        await store.put_reference(tx, name, content)


async def _check_machine_references(tx: Transaction, machine: Machine) -> None:
    passports.check_references("factories", machine.factory_ids, await store.known_factory_ids(tx))


async def _check_factory_references(tx: Transaction, factory: Factory) -> None:
    factories = await store.known_factory_ids(tx)
    passports.check_references("factories", factory.linked_factory_ids or (), factories - {factory.factory_id})
    named = {*factory.interim_machine_ids, *([factory.primary_machine_id] if factory.primary_machine_id else [])}
    passports.check_references("machines", named, await store.known_machine_ids(tx))
    matrix = await store.get_reference(tx, "sectors")
    passports.check_references("sectors", factory.sectors or (), [one["sector_id"] for one in matrix["sectors"]])


def factory_described(factory: Factory) -> FactoryDescribed:
    """What the others hear of a factory or antenna."""
    return FactoryDescribed(
        factory_id=factory.factory_id,
        revision=factory.revision,
        kind=factory.kind,
        name=factory.name,
        country=factory.country,
        linked_factory_ids=list(factory.linked_factory_ids or ()),
        sectors=None if factory.sectors is None else list(factory.sectors),
        retired=factory.retired,
    )


def machine_described(machine: Machine) -> MachineDescribed:
    """What the others hear of a machine and its partitions."""
    return MachineDescribed(
        machine_id=machine.machine_id,
        revision=machine.revision,
        name=machine.name,
        country=machine.country,
        factory_ids=list(machine.factory_ids),
        stage=machine.stage,
        retired=machine.retired,
        partitions=[_passport(one) for one in machine.partitions],
    )


def _passport(partition: Partition) -> PartitionPassport:
    return PartitionPassport(
        partition_id=partition.partition_id,
        name=partition.name,
        kind=partition.kind,
        stage=partition.stage,
        nodes=partition.nodes,
        devices_per_node=partition.devices_per_node,
        gpus_per_node=partition.gpus_per_node,
        cores_per_node=partition.cores_per_node,
        gpu_vendor=partition.gpu_vendor,
        gpu_model=partition.gpu_model,
        gpu_memory_gb=partition.gpu_memory_gb,
        software_stack=partition.software_stack,
        cpu_arch=partition.cpu_arch,
        resource=partition.resource,
        units_per_node=partition.units_per_node,
    )
