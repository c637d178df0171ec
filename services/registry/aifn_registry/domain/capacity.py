"""What a batch system could take at one moment, and which reports of it make sense."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from aifn_common.errors import Invalid, NotFound, Refusal, Stale
from aifn_events.vocabulary import MachineId, PartitionId

from aifn_registry.domain.passports import MAX_NODES, Partition


class MachineRetired(Refusal):
    """A report about a machine that is out of the network."""

    code = "machine_retired"

    def __init__(self, machine_id: MachineId) -> None:
        super().__init__(f"machine {machine_id} is retired")
        self.machine_id = machine_id


class UnknownPartition(NotFound):
    """A report about a partition that is not registered, or not as part of this machine."""

    code = "unknown_partition"

    def __init__(self, machine_id: MachineId, partition_id: PartitionId) -> None:
        super().__init__(f"machine {machine_id} has no partition {partition_id}")
        self.machine_id = machine_id
        self.partition_id = partition_id


class AbsurdCapacity(Invalid):
    """A capacity report contradicts itself or the partition's passport."""

    code = "absurd_capacity"

    def __init__(self, partition_id: PartitionId, what: str, *, reported: int, limit: int) -> None:
        super().__init__(f"{partition_id}: {what}: {reported} reported, the limit is {limit}")
        self.partition_id = partition_id
        self.reported = reported
        self.limit = limit


class ObservedInFuture(Invalid):
    """An observation that has not happened yet would shut out all true ones until then."""

    code = "observed_in_future"

    def __init__(self, partition_id: PartitionId, *, ahead: timedelta) -> None:
        super().__init__(f"{partition_id}: observed {ahead} from now")
        self.partition_id = partition_id
        self.ahead_seconds = int(ahead.total_seconds())


class StaleCapacity(Stale):
    """An observation older than the one already known."""

    def __init__(self, partition_id: PartitionId, *, observed_at: datetime, known: datetime) -> None:
        super().__init__(f"{partition_id}: observed at {observed_at.isoformat()}, known is {known.isoformat()}")
        self.partition_id = partition_id
        self.observed_at = observed_at.isoformat()
        self.known = known.isoformat()


@dataclass(frozen=True)
class Capacity:
    """What a batch system could take at one moment, and who said so."""

    partition_id: PartitionId
    observed_at: datetime
    received_at: datetime
    source: str
    backend: str
    nodes_in_service: int
    nodes_idle: int
    slices_idle: int
    jobs_running: int
    jobs_waiting: int


@dataclass(frozen=True)
class Reported:
    """What a report about a partition is judged by; `known` is when it was last observed."""

    partition_id: PartitionId
    nodes: int | None
    units_per_node: int
    retired: bool
    known: datetime | None


def accept_capacity(
    partition: Partition | Reported, report: Capacity, known: datetime | None, *, may_be_ahead: timedelta
) -> Capacity:
    """Decide whether a report becomes what is known of a partition. Of two for one moment the later word counts.

    Raises: AbsurdCapacity, ObservedInFuture, StaleCapacity.
    """
    name, units = partition.partition_id, partition.units_per_node
    most = MAX_NODES if partition.nodes is None else partition.nodes
    limits: Sequence[tuple[str, int, int]] = (
        ("nodes in service, of all its nodes", report.nodes_in_service, most),
        ("idle nodes, of those in service", report.nodes_idle, report.nodes_in_service),
        ("idle slices, of those in service", report.slices_idle, report.nodes_in_service * units),
        ("slices of idle nodes, of all idle slices", report.nodes_idle * units, report.slices_idle),
    )
    for what, reported, limit in limits:
        if reported > limit:
            raise AbsurdCapacity(name, what, reported=reported, limit=limit)
    ahead = report.observed_at - report.received_at
    if ahead > may_be_ahead:
        raise ObservedInFuture(name, ahead=ahead)
    if known is not None and report.observed_at < known:
        raise StaleCapacity(name, observed_at=report.observed_at, known=known)
    return report


def age_seconds(capacity: Capacity, now: datetime) -> int:
    """How old an observation is, in whole seconds; never below zero, whatever the reporter's clock says."""
    return max(0, int((now - capacity.observed_at).total_seconds()))
