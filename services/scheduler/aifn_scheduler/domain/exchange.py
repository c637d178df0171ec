"""To whom a job that waits at home may go: within its award or under an agreement, and what it costs there."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from aifn_common.errors import Refusal

from aifn_scheduler.domain.admission import Footprint, JobWish, Size, footprint, runs_on
from aifn_scheduler.domain.machines import Partition


class NotAgreed(Refusal):
    """What a factory asks for is not what was agreed with it."""

    code = "not_agreed"


@dataclass(frozen=True, slots=True)
class Agreement:
    """That `home` may send work to `receiver`, between two moments.

    One unit of `resource` costs numerator / denominator of `home_resource`. The receiver runs guests in the project
    `guest_project`, whose allocation is the most it lends, and what they used comes from its pool `pool_id`.
    """

    agreement_id: str
    home: str
    receiver: str
    home_resource: str
    resource: str
    numerator: int
    denominator: int
    guest_project: str | None
    pool_id: str | None
    starts_at: datetime
    ends_at: datetime
    agreed_by: str

    @property
    def name(self) -> str:
        """What the receiver knows it by."""
        return self.agreement_id

    @property
    def partition_id(self) -> str:
        """The receiver's partition."""
        return self.resource.split("/")[1]

    @property
    def home_partition_id(self) -> str:
        """Home's partition, whose hours pay."""
        return self.home_resource.split("/")[1]

    def in_force(self, now: datetime) -> bool:
        """Whether it holds now."""
        return self.starts_at <= now < self.ends_at

    def home_amount(self, amount: int) -> int:
        """What `amount` of the receiver's resource costs home, rounded up to a whole unit."""
        return -(-amount * self.numerator // self.denominator)


@dataclass(frozen=True, slots=True)
class Scope:
    """A partition of another factory that an award of a project here names too, between two moments.

    Nothing is exchanged: the project's own hours there pay.
    """

    award_id: str
    project_id: str
    receiver: str
    machine_id: str
    partition_id: str
    resource: str
    starts_at: datetime
    ends_at: datetime

    @property
    def name(self) -> str:
        """What the receiver knows it by."""
        return self.award_id

    @property
    def home_resource(self) -> str:
        """What pays."""
        return self.resource

    def home_amount(self, amount: int) -> int:
        """What `amount` costs, of what pays."""
        return amount


@dataclass(frozen=True, slots=True)
class Offer:
    """Under what a job goes away, and what it takes there."""

    under: Agreement | Scope
    partition: Partition
    taken: Footprint


def choose(
    wish: JobWish,
    agreements: Iterable[Agreement],
    own: Collection[str],
    partitions: Mapping[str, Partition],
    idle: Mapping[str, int],
) -> Offer | None:
    """The first agreement under which a job can go away now; None if there is none.

    Args:
        own: partitions of home whose hours the job's project may use.
        idle: nodes that other members say are free, by partition.
    """
    for one in agreements:
        may_pay = one.home_partition_id in own and wish.partition_id in (None, one.home_partition_id)
        if may_pay and (found := _offer(wish, one, partitions, idle)) is not None:
            return found
    return None


def choose_in_scope(
    wish: JobWish, scopes: Iterable[Scope], partitions: Mapping[str, Partition], idle: Mapping[str, int]
) -> Offer | None:
    """The first partition elsewhere that the job's own award names and that can take it now; None if there is none.

    A job that asks for a partition by name stays: its project has other hours elsewhere.
    """
    for one in scopes:
        may_pay = one.project_id == wish.project_id and wish.partition_id is None
        if may_pay and (found := _offer(wish, one, partitions, idle)) is not None:
            return found
    return None


def _offer(
    wish: JobWish, under: Agreement | Scope, partitions: Mapping[str, Partition], idle: Mapping[str, int]
) -> Offer | None:
    """What a job would take at the receiver's partition; None if that cannot take it now."""
    partition = partitions.get(under.partition_id)
    if partition is None or not partition.operating or not runs_on(wish.software_stack, partition):
        return None
    try:
        taken = footprint(wish.size, partition)
    except Refusal:
        return None
    return Offer(under, partition, taken) if taken.nodes <= idle.get(partition.partition_id, 0) else None


def size_of(nodes: int, slices: int, partition: Partition) -> Size:
    """How a guest's wish is said here: whole nodes, or a share of one. Raises NotAgreed for what is neither.

    >>> from aifn_scheduler.domain.machines import LUMI_G
    >>> size_of(2, 128, LUMI_G), size_of(1, 16, LUMI_G), size_of(1, 1, LUMI_G)
    (Size(kind='nodes', count=2), Size(kind='devices', count=2), Size(kind='cores', count=1))
    """
    units = partition.units_per_node
    if slices == nodes * units:
        return Size("nodes", nodes)
    counts: tuple[tuple[str, int | None], ...] = (
        ("devices", partition.devices_per_node),
        ("cores", partition.cores_per_node),
    )
    for kind, per_node in counts:
        if nodes == 1 and per_node and slices < units and slices % (units // per_node) == 0:
            return Size("devices" if kind == "devices" else "cores", slices // (units // per_node))
    raise NotAgreed(f"{slices} slices on {nodes} nodes are no size on {partition.partition_id}")


def check_asked(
    agreement: Agreement | None,
    *,
    home: str,
    receiver: str,
    resource: str,
    now: datetime,
) -> Agreement:
    """Hold what another factory asks against what was agreed. Raises NotAgreed."""
    if agreement is None:
        raise NotAgreed("no such agreement is known here")
    if (agreement.home, agreement.receiver, agreement.resource) != (home, receiver, resource):
        raise NotAgreed(f"{agreement.agreement_id} is not about {resource} of {receiver} for {home}")
    if not agreement.in_force(now):
        raise NotAgreed(f"{agreement.agreement_id} is not in force")
    if agreement.guest_project is None or agreement.pool_id is None:
        raise NotAgreed(f"{agreement.agreement_id} names no project for guests and no pool here")
    return agreement
