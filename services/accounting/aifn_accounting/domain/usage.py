"""What makes a usage record acceptable, what it costs, and which of its revisions counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, NamedTuple, Protocol, TypeVar

from aifn_common.errors import Invalid, Refusal
from aifn_events.vocabulary import JobId, MachineId, PartitionId, ProjectId, RateCardId, ResourceId

from aifn_accounting.domain.ledger import (
    LARGEST_AMOUNT,
    AbsurdAmount,
    Allocation,
    Book,
    Hold,
    choose_to_charge,
)
from aifn_accounting.domain.rates import NoRate as NoRate
from aifn_accounting.domain.rates import RateCard as RateCard
from aifn_accounting.domain.rates import Rates as Rates
from aifn_accounting.domain.rates import check_occupied, occupied_json

CLOCK_TOLERANCE = timedelta(days=1)
"""A site's clock may be so far ahead of ours."""

_ONE_SECOND = timedelta(seconds=1)

Identity = tuple[str, MachineId, datetime, int]
"""Which run of which job of which machine: (local job id, machine, submitted at, segment)."""


class EndsBeforeStart(Invalid):
    """A record says that a run ended before it began."""

    code = "ends_before_start"


class FromTheFuture(Invalid):
    """A record says that a run ended at a time which is yet to come."""

    code = "from_the_future"


class WrongResource(Invalid):
    """A record counts something that its partition does not have."""

    code = "wrong_resource"

    def __init__(self, resource: ResourceId, machine_id: MachineId, partition_id: PartitionId) -> None:
        super().__init__(f"{resource} is not a resource of {machine_id}/{partition_id}")
        self.resource = resource


class UnknownProject(Refusal):
    """Nothing is known of this project."""

    code = "unknown_project"
    status = 404

    def __init__(self, project_id: ProjectId) -> None:
        super().__init__(f"project {project_id} is not known")
        self.project_id = project_id


class ConflictingUsage(Refusal):
    """Two different records claim the same identity and revision; the first one stands."""

    code = "conflicting_usage"

    def __init__(self, local_job_id: str, revision: int) -> None:
        super().__init__(f"revision {revision} of {local_job_id} is known, and says something else")
        self.local_job_id = local_job_id
        self.revision = revision


class Usage(Protocol):
    """A usage record, as the rules need it: the event has this shape."""

    @property
    def machine_id(self) -> str: ...
    @property
    def local_job_id(self) -> str: ...
    @property
    def submitted_at(self) -> datetime: ...
    @property
    def segment(self) -> int: ...
    @property
    def revision(self) -> int: ...
    @property
    def job_id(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def partition_id(self) -> str: ...
    @property
    def started_at(self) -> datetime: ...
    @property
    def ended_at(self) -> datetime: ...
    @property
    def nodes(self) -> int: ...
    @property
    def local_user(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def collector(self) -> str: ...
    @property
    def amounts(self) -> Mapping[str, int]: ...
    @property
    def cores(self) -> int | None: ...
    @property
    def devices(self) -> int | None: ...
    @property
    def memory_mib(self) -> int | None: ...
    @property
    def exclusive(self) -> bool | None: ...
    @property
    def suspended_seconds(self) -> int: ...
    @property
    def idle_reservation(self) -> bool: ...
    @property
    def gpu_model(self) -> str | None: ...
    @property
    def energy_joules(self) -> int | None: ...


U = TypeVar("U", bound=Usage)


class Size(NamedTuple):
    """How much of a resource there is: slices in one node, and nodes if the machine's passport says how many."""

    units_per_node: int
    nodes: int | None


class Charge(NamedTuple):
    """What one usage record costs one allocation, as a whole."""

    usage: int
    allocation: int
    resource: ResourceId
    amount: int
    rate_card: RateCardId


class Statement(NamedTuple):
    """What a record says that decides its charge."""

    job_id: JobId
    project_id: ProjectId
    started_at: datetime
    ended_at: datetime
    amounts: Mapping[ResourceId, int]
    occupied: str | None


def identity_of(record: Usage) -> Identity:
    """What a correction repeats."""
    return (record.local_job_id, record.machine_id, record.submitted_at, record.segment)


def check(record: Usage, sizes: Mapping[ResourceId, Size], now: datetime) -> None:
    """Refuse a record that cannot be true.

    Args:
        sizes: of the resources whose machine is known.
    Raises: EndsBeforeStart, FromTheFuture, NegativeElapsed, AbsurdQuantity, WrongResource, AbsurdAmount.
    """
    started, ended = record.started_at, record.ended_at
    if ended < started:
        raise EndsBeforeStart(f"it ended at {ended.isoformat()}, before its start at {started.isoformat()}")
    if ended > now + CLOCK_TOLERANCE:
        raise FromTheFuture(f"it ends at {ended.isoformat()}, and now it is {now.isoformat()}")
    check_occupied(record)
    place = f"{record.machine_id}/{record.partition_id}/"
    for resource, amount in record.amounts.items():
        if not resource.startswith(place):
            raise WrongResource(resource, record.machine_id, record.partition_id)
        limit = LARGEST_AMOUNT
        size = sizes.get(resource)
        if size is not None:
            units, nodes = size
            if nodes is not None and record.nodes > nodes:
                raise AbsurdAmount(record.nodes, limit=nodes, what=f"the number of nodes of {resource}")
            # Sites round to whole seconds, each in its own way: the run may have been up to a second longer.
            seconds = (ended - started + _ONE_SECOND) // _ONE_SECOND + 1
            limit = min(limit, record.nodes * units * seconds)
        if amount > limit:
            raise AbsurdAmount(amount, limit=limit, what=f"{resource} of {record.nodes} nodes in that time")


def statement_of(record: Usage) -> Statement:
    """What two records with one identity and revision must agree on."""
    occupied = occupied_json(record)
    return Statement(record.job_id, record.project_id, record.started_at, record.ended_at, record.amounts, occupied)


class Intake(Generic[U]):
    """Which records of a batch are new, under which number, and which of their revisions counts.

    `known` has the numbers of stored revisions, by identity and revision. New records are numbered from `last` on.
    """

    def __init__(self, known: Mapping[Identity, Mapping[int, int]], last: int) -> None:
        self._known = known
        self._last = last
        self._taken: dict[Identity, dict[int, int]] = {}
        self.new: dict[int, U] = {}
        self.repeated: list[tuple[U, int]] = []

    def take(self, identity: Identity, record: U) -> int | None:
        """Number a new record; None if it was here before, `repeated` if so in an earlier batch.

        Raises: ConflictingUsage, if this batch has another record in its place.
        """
        stored = self._known.get(identity, _NONE).get(record.revision)
        if stored is not None:
            self.repeated.append((record, stored))
            return None
        taken = self._taken.setdefault(identity, {})
        if record.revision in taken:
            if statement_of(self.new[taken[record.revision]]) != statement_of(record):
                raise ConflictingUsage(record.local_job_id, record.revision)
            return None
        self._last += 1
        taken[record.revision] = self._last
        self.new[self._last] = record
        return self._last

    def effective(self) -> list[tuple[int, int | None]]:
        """Records that count from now on, each with the number of the revision that counted until now, if any."""
        found: list[tuple[int, int | None]] = []
        for identity, taken in self._taken.items():
            newest, stored = max(taken), self._known.get(identity)
            if not stored:
                found.append((taken[newest], None))
            elif newest > max(stored):
                found.append((taken[newest], stored[max(stored)]))
        return found


_NONE: Mapping[int, int] = {}


@dataclass
class Charging(Generic[U]):
    """Charges usage records one after the other, in memory; what it leaves behind is written as a whole.

    `allocations` by project and resource; `holds` by job; `earlier` what an earlier revision costs, by its number.
    `charges` is the first of each record, by its number; `further` has what it costs other allocations.
    """

    book: Book
    allocations: Mapping[tuple[ProjectId, ResourceId], Sequence[Allocation]]
    holds: Mapping[JobId, Hold]
    rates: Rates
    earlier: Mapping[int, Sequence[tuple[JobId, Charge]]] = field(default_factory=dict)
    charges: dict[int, Charge] = field(default_factory=dict)
    further: list[Charge] = field(default_factory=list)

    def has_payer(self, record: U) -> bool:
        """Whether an allocation can pay all that the record counts."""
        for resource in record.amounts:  # noqa: SIM110 - asked of every record, and at half the cost of `all`
            if (record.project_id, resource) not in self.allocations:
                return False
        return True

    def _payer(self, record: U, resource: ResourceId) -> int:
        """Which allocation pays for a resource: that of the job's hold, or else one of the project."""
        some = self.allocations[record.project_id, resource]
        if len(some) == 1:
            return some[0].number
        hold = self.holds.get(record.job_id)
        if hold is not None and any(one.number == hold.allocation for one in some):
            return hold.allocation
        return choose_to_charge(some, record.started_at).number

    def charge(self, number: int, record: U, before: int | None) -> None:
        """Charge the record stored under `number` in place of the revision stored under `before`.

        An allocation that paid before and does not any more gets a charge of nothing, so that whoever follows the
        charges hears of it.
        """
        charges = []
        for resource, amount in record.amounts.items():
            card = self.rates.card(resource, record.ended_at)
            charge = Charge(number, self._payer(record, resource), resource, card.rate(amount, record), card.id)
            charges.append(charge)
        if before is None:
            for charge in charges:
                self._change(charge.allocation, charge.amount, record.job_id, number)
        else:
            charges += self._replace(number, record.job_id, charges, self.earlier.get(before, ()))
        self.charges[number] = charges[0]
        if len(charges) > 1:
            self.further += charges[1:]

    def give_back(self, number: int, record: U, before: int | None) -> None:
        """Take back what an earlier revision costs, for a record that has no charge till somebody can pay it."""
        if before is not None:
            self._replace(number, record.job_id, (), self.earlier.get(before, ()))

    def _replace(
        self, number: int, job_id: JobId, charges: Sequence[Charge], earlier: Sequence[tuple[JobId, Charge]]
    ) -> list[Charge]:
        """Change only what differs; returns a charge of nothing for each allocation that does not pay any more."""
        changes: dict[tuple[JobId, int], int] = {}
        gone = []
        paying = {charge.allocation for charge in charges}
        for old_job, old in earlier:
            changes[old_job, old.allocation] = changes.get((old_job, old.allocation), 0) - old.amount
            if old.allocation not in paying and old.amount:
                gone.append(old._replace(usage=number, amount=0))
        for charge in charges:
            changes[job_id, charge.allocation] = changes.get((job_id, charge.allocation), 0) + charge.amount
        # Give back before taking, so that a charge which only moves to another job does not look like an overrun.
        for (job, allocation), change in sorted(changes.items(), key=lambda item: item[1]):
            self._change(allocation, change, job, number)
        return gone

    def _change(self, allocation: int, change: int, job_id: JobId, number: int) -> None:
        if not change:
            return
        hold = self.holds.get(job_id)
        if hold is not None and hold.allocation != allocation:
            hold = None
        self.book.charge(allocation, change, hold, job_id, number)

    def release(self, hold: Hold) -> int:
        """Give back what a job did not use; returns how much that was."""
        return self.book.release(hold)
