"""What accounting shows and takes over HTTP of rate cards, periods and gaps."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from aifn_common.errors import Invalid
from aifn_events.vocabulary import (
    AllocationId,
    JobId,
    MachineId,
    Moment,
    PositiveSeconds,
    ProjectId,
    RateCardId,
    ResourceId,
    Subject,
)
from pydantic import BaseModel, Field

from aifn_accounting.actions.periods import Month, Verified
from aifn_accounting.actions.rates import Quote
from aifn_accounting.domain.periods import name_of
from aifn_accounting.domain.units import gpu_hours, node_hours
from aifn_accounting.store.completeness import Gap
from aifn_accounting.store.periods import LinkedEntry, MonthTotal
from aifn_accounting.store.rates import Published
from aifn_accounting.views import Reason, Words

FIRST_YEAR, LAST_YEAR = 2000, 2999

MonthName = Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$", examples=["2026-10"])]
Factor = Annotated[int, Field(strict=True, ge=0, le=1000)]
Share = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
NodeCount = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
OfAllNodes = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]


def read_month(name: str) -> date:
    """The month that is meant. Raises Invalid."""
    try:
        month = date.fromisoformat(f"{name}-01")
    except ValueError:
        raise Invalid(f"{name} is no month: write it as 2026-10") from None
    if not FIRST_YEAR <= month.year <= LAST_YEAR:
        raise Invalid(f"{name} is not in the books: they have the years from {FIRST_YEAR} to {LAST_YEAR}")
    return month


class ShareWords(Words):
    """A way to measure how much of a node is taken."""

    of: Literal["cores", "devices", "memory_mib", "nodes"] = Field(examples=["devices"])
    per: Share = Field(description="so many of them", examples=[1])
    slices: Share = Field(description="are so many slices", examples=[8])
    whole: bool = Field(default=False, description="a begun step counts as a whole one", examples=[False])


class RuleWords(Words):
    """How one partition is charged: whole nodes, or the largest of some shares, times a time in steps."""

    slices_per_node: Share = Field(description="as in the passport of the machine", examples=[64])
    whole_nodes: Literal["always", "exclusive", "never"] = Field(default="never", examples=["exclusive"])
    shares: list[ShareWords] = Field(default=[], max_length=8)
    step_seconds: Share = Field(default=1, description="a begun step counts as a whole one", examples=[1])
    idle_reservations: bool = Field(
        default=False, description="nodes that were reserved and that nobody used are charged too", examples=[False]
    )


class RateCardWords(Words):
    """The next version of a resource's rate card."""

    id: RateCardId = Field(examples=["lumi-g"])
    resource: ResourceId
    unit: Literal["slice-second"] = Field(description="the unit that is charged", examples=["slice-second"])
    numerator: Factor = Field(default=1, examples=[1])
    denominator: Share = Field(default=1, examples=[1])
    valid_from: Moment = Field(description="a moment to come", examples=["2027-01-01T00:00:00Z"])
    rule: RuleWords | None = Field(default=None, description="null: what was reported is charged")
    title: str = Field(min_length=1, max_length=300, examples=["half price for idle GPUs"])
    source: str = Field(min_length=1, max_length=300, examples=["https://example.eu/billing"])
    not_confirmed: list[Annotated[str, Field(max_length=300)]] = Field(
        default=[], max_length=20, description="parameters that no public page states", examples=[[]]
    )


class RateCardView(BaseModel):
    """A rate card; it holds until the next one of its resource takes over."""

    id: RateCardId
    resource: str = Field(description="a resource, or * for those without a card", examples=["lumi/lumi-g/gpu-time"])
    version: int = Field(examples=[1])
    title: str
    unit: str = Field(examples=["slice-second"])
    numerator: int = Field(examples=[1])
    denominator: int = Field(examples=[1])
    valid_from: datetime
    rule: Mapping[str, Any] | None
    source: str
    confirmed: bool = Field(description="whether public pages state all its parameters", examples=[False])
    not_confirmed: list[str]
    published_by: str = Field(description="`aifn`: it came with the package", examples=["aifn"])
    published_at: datetime

    @classmethod
    def of(cls, one: Published) -> Self:
        """Show a card."""
        card = one.card
        return cls(
            id=card.id,
            resource=card.resource,
            version=one.version,
            title=one.title,
            unit="slice-second",
            numerator=card.numerator,
            denominator=card.denominator,
            valid_from=card.valid_from,
            rule=one.rule_words,
            source=one.source,
            confirmed=not one.not_confirmed,
            not_confirmed=list(one.not_confirmed),
            published_by=one.published_by,
            published_at=one.published_at,
        )


class QuoteWords(Words):
    """What would run, and when it would end; it has the shape of a usage record, as far as cards look at it."""

    resource: ResourceId
    nodes: NodeCount = Field(examples=[1])
    seconds: PositiveSeconds = Field(examples=[86_400])
    ends_at: Moment | None = Field(default=None, description="null: now")
    slices: OfAllNodes | None = Field(
        default=None, description="shares of nodes, all together; null: whole nodes", examples=[64]
    )
    cores: OfAllNodes | None = Field(default=None, description="of all nodes together", examples=[64])
    devices: OfAllNodes | None = Field(default=None, examples=[8])
    memory_mib: OfAllNodes | None = Field(default=None, examples=[524_288])
    exclusive: bool | None = Field(default=None, examples=[True])
    idle_reservation: bool = Field(default=False, examples=[False])


class Wish:
    """What somebody wants to have priced, as a record of it would say."""

    suspended_seconds = 0
    gpu_model: str | None = None
    energy_joules: int | None = None

    def __init__(self, words: QuoteWords, now: datetime) -> None:
        self.ended_at = words.ends_at or now
        if self.ended_at.year < FIRST_YEAR:
            raise Invalid(f"it ends at {self.ended_at.isoformat()}, before the books begin")
        self.started_at = self.ended_at - timedelta(seconds=words.seconds)
        self.nodes = words.nodes
        self.cores = words.cores
        self.devices = words.devices
        self.memory_mib = words.memory_mib
        self.exclusive = words.exclusive
        self.idle_reservation = words.idle_reservation


class QuoteView(BaseModel):
    """What it would cost."""

    resource: ResourceId
    rate_card: RateCardId
    amount: int = Field(description="slice-seconds", examples=[5_529_600])
    node_hours: Decimal = Field(examples=["24.000"])
    gpu_hours: Decimal | None = Field(examples=["96.000"])

    @classmethod
    def of(cls, resource: ResourceId, one: Quote) -> Self:
        """Show a quote."""
        units, gpus = one.units.units_per_node, one.units.gpus_per_node
        return cls(
            resource=resource,
            rate_card=one.card.id,
            amount=one.amount,
            node_hours=node_hours(one.amount, units),
            gpu_hours=None if gpus is None else gpu_hours(one.amount, units, gpus),
        )


class Closing(Words):
    """To close a month."""

    reason: Reason
    carry_holds: bool = Field(default=False, description="holds that are still open go into the next month")
    accept_gaps: bool = Field(default=False, description="site-days that do not match are taken as they are")


class PeriodView(BaseModel):
    """A month of the books."""

    month: MonthName
    state: Literal["open", "closed"]
    records: int = Field(description="in its totals when it was closed", examples=[48_211])
    entries: int = Field(description="entered since, each linked to a record", examples=[0])
    closed_at: datetime | None
    closed_by: Subject | None
    reason: str | None
    holds_carried: int | None = Field(description="holds that were open when it was closed")
    gaps_accepted: int | None = Field(description="site-days that did not match when it was closed")
    digest: str | None = Field(description="SHA-256 of the sorted lines allocation|resource|amount|records")

    @classmethod
    def of(cls, one: Month) -> Self:
        """Show a month."""
        period = one.period
        return cls(
            month=name_of(one.month),
            state="open" if period is None else "closed",
            records=one.records,
            entries=one.entries,
            closed_at=period.closed_at if period else None,
            closed_by=period.closed_by if period else None,
            reason=period.reason if period else None,
            holds_carried=period.holds_carried if period else None,
            gaps_accepted=period.gaps_accepted if period else None,
            digest=period.digest if period else None,
        )


class MonthTotalView(BaseModel):
    """What belongs to a month of one allocation."""

    allocation_id: AllocationId
    resource: ResourceId
    amount: int = Field(description="in the resource's own unit", examples=[192_000])
    records: int = Field(examples=[1])

    @classmethod
    def of(cls, one: MonthTotal) -> Self:
        """Show a total."""
        return cls(allocation_id=one.allocation_id, resource=one.resource, amount=one.amount, records=one.records)


class LinkedEntryView(BaseModel):
    """What a record that came after the closing changed in a closed month."""

    entry: int = Field(examples=[1])
    month: MonthName = Field(description="the closed month it belongs to")
    recorded_in: MonthName = Field(description="the open month on whose statement it stands")
    kind: Literal["late", "correction"]
    change: int = Field(description="in the resource's own unit; below zero is given back", examples=[-600])
    resource: ResourceId
    allocation_id: AllocationId
    project_id: ProjectId
    machine_id: MachineId
    local_job_id: str = Field(examples=["4711"])
    submitted_at: datetime
    segment: int = Field(examples=[0])
    revision: int = Field(description="of the record", examples=[1])
    corrects_revision: int | None = Field(description="of the same record, which counted until then", examples=[0])
    job_id: JobId
    recorded_at: datetime

    @classmethod
    def of(cls, one: LinkedEntry) -> Self:
        """Show an entry."""
        values = {name: getattr(one, name) for name in cls.model_fields if hasattr(one, name)}
        return cls.model_validate(
            values | {"entry": one.number, "month": name_of(one.month), "recorded_in": name_of(one.recorded_in)}
        )


class PeriodCheckView(BaseModel):
    """One allocation's month known in two ways: frozen with what was entered since, and counted from the records."""

    allocation_id: AllocationId
    resource: ResourceId
    frozen: int
    entered: int
    counted: int
    passed: bool

    @classmethod
    def of(cls, one: Verified) -> Self:
        """Show a check."""
        return cls(
            allocation_id=one.total.allocation_id,
            resource=one.total.resource,
            frozen=one.total.amount,
            entered=one.entered,
            counted=one.counted,
            passed=one.total.amount + one.entered == one.counted,
        )


class GapView(BaseModel):
    """A site-day on which what arrived is not what the site states."""

    gap: int = Field(examples=[1])
    machine_id: MachineId
    day: date
    state: Literal["open", "closed"]
    reason: str = Field(examples=["records_missing"])
    statement_revision: int | None
    stated_records: int | None
    records: int
    overlapping: int = Field(description="records that overlap with another segment of their job", examples=[0])
    opened_at: datetime
    looked_at: datetime
    closed_at: datetime | None

    @classmethod
    def of(cls, one: Gap) -> Self:
        """Show a gap."""
        values = {name: getattr(one, name) for name in cls.model_fields if hasattr(one, name)}
        return cls.model_validate(values | {"gap": one.number, "state": "open" if one.closed_at is None else "closed"})
