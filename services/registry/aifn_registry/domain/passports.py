"""What a factory, a machine and a partition are, and how compute time on them is counted."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import Literal, get_args

from aifn_common.errors import Invalid, Refusal
from aifn_events.vocabulary import CountryCode, FactoryId, MachineId, PartitionId, ResourceId

FactoryKind = Literal["factory", "antenna"]
Confidence = Literal["high", "medium", "low"]
PartitionKind = Literal["gpu", "gpu_cloud", "cpu", "cpu_large_memory", "cpu_experimental", "fpga", "visualisation"]
PartitionStage = Literal["planned", "procurement", "contracted", "installing", "operating", "decommissioned"]
MachineStage = Literal[
    "planned", "procurement", "contracted", "installing", "operating", "decommissioned", "absorbed_into_jupiter"
]
MachineClass = Literal["exascale", "pre_exascale", "petascale", "mid_range", "ai_optimised", "development_platform"]
SoftwareStack = Literal["cuda", "rocm", "oneapi"]
CpuArchitecture = Literal["x86_64", "aarch64", "riscv64"]
FigureName = Literal[
    "top500_rank", "green500_rank", "sustained_flops", "peak_flops", "ai_peak_flops", "acquisition_value_eur"
]
FIGURE_NAMES: tuple[FigureName, ...] = get_args(FigureName)

# Bounds far above any machine known, and low enough that a year of the largest partition thinkable, in
# slice-seconds, is still below 2**63: 100,000 nodes x 255 x 4,096 slices x 366 days is 3.3e18.
MAX_NODES = 100_000
MAX_DEVICES_PER_NODE = 256
MAX_CORES_PER_NODE = 4_096
HOUR_SECONDS = 3_600


class MachineExists(Refusal):
    """Somebody has registered this machine already."""

    code = "machine_exists"

    def __init__(self, machine_id: MachineId) -> None:
        super().__init__(f"machine {machine_id} is registered already")
        self.machine_id = machine_id


class PartitionExists(Refusal):
    """Partition names are unique in the whole network, and this one is taken."""

    code = "partition_exists"

    def __init__(self, partition_id: PartitionId) -> None:
        super().__init__(f"partition {partition_id} is there already")
        self.partition_id = partition_id


class FactoryExists(Refusal):
    """Somebody has registered this factory or antenna already."""

    code = "factory_exists"

    def __init__(self, factory_id: FactoryId) -> None:
        super().__init__(f"{factory_id} is registered already")
        self.factory_id = factory_id


class AlreadyRetired(Refusal):
    """What has been retired cannot be retired again."""

    code = "already_retired"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has been retired already")


class UnknownReference(Invalid):
    """A description names a factory, machine or sector that is not known here."""

    code = "unknown_reference"

    def __init__(self, what: str, names: Iterable[str]) -> None:
        listed = ", ".join(sorted(names))
        super().__init__(f"unknown {what}: {listed}")
        self.what = what
        self.names = listed


class UnevenGpus(Invalid):
    """Accounted GPUs must be whole devices or groups of devices, or GPU-hours would not be exact."""

    code = "uneven_gpus"

    def __init__(self, partition_id: PartitionId, *, devices_per_node: int | None, gpus_per_node: int) -> None:
        super().__init__(
            f"{partition_id}: {gpus_per_node} accounted GPUs in a node do not divide its {devices_per_node} devices"
        )
        self.partition_id = partition_id
        self.devices_per_node = devices_per_node
        self.gpus_per_node = gpus_per_node


class UnitFixed(Refusal):
    """Time on a partition that has operated is on the books; its unit cannot change any more."""

    code = "unit_fixed"

    def __init__(self, partition_id: PartitionId, *, units_per_node: int, asked: int | None) -> None:
        wish = "left out" if asked is None else f"recounted as {asked}"
        super().__init__(
            f"{partition_id} has operated with {units_per_node} slices in a node and cannot be {wish}: "
            "set its stage to decommissioned and describe a new partition"
        )
        self.partition_id = partition_id
        self.units_per_node = units_per_node


class UnknownUnit(Invalid):
    """A conversion needs a count that is not known of this partition."""

    code = "unknown_unit"


@dataclass(frozen=True)
class Figure:
    """A rank, a performance or a price, true for one month (`as_of`, as 2024-11), with its source."""

    name: FigureName
    value: Decimal
    as_of: str
    as_of_basis: str
    source: tuple[str, ...]
    confidence: Confidence
    precision: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Partition:
    """A part of a machine with nodes of one kind. None is *not known*, never zero.

    `devices_per_node` is what the batch system shows, `gpus_per_node` what is accounted: 8 and 4 on LUMI-G.
    `unit_fixed`: it has operated, so time may be on the books in its unit.
    """

    partition_id: PartitionId
    machine_id: MachineId
    name: str
    kind: PartitionKind
    stage: PartitionStage
    nodes: int | None = None
    devices_per_node: int | None = None
    gpus_per_node: int | None = None
    cores_per_node: int | None = None
    gpu_vendor: str | None = None
    gpu_model: str | None = None
    gpu_memory_gb: int | None = None
    software_stack: SoftwareStack | None = None
    cpu_arch: CpuArchitecture | None = None
    cpu_model: str | None = None
    memory_gib_per_node: int | None = None
    billing_rule: str | None = None
    figures: tuple[Figure, ...] = ()
    source: tuple[str, ...] = ()
    confidence: Confidence = "medium"
    notes: str | None = None
    unit_fixed: bool = False

    @property
    def resource(self) -> ResourceId:
        """What an account of time on this partition holds."""
        return resource_id(self.machine_id, self.partition_id, self.devices_per_node)

    @property
    def units_per_node(self) -> int:
        """Slices in one node."""
        return units_per_node(self.devices_per_node, self.cores_per_node)

    @property
    def devices(self) -> int | None:
        """All devices of the partition, if both counts are known."""
        return None if self.nodes is None or self.devices_per_node is None else self.nodes * self.devices_per_node

    @property
    def slices_per_device(self) -> int | None:
        """Slices in one device as the batch system shows it."""
        return _share(self.units_per_node, self.devices_per_node)

    @property
    def slices_per_gpu(self) -> int | None:
        """Slices in one accounted GPU."""
        return _share(self.units_per_node, self.gpus_per_node)

    @property
    def slices_per_core(self) -> int | None:
        """Slices in one core."""
        return _share(self.units_per_node, self.cores_per_node)


@dataclass(frozen=True)
class Machine:
    """A supercomputer, operating or to come. Shares are percent of its year; a new machine may have no partition."""

    machine_id: MachineId
    name: str
    country: CountryCode | None
    stage: MachineStage
    factory_ids: tuple[FactoryId, ...] = ()
    aliases: tuple[str, ...] = ()
    site: str | None = None
    hosting_entity: str | None = None
    machine_class: MachineClass | None = None
    stage_detail: str | None = None
    union_share_pct: int | None = None
    national_share_pct: int | None = None
    share_basis: str | None = None
    batch_scheduler: str | None = None
    figures: tuple[Figure, ...] = ()
    source: tuple[str, ...] = ()
    confidence: Confidence = "medium"
    notes: str | None = None
    partitions: tuple[Partition, ...] = ()
    revision: int = 0
    retired: bool = False
    retired_reason: str | None = None


@dataclass(frozen=True)
class Factory:
    """A member of the network: an AI Factory, or a national antenna linked to some.

    None is *not known*: sectors unknown are no mismatch, linked factories unknown are not "none".
    """

    factory_id: FactoryId
    kind: FactoryKind
    name: str
    country: CountryCode
    hosting_entity: str | None = None
    linked_factory_ids: tuple[FactoryId, ...] | None = None
    consortium_countries: tuple[CountryCode, ...] = ()
    primary_machine_id: MachineId | None = None
    interim_machine_ids: tuple[MachineId, ...] = ()
    selection_round: int | None = None
    selected_on: str | None = None
    sectors: tuple[str, ...] | None = None
    sectors_basis: str | None = None
    focus_keywords: tuple[str, ...] = ()
    experimental_platform: bool | None = None
    source: tuple[str, ...] = ()
    confidence: Confidence = "medium"
    notes: str | None = None
    revision: int = 0
    retired: bool = False
    retired_reason: str | None = None


def units_per_node(devices_per_node: int | None, cores_per_node: int | None) -> int:
    """How many slices a node has: the smallest number that measures whole devices and whole cores alike.

    A count that is unknown (or zero: no devices) does not take part; with none known the slice is the node.

    >>> units_per_node(devices_per_node=8, cores_per_node=64), units_per_node(None, 128), units_per_node(4, 288)
    (64, 128, 288)
    >>> units_per_node(None, None)
    1
    """
    return lcm(*(count for count in (devices_per_node, cores_per_node) if count))


def resource_id(machine_id: MachineId, partition_id: PartitionId, devices_per_node: int | None) -> ResourceId:
    """Name the resource: `gpu-time` where nodes have devices, else `node-time`; both count slice-seconds.

    >>> resource_id("lumi", "lumi-g", 8), resource_id("lumi", "lumi-c", None)
    ('lumi/lumi-g/gpu-time', 'lumi/lumi-c/node-time')
    """
    return f"{machine_id}/{partition_id}/{'gpu-time' if devices_per_node else 'node-time'}"


def slice_seconds_of_node_hours(partition: Partition, node_hours: int) -> int:
    """Node-hours in slice-seconds, exactly.

    >>> lumi_g = Partition("lumi-g", "lumi", "LUMI-G", "gpu", "operating", None, 8, 4, cores_per_node=64)
    >>> slice_seconds_of_node_hours(lumi_g, 1)
    230400
    """
    return node_hours * HOUR_SECONDS * partition.units_per_node


def slice_seconds_of_gpu_hours(partition: Partition, gpu_hours: int) -> int:
    """Accounted GPU-hours in slice-seconds, exactly. Raises UnknownUnit if the partition has no accounted GPUs.

    >>> lumi_g = Partition("lumi-g", "lumi", "LUMI-G", "gpu", "operating", None, 8, 4, cores_per_node=64)
    >>> slice_seconds_of_gpu_hours(lumi_g, 1)
    57600
    """
    return gpu_hours * HOUR_SECONDS * _known(partition.slices_per_gpu, "accounted GPUs", partition)


def node_hours(partition: Partition, slice_seconds: int) -> Fraction:
    """Slice-seconds as node-hours, exactly; rounding is for views.

    >>> lumi_g = Partition("lumi-g", "lumi", "LUMI-G", "gpu", "operating", None, 8, 4, cores_per_node=64)
    >>> node_hours(lumi_g, 28_800)
    Fraction(1, 8)
    """
    return Fraction(slice_seconds, HOUR_SECONDS * partition.units_per_node)


def gpu_hours(partition: Partition, slice_seconds: int) -> Fraction:
    """Slice-seconds as accounted GPU-hours, exactly. Raises UnknownUnit if the partition has no accounted GPUs.

    >>> lumi_g = Partition("lumi-g", "lumi", "LUMI-G", "gpu", "operating", None, 8, 4, cores_per_node=64)
    >>> gpu_hours(lumi_g, 28_800)
    Fraction(1, 2)
    """
    return Fraction(slice_seconds, HOUR_SECONDS * _known(partition.slices_per_gpu, "accounted GPUs", partition))


def _share(units: int, count: int | None) -> int | None:
    return units // count if count else None


def _known(slices: int | None, what: str, partition: Partition) -> int:
    if slices is None:
        raise UnknownUnit(f"how many {what} a node of {partition.partition_id} has is not known")
    return slices


def check_machine(machine: Machine) -> None:
    """Refuse a description whose parts contradict each other.

    Raises: UnevenGpus; PartitionExists, if two partitions have one name; Invalid, if the shares are no whole.
    """
    seen: set[PartitionId] = set()
    for partition in machine.partitions:
        if partition.partition_id in seen:
            raise PartitionExists(partition.partition_id)
        seen.add(partition.partition_id)
        _check_gpus(partition)
    union, national = machine.union_share_pct, machine.national_share_pct
    if union is not None and national is not None and union + national != 100:
        raise Invalid(f"shares of {union} and {national} percent are not 100")


def _check_gpus(partition: Partition) -> None:
    gpus, devices = partition.gpus_per_node, partition.devices_per_node
    if gpus and (not devices or devices % gpus):
        raise UnevenGpus(partition.partition_id, devices_per_node=devices, gpus_per_node=gpus)


def first_description(machine: Machine) -> Machine:
    """A machine as it enters the registry. Raises what `check_machine` raises."""
    check_machine(machine)
    partitions = tuple(replace(one, unit_fixed=one.stage == "operating") for one in machine.partitions)
    return replace(machine, partitions=partitions, revision=0, retired=False, retired_reason=None)


def describe_again(known: Machine, described: Machine) -> Machine:
    """A machine after an operator's new description; a retired one comes back into the network by it.

    Raises: UnitFixed, if time on the books would be counted anew; and what `check_machine` raises.
    """
    check_machine(described)
    wanted = {one.partition_id: one for one in described.partitions}
    for old in known.partitions:
        new = wanted.get(old.partition_id)
        if old.unit_fixed and (new is None or (new.resource, new.units_per_node) != (old.resource, old.units_per_node)):
            raise UnitFixed(
                old.partition_id, units_per_node=old.units_per_node, asked=new.units_per_node if new else None
            )
    fixed = {one.partition_id for one in known.partitions if one.unit_fixed}
    partitions = tuple(
        replace(one, unit_fixed=one.partition_id in fixed or one.stage == "operating") for one in described.partitions
    )
    return replace(described, partitions=partitions, revision=known.revision + 1, retired=False, retired_reason=None)


def retire_machine(machine: Machine, reason: str) -> Machine:
    """Take a machine out of the network; what it has done stays on the books. Raises AlreadyRetired."""
    if machine.retired:
        raise AlreadyRetired(machine.machine_id)
    return replace(machine, revision=machine.revision + 1, retired=True, retired_reason=reason)


def describe_factory_again(known: Factory, described: Factory) -> Factory:
    """A member after a new description; a retired one comes back into the network by it."""
    return replace(described, revision=known.revision + 1, retired=False, retired_reason=None)


def retire_factory(factory: Factory, reason: str) -> Factory:
    """Take a member out of the network. Raises AlreadyRetired."""
    if factory.retired:
        raise AlreadyRetired(factory.factory_id)
    return replace(factory, revision=factory.revision + 1, retired=True, retired_reason=reason)


def check_references(what: str, named: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownReference if something is named that is not known."""
    missing = set(named) - set(known)
    if missing:
        raise UnknownReference(what, missing)
