"""Whether a job can run at all: what it takes, where its project may compute, where its software runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aifn_common.errors import Refusal
from aifn_events.vocabulary import Workload

from aifn_scheduler.domain.machines import Partition

SizeKind = Literal["devices", "cores", "nodes"]
Stack = Literal["any", "cuda", "rocm"]


class DoesNotFit(Refusal):
    """A job asks for something its partition does not have, or for more than the whole of it."""

    code = "does_not_fit"

    def __init__(self, partition_id: str, because: str) -> None:
        super().__init__(f"{partition_id} {because}")
        self.partition_id = partition_id


class StackMismatch(Refusal):
    """The software of a job does not run on the accelerators of a partition."""

    code = "software_stack_mismatch"

    def __init__(self, partition_id: str, *, wanted: str, offered: str, alternatives: Sequence[str]) -> None:
        named = ", ".join(alternatives)
        advice = f"your project may use {named}" if named else "your project may use no partition that has it"
        super().__init__(f"the job needs {wanted}, {partition_id} has {offered}; {advice}")
        self.partition_id = partition_id
        self.wanted = wanted
        self.offered = offered
        self.alternatives = list(alternatives)


class UnknownPartition(Refusal):
    """Nobody has described such a partition."""

    code = "unknown_partition"
    status = 422

    def __init__(self, partition_id: str) -> None:
        super().__init__(f"no partition {partition_id} is known")
        self.partition_id = partition_id


class NotOperating(Refusal):
    """A partition that is planned, being installed or retired takes no work."""

    code = "not_operating"

    def __init__(self, partition: Partition) -> None:
        state = "retired" if partition.retired else partition.stage
        super().__init__(f"{partition.partition_id} takes no work (it is {state})")
        self.partition_id = partition.partition_id


class NoAllocation(Refusal):
    """The project may not use this partition, or none at all."""

    code = "no_allocation"

    def __init__(self, project_id: str, partition_id: str | None) -> None:
        super().__init__(
            f"project {project_id} has no running or coming allocation on {partition_id or 'any partition'}"
        )
        self.project_id = project_id
        self.partition_id = partition_id or ""


class WalltimeTooLong(Refusal):
    """Longer than any job may run here."""

    code = "walltime_too_long"
    status = 422

    def __init__(self, asked_seconds: int, allowed_seconds: int) -> None:
        super().__init__(f"{asked_seconds} s of walltime asked, at most {allowed_seconds} s are allowed")
        self.asked_seconds = asked_seconds
        self.allowed_seconds = allowed_seconds


@dataclass(frozen=True, slots=True)
class Size:
    """How much a job wants at the same time, in one of three words."""

    kind: SizeKind
    count: int


@dataclass(frozen=True, slots=True)
class JobWish:
    """What somebody wants to run. `partition_id` None: anywhere the project may compute."""

    project_id: str
    name: str
    partition_id: str | None
    size: Size
    walltime_seconds: int
    script: str
    software_stack: Stack
    workload: Workload | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """That a project may use a partition between two moments; how much is left is accounting's to say."""

    project_id: str
    partition_id: str
    starts: int
    ends: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a size takes on one partition: whole nodes it spreads over, slices of all of them."""

    nodes: int
    slices: int


def footprint(size: Size, partition: Partition) -> Footprint:
    """Say a size in slices of a partition. What fits one node may share it; anything larger takes whole nodes.

    Raises: DoesNotFit, if the partition has no such thing or fewer nodes than that takes.

    >>> from aifn_scheduler.domain.machines import LUMI_G
    >>> footprint(Size("devices", 1), LUMI_G), footprint(Size("devices", 9), LUMI_G)
    (Footprint(nodes=1, slices=8), Footprint(nodes=2, slices=128))
    """
    units = partition.units_per_node
    if size.kind == "nodes":
        taken = Footprint(size.count, size.count * units)
    else:
        per_node = partition.devices_per_node if size.kind == "devices" else partition.cores_per_node
        if not per_node:
            raise DoesNotFit(partition.partition_id, f"has no {size.kind} that are known here")
        if size.count <= per_node:
            # units_per_node is a multiple of both counts, so this is exact.
            taken = Footprint(1, size.count * (units // per_node))
        else:
            nodes = -(-size.count // per_node)
            taken = Footprint(nodes, nodes * units)
    if partition.nodes is not None and taken.nodes > partition.nodes:
        raise DoesNotFit(partition.partition_id, f"has {partition.nodes} nodes, the job takes {taken.nodes}")
    return taken


def runs_on(stack: Stack, partition: Partition) -> bool:
    """Whether software of this kind runs there. A GPU partition of unknown stack is not a mismatch.

    >>> from aifn_scheduler.domain.machines import LUMI_G
    >>> [runs_on(stack, LUMI_G) for stack in ("any", "rocm", "cuda")]
    [True, True, False]
    """
    if stack == "any" or partition.software_stack == stack:
        return True
    return partition.software_stack is None and partition.kind.startswith("gpu")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A partition a request may run on, what it takes there, and between which moments its project may use it."""

    partition_id: str
    slices: int
    not_before: int
    ends: int


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of time in order, those that overlap or touch made one.

    >>> joined([(30, 40), (0, 10), (5, 15), (15, 20)])
    [(0, 20), (30, 40)]
    """
    found: list[tuple[int, int]] = []
    for starts, ends in sorted(spans):
        if found and starts <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], ends))
        else:
            found.append((starts, ends))
    return found


def candidates(
    wish: JobWish, partitions: Mapping[str, Partition], allocations: Iterable[Allocation]
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    """Where a job may run, and why not on the other partitions its project may use.

    Returns: candidates by partition and time, one for every window; refusals, one for every partition.
    """
    windows: dict[str, list[tuple[int, int]]] = {}
    for one in allocations:
        if wish.partition_id in (None, one.partition_id):
            windows.setdefault(one.partition_id, []).append((one.starts, one.ends))
    found: list[Candidate] = []
    refused: list[Refusal] = []
    for partition_id, spans in sorted(windows.items()):
        try:
            taken = _taken_on(partition_id, wish, partitions, alternatives=windows)
        except Refusal as refusal:
            refused.append(refusal)
        else:
            found += [Candidate(partition_id, taken.slices, starts, ends) for starts, ends in joined(spans)]
    return tuple(found), tuple(refused)


def last_end(wish: JobWish, allocations: Iterable[Allocation]) -> int:
    """When the last allocation ends that a job may use, whether or not its partition takes it; 0 without any."""
    return max((one.ends for one in allocations if wish.partition_id in (None, one.partition_id)), default=0)


def admit(
    wish: JobWish,
    partitions: Mapping[str, Partition],
    allocations: Sequence[Allocation],
    *,
    now: int,
    longest_seconds: int,
) -> None:
    """Check that a job can run at all, before it queues.

    Args:
        allocations: all of the project's.
    Raises: WalltimeTooLong, UnknownPartition, NoAllocation, NotOperating, StackMismatch, DoesNotFit.
    """
    if wish.walltime_seconds > longest_seconds:
        raise WalltimeTooLong(wish.walltime_seconds, longest_seconds)
    if wish.partition_id is not None and wish.partition_id not in partitions:
        raise UnknownPartition(wish.partition_id)
    current = [one for one in allocations if one.ends > now]
    found, refused = candidates(wish, partitions, current)
    if found:
        return
    if not refused:
        raise NoAllocation(wish.project_id, wish.partition_id)
    mismatch = next((refusal for refusal in refused if isinstance(refusal, StackMismatch)), None)
    if mismatch is not None and wish.partition_id is not None:
        others = sorted({one.partition_id for one in current})
        raise StackMismatch(
            mismatch.partition_id,
            wanted=mismatch.wanted,
            offered=mismatch.offered,
            alternatives=_with_stack(wish.software_stack, others, partitions),
        )
    raise refused[0]


def _taken_on(
    partition_id: str, wish: JobWish, partitions: Mapping[str, Partition], *, alternatives: Iterable[str]
) -> Footprint:
    partition = partitions.get(partition_id)
    if partition is None:
        raise UnknownPartition(partition_id)
    if not partition.operating:
        raise NotOperating(partition)
    if not runs_on(wish.software_stack, partition):
        raise StackMismatch(
            partition_id,
            wanted=wish.software_stack,
            offered=partition.software_stack or "no accelerators",
            alternatives=_with_stack(wish.software_stack, sorted(alternatives), partitions),
        )
    return footprint(wish.size, partition)


def _with_stack(stack: Stack, names: Iterable[str], partitions: Mapping[str, Partition]) -> list[str]:
    return [name for name in names if name in partitions and runs_on(stack, partitions[name])]
