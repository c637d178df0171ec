"""What every batch system means to us: partitions, jobs with their sizes, run segments, and the statement of a day."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal, TypeAlias

from aifn_common.errors import Invalid, NotFound, Refusal, Stale

SECOND = timedelta(seconds=1)
MOST_NODES = 1_000_000
"""More nodes than any partition has; a bound on what a passport can make an agent keep in memory."""

Kind: TypeAlias = Literal["run", "requeued"]
Outcome: TypeAlias = Literal["completed", "failed", "timeout", "cancelled", "refused"]


class UnknownPartition(NotFound):
    """A job is meant for a partition that this machine is not known to have."""

    code = "unknown_partition"

    def __init__(self, machine_id: str, partition_id: str) -> None:
        super().__init__(f"{machine_id} has no partition {partition_id} as far as its passport says")
        self.machine_id = machine_id
        self.partition_id = partition_id


class WrongResource(Invalid):
    """A job is paid for in another resource than the one its partition is counted in."""

    code = "wrong_resource"

    def __init__(self, *, expected: str, given: str) -> None:
        super().__init__(f"time there is counted as {expected}, not {given}")
        self.expected = expected
        self.given = given


class UnitsChanged(Refusal):
    """A passport counts a partition in other units than the jobs that are in it now."""

    code = "units_changed"

    def __init__(self, partition_id: str) -> None:
        super().__init__(f"{partition_id} has jobs that are counted in its present units")
        self.partition_id = partition_id


class OldPassport(Stale):
    """A passport that is older than the one known."""

    def __init__(self, *, known_revision: int, revision: int) -> None:
        super().__init__(f"revision {revision} of the passport came after revision {known_revision}")
        self.known_revision = known_revision
        self.revision = revision


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine this agent speaks for, and the instant up to which its batch system has been followed."""

    machine_id: str
    revision: int
    advanced_until: datetime


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition as its machine's passport has it, and how it was last followed.

    `described_nodes` is None if the passport does not know, `withdrawn` means that it has left the passport;
    `nodes_in_service` is the number the batch system was last followed with.
    """

    partition_id: str
    resource: str
    units_per_node: int
    described_nodes: int | None
    withdrawn: bool = False
    nodes_in_service: int = 0
    reported_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """What a job takes: one node's share (`slices` of it), or `nodes` whole nodes (`slices` counts all of them)."""

    nodes: int
    slices: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the batch system that has not ended: waiting, or running if `started_at` is set.

    `slices` is what it occupies on all its nodes together; `segment` counts its runs from 0, and `submitted_at`
    belongs to the present one. `run_seconds` is how long it would run undisturbed.
    """

    local_job_id: int
    job_id: str
    project_id: str
    partition_id: str
    resource: str
    local_user: str
    nodes: int
    slices: int
    walltime_seconds: int
    run_seconds: int
    exit_code: int
    requeue_after_seconds: int | None
    segment: int
    submitted_at: datetime
    cancel_at: datetime | None
    cancel_reason: str
    started_at: datetime | None = None
    ends_at: datetime | None = None
    on_nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """A segment of a job began at `started_at`."""

    job: Job
    started_at: datetime


@dataclass(frozen=True, slots=True)
class SegmentEnded:
    """A segment of a job is over; `job` is as it was while that segment ran. `state` is the batch system's word."""

    job: Job
    kind: Kind
    state: str
    started_at: datetime
    ended_at: datetime

    @property
    def amount(self) -> int:
        """Slice-seconds: whatever the job occupied, for every whole second from start to end."""
        return self.job.slices * ((self.ended_at - self.started_at) // SECOND)


@dataclass(frozen=True, slots=True)
class Ended:
    """A job will not run again; `segments` of it have run."""

    job: Job
    outcome: Outcome
    ended_at: datetime
    segments: int
    detail: str


Happening: TypeAlias = Started | SegmentEnded | Ended


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How full a partition is at one instant; idle counts regard nodes in service only."""

    nodes_in_service: int
    nodes_idle: int
    slices_idle: int
    jobs_running: int
    jobs_waiting: int


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What a statement counts: the identity of a usage record within its machine, its revision and its amount."""

    local_job_id: str
    submitted_at: datetime
    segment: int
    revision: int
    resource: str
    amount: int


@dataclass(frozen=True, slots=True)
class Total:
    """All records of one resource."""

    resource: str
    records: int
    amount: int


def whole_second(moment: datetime) -> datetime:
    """The last whole second not after a moment. Batch systems count in whole seconds, and so do we.

    >>> whole_second(datetime(2026, 11, 21, 9, 0, 0, 999_999, tzinfo=UTC)).isoformat()
    '2026-11-21T09:00:00+00:00'
    """
    return moment.replace(microsecond=0)


def next_instant(now: datetime, advanced_until: datetime) -> datetime:
    """The first whole second that is still to come, both for the clock and for the batch system."""
    return max(whole_second(now), advanced_until) + SECOND


def size_of(nodes: int, slices: int, units_per_node: int) -> Size:
    """What a job takes that asked for `slices` on `nodes` nodes: more than one node is taken whole.

    >>> size_of(1, 8, units_per_node=64)
    Size(nodes=1, slices=8)
    >>> size_of(2, 96, units_per_node=64)
    Size(nodes=2, slices=128)
    >>> size_of(1, 65, units_per_node=64)
    Size(nodes=2, slices=128)
    """
    taken = max(nodes, -(-slices // units_per_node))
    return Size(taken, slices if taken == 1 else taken * units_per_node)


def nodes_in_service(partition: Partition, configured: Mapping[str, int]) -> int:
    """How many nodes a partition offers: as configured here, else as described; none once it is withdrawn."""
    if partition.withdrawn:
        return 0
    return min(configured.get(partition.partition_id, partition.described_nodes or 0), MOST_NODES)


def too_large(size: Size, in_service: int) -> str | None:
    """Why a job can never start here, in words; None if it can."""
    if size.nodes <= in_service:
        return None
    return f"needs {size.nodes} nodes at once, {in_service} are in service"


def local_user_of(subject: str) -> str:
    """The login name of a person at this site: short, valid for Unix, and always the same for the same person.

    >>> local_user_of("7c1d@myaccessid")
    'u8e95bcda'
    """
    return "u" + hashlib.sha256(subject.encode()).hexdigest()[:8]


def day_of(moment: datetime) -> date:
    """The UTC day an instant belongs to; midnight belongs to the day that begins.

    >>> day_of(datetime(2026, 11, 22, tzinfo=UTC)).isoformat()
    '2026-11-22'
    """
    return moment.astimezone(UTC).date()


def digest_of(records: Iterable[UsageRecord]) -> str:
    """Fingerprint of which records a day has, in any order: the `digest` of `UsageDayStated`.

    SHA-256, in hex, of the sorted lines `local_job_id|submitted_at|segment|revision`, one newline after each;
    moments as in every event (RFC 3339, UTC, `Z`), lines sorted by code point.

    >>> first = UsageRecord("4711", datetime(2026, 11, 21, 9, 0, 1, tzinfo=UTC), 0, 0, "lumi/lumi-g/gpu-time", 192_000)
    >>> digest_of([first]) == hashlib.sha256(b"4711|2026-11-21T09:00:01Z|0|0\\n").hexdigest()
    True
    """
    lines = sorted(f"{one.local_job_id}|{_rfc3339(one.submitted_at)}|{one.segment}|{one.revision}\n" for one in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def totals_of(records: Iterable[UsageRecord]) -> list[Total]:
    """Records and amounts by resource, in the order of the resources' names."""
    found: dict[str, Total] = {}
    for one in records:
        before = found.get(one.resource, Total(one.resource, 0, 0))
        found[one.resource] = Total(one.resource, before.records + 1, before.amount + one.amount)
    return [found[resource] for resource in sorted(found)]


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
