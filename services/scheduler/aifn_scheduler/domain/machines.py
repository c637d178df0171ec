"""What both stories know of a partition: how big it is, how its time is counted, what runs on it."""

from dataclasses import dataclass
from datetime import timedelta

from aifn_common.errors import Invalid


class AbsurdCapacity(Invalid):
    """A report says that more nodes are in service than the partition has."""

    code = "absurd_capacity"

    def __init__(self, partition_id: str, *, reported: int, nodes: int) -> None:
        super().__init__(f"{partition_id} has {nodes} nodes, {reported} are reported in service")
        self.partition_id = partition_id
        self.reported = reported
        self.nodes = nodes


class ForeignReport(Invalid):
    """A report on a partition by a machine it is not part of."""

    code = "foreign_report"

    def __init__(self, partition_id: str, *, machine_id: str, known: str) -> None:
        super().__init__(f"{partition_id} is part of {known}, not of {machine_id}")
        self.partition_id = partition_id
        self.machine_id = machine_id


class ObservedInFuture(Invalid):
    """A report of a moment that has not come would shut out all true ones until then, and never grow stale."""

    code = "observed_in_future"

    def __init__(self, partition_id: str, *, ahead: timedelta) -> None:
        super().__init__(f"{partition_id}: observed {ahead} from now")
        self.partition_id = partition_id
        self.ahead_seconds = int(ahead.total_seconds())


@dataclass(frozen=True, slots=True)
class Partition:
    """The part of a machine's passport the scheduler reads; None is *not known*. `factory_ids`: who operates it."""

    partition_id: str
    machine_id: str
    kind: str
    stage: str
    nodes: int | None
    devices_per_node: int | None
    gpus_per_node: int | None
    cores_per_node: int | None
    software_stack: str | None
    resource: str
    units_per_node: int
    retired: bool = False
    factory_ids: tuple[str, ...] = ()

    @property
    def operating(self) -> bool:
        """Whether it takes work at all."""
        return self.stage == "operating" and not self.retired


def check_report(known: Partition, *, machine_id: str, nodes_in_service: int) -> None:
    """Hold a capacity report against the partition's passport. Raises ForeignReport, AbsurdCapacity.

    A partition whose number of nodes is not known may have any.
    """
    if machine_id != known.machine_id:
        raise ForeignReport(known.partition_id, machine_id=machine_id, known=known.machine_id)
    if known.nodes is not None and nodes_in_service > known.nodes:
        raise AbsurdCapacity(known.partition_id, reported=nodes_in_service, nodes=known.nodes)


LUMI_G = Partition(
    partition_id="lumi-g",
    machine_id="lumi",
    kind="gpu",
    stage="operating",
    nodes=2978,
    devices_per_node=8,
    gpus_per_node=4,
    cores_per_node=64,
    software_stack="rocm",
    resource="lumi/lumi-g/gpu-time",
    units_per_node=64,
    factory_ids=("lumi-aif",),
)
"""An example for docstrings: 64 slices to a node, a device is 8 of them."""
