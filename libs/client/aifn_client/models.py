"""What the services show, as far as the terminal shows it. Fields this client does not know are kept out of sight.

All values are as the API gave them: amounts that are no whole numbers are exact decimals in text.
"""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from aifn_client.errors import Unreadable


class View(BaseModel):
    """A thing a service showed, and in `raw` the object just as it came."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    _raw: Any = PrivateAttr(default=None)

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Read an object of the API. Raises Unreadable."""
        try:
            view = cls.model_validate(raw)
        except ValidationError as wrong:
            first = wrong.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the answer"
            raise Unreadable(
                f"an answer is not as expected: {where}: {first['msg']}", advice="is this aifn older than the services?"
            ) from None
        view._raw = raw
        return view

    @property
    def raw(self) -> Any:
        """The object just as the API gave it."""
        return self._raw


class Factory(View):
    """A factory or antenna of the registry."""

    factory_id: str
    kind: str
    name: str
    country: str
    hosting_entity: str | None = None
    linked_factory_ids: tuple[str, ...] | None = None
    consortium_countries: tuple[str, ...] = ()
    primary_machine_id: str | None = None
    interim_machine_ids: tuple[str, ...] = ()
    sectors: tuple[str, ...] | None = None
    focus_keywords: tuple[str, ...] = ()
    selected_on: str | None = None
    retired: bool = False
    source: tuple[str, ...] = ()


class Capacity(View):
    """What a batch system could take when it was last looked at."""

    observed_at: datetime
    age_seconds: int
    fresh: bool
    nodes_in_service: int
    nodes_idle: int
    jobs_running: int
    jobs_waiting: int
    source: str


class Partition(View):
    """A partition of a machine; `capacity` only where partitions are asked for by themselves."""

    partition_id: str
    machine_id: str
    name: str
    kind: str
    stage: str
    nodes: int | None = None
    devices_per_node: int | None = None
    gpus_per_node: int | None = None
    cores_per_node: int | None = None
    gpu_vendor: str | None = None
    gpu_model: str | None = None
    gpu_memory_gb: int | None = None
    software_stack: str | None = None
    cpu_model: str | None = None
    memory_gib_per_node: int | None = None
    resource: str
    units_per_node: int
    capacity: Capacity | None = None
    source: tuple[str, ...] = ()


class Figure(View):
    """A rank, a performance or a price, true for one month."""

    name: str
    value: str
    as_of: str


class Machine(View):
    """A machine with its partitions."""

    machine_id: str
    name: str
    country: str | None = None
    stage: str
    factory_ids: tuple[str, ...] = ()
    site: str | None = None
    hosting_entity: str | None = None
    batch_scheduler: str | None = None
    union_share_pct: int | None = None
    national_share_pct: int | None = None
    retired: bool = False
    partitions: tuple[Partition, ...] = ()
    figures: tuple[Figure, ...] = ()
    source: tuple[str, ...] = ()


class Mode(View):
    """An access mode as its published call describes it."""

    mode_id: str
    name: str
    status: str
    policy_version: str | None = None
    purpose: str | None = None
    applicant_kinds: tuple[str, ...] = ()
    excluded_kinds: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    ordering: str | None = None
    gpu_hours: str
    duration_months: tuple[int, ...] | None = None
    deciding_authority: str
    pool: str
    support_level: str | None = None
    obligations: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    notes: str | None = None


class Call(View):
    """A call that takes applications."""

    call_id: str
    mode: str
    policy_version: str
    pool: str
    technical_check: str
    opens_at: datetime
    closes_at: datetime | None = None
    partitions: tuple[str, ...] | None = None


class Organisation(View):
    """Who applies."""

    name: str
    kind: str
    country: str


class Ask(View):
    """How much on which partition."""

    partition_id: str
    gpu_hours: int


class Finding(View):
    """What one rule said: of an application (`passed`) or of a request for data (`outcome`)."""

    rule: str
    because: str
    source: str = ""
    passed: bool | None = None
    outcome: str | None = None

    @property
    def word(self) -> str:
        """The rule's word."""
        return self.outcome or ("passed" if self.passed else "failed")


class Award(View):
    """What was granted for an application."""

    award_id: str
    project_id: str
    awarded_at: datetime
    awarded_by: str
    reason: str


class Application(View):
    """An application, what every rule said of it, and its award."""

    application_id: str
    call_id: str
    title: str
    organisation: Organisation
    asks: tuple[Ask, ...]
    months: int
    submitted_by: str
    submitted_at: datetime
    state: str
    waiting_before: int | None = None
    findings: tuple[Finding, ...] = ()
    award: Award | None = None


class Job(View):
    """A job, from the queue to its one end."""

    job_id: str
    project_id: str
    name: str
    submitted_by: str
    wanted_partition_id: str | None = None
    devices: int | None = None
    cores: int | None = None
    nodes_wanted: int | None = None
    walltime_seconds: int
    software_stack: str
    workload: str | None = None
    state: str
    outcome: str | None = None
    reason: str = ""
    cancel_asked: bool = False
    machine_id: str | None = None
    partition_id: str | None = None
    resource: str | None = None
    nodes: int | None = None
    slices: int | None = None
    amount: int | None = None
    planned_start: datetime | None = None
    submitted_at: datetime
    placed_at: datetime | None = None
    dispatched_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    closed_at: datetime | None = None


class Reason(View):
    """What the last plan said of one partition."""

    partition_id: str
    verdict: str
    because: str
    earliest_start: datetime | None = None
    waits_for: tuple[str, ...] = ()


class Why(View):
    """Why a job is where it is."""

    job_id: str
    state: str
    outcome: str | None = None
    summary: str
    decided_at: datetime | None = None
    planned_start: datetime | None = None
    planned_partition_id: str | None = None
    moved_later_from: datetime | None = None
    reasons: tuple[Reason, ...] = ()


class Dataset(View):
    """A dataset that can be asked for."""

    dataset_id: str
    factory_id: str
    title: str
    description: str = ""
    licence: str
    sensitivity: str
    grade: str
    residency: tuple[str, ...] = ()
    location: str
    size_bytes: int | None = None
    legal_basis: str | None = None
    contact: str
    retired: bool = False
    changed_at: datetime


class AccessRequest(View):
    """A request to use a dataset, and what became of it."""

    request_id: str
    dataset_id: str
    project_id: str
    purpose: str = ""
    requested_by: str
    requested_at: datetime
    state: str
    waits_for: str | None = None
    reasons: tuple[Finding, ...] = ()
    decided_by: str | None = None
    steward: str | None = None
    steward_reason: str | None = None
    expires_at: datetime | None = None
    in_force: bool


class Course(View):
    """Something that can be learnt."""

    course_id: str
    provider: str
    title: str
    description: str = ""
    kind: str
    level: str
    topics: tuple[str, ...] = ()
    prerequisites: tuple[str, ...] = ()
    language: str
    hours: int
    example: bool = False


class Session(View):
    """When a course takes place, and how many seats are left."""

    session_id: str
    course_id: str
    title: str
    starts_at: datetime
    ends_at: datetime
    teaching: str
    seats: int
    seats_free: int


class Seat(View):
    """A person's place in a session."""

    session_id: str
    course_id: str
    title: str
    starts_at: datetime
    ends_at: datetime
    subject: str


class Cause(View):
    """The event that caused a suggestion."""

    topic: str
    id: str
    award_id: str


class Suggestion(View):
    """A course that may help a project, and why."""

    suggestion_id: str
    project_id: str
    course_id: str
    title: str
    rule: str
    because: str
    cause: Cause
    suggested_at: datetime


class DeadLetter(View):
    """A message that a service set aside."""

    id: int
    consumer: str
    topic: str
    code: str
    reason: str
    set_aside_at: datetime
    replayed_at: datetime | None = None
    replayed_by: str | None = None


class Replayed(View):
    """Where a message was sent again."""

    topic: str


class Member(View):
    """A person's part in a project."""

    subject: str
    role: str


class Project(View):
    """A project; its members only where one project is asked for."""

    project_id: str
    title: str
    factory_id: str
    revision: int = 0
    closed: bool = False
    created_at: datetime
    members: tuple[Member, ...] = ()


class Hours(View):
    """Balances in hours, exact decimals in text."""

    granted: str
    available: str
    held: str
    charged: str
    overrun: str


class Allocation(View):
    """An amount of one resource granted to a project; whole numbers are in its own unit."""

    allocation_id: str
    project_id: str
    resource: str
    partition_id: str
    pool: str
    starts_at: datetime
    ends_at: datetime
    reason: str
    unit: str
    granted: int
    available: int
    held: int
    charged: int
    overrun: int
    revision: int = 0
    node_hours: Hours | None = None
    gpu_hours: Hours | None = None


class Posting(View):
    """One side of a transfer; below zero it left the account."""

    account: str
    amount: int


class Transfer(View):
    """A line of a statement: two postings that sum to zero."""

    transfer_id: int
    kind: str
    resource: str
    postings: tuple[Posting, Posting]
    job_id: str | None = None
    recorded_at: datetime


class UsageEvent(View):
    """What one usage record costs one allocation; a later revision takes its place."""

    number: int
    machine_id: str
    local_job_id: str
    segment: int
    revision: int
    job_id: str
    project_id: str
    allocation_id: str
    resource: str
    amount: int
    rate_card: str
    ended_at: datetime
    user: str


class JobCharges(View):
    """What a job holds and costs, in slice-seconds."""

    job_id: str
    project_id: str
    allocation_id: str | None = None
    held: int
    remaining: int
    charged: int
    outcome: str | None = None
    segments_expected: int | None = None
    segments_charged: int
    released_at: datetime | None = None
    charges: tuple[UsageEvent, ...] = ()


class Check(View):
    """Two ways to know one thing about the ledger."""

    check: str
    resource: str
    expected: int
    found: int
    differing: int
    passed: bool


class Verification(View):
    """Whether the ledger holds."""

    passed: bool
    checks: tuple[Check, ...] = ()
