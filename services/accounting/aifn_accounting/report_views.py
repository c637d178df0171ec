"""What accounting shows in reports, statements, forecasts and the public register."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Self

from aifn_events.vocabulary import AllocationId, AwardId, FactoryId, JobId, MachineId, ProjectId, ResourceId
from pydantic import BaseModel, Field

from aifn_accounting.domain.forecast import METHOD, Forecast
from aifn_accounting.domain.units import gpu_hours, node_hours
from aifn_accounting.store.reads import Standing
from aifn_accounting.store.reports import (
    ActorSum,
    AwardedAmount,
    Counting,
    Movement,
    RegisteredAward,
    Sum,
    TracedCharge,
)

Countings = Mapping[ResourceId, Counting]


def hours_of(amount: int, resource: ResourceId, known: Countings) -> tuple[Decimal | None, Decimal | None]:
    """An amount in node-hours and in GPU-hours; None where that cannot be said."""
    one = known.get(resource)
    if one is None:
        return None, None
    gpus = one.gpus_per_node if resource.endswith("/gpu-time") else None
    return node_hours(amount, one.units_per_node), gpu_hours(amount, one.units_per_node, gpus) if gpus else None


class SumView(BaseModel):
    """What one thing has used of one resource."""

    key: str = Field(description="of the dimension that was asked for; empty in the total", examples=["union"])
    resource: ResourceId
    amount: int = Field(description="in the resource's own unit", examples=[192_000])
    node_hours: Decimal | None = Field(description="null while the machine is not known", examples=["0.833"])
    gpu_hours: Decimal | None = Field(description="null without GPUs", examples=["3.333"])
    records: int = Field(examples=[1])
    jobs: int = Field(examples=[1])

    @classmethod
    def of(cls, one: Sum, known: Countings) -> Self:
        """Show a sum."""
        nodes, gpus = hours_of(one.amount, one.resource, known)
        return cls(
            key=one.key,
            resource=one.resource,
            amount=one.amount,
            node_hours=nodes,
            gpu_hours=gpus,
            records=one.records,
            jobs=one.jobs,
        )


class UsageReportView(BaseModel):
    """Sums, and the total they belong to; take a key as a filter to go on to what is behind it."""

    by: str = Field(examples=["pool"])
    since: date = Field(description="the first day", examples=["2026-11-01"])
    until: date = Field(description="the day after the last", examples=["2026-12-01"])
    only: dict[str, str] = Field(description="the filters", examples=[{"pool": "union"}])
    total: list[SumView] = Field(description="all lines of all pages, one for each resource")
    items: list[SumView]
    next: str | None = Field(description="cursor for `after`; null on the last page")


class TracedChargeView(BaseModel):
    """One charge of a job: which record, by which card, from which allocation and award, on which ledger lines."""

    machine_id: MachineId
    local_job_id: str = Field(examples=["4711"])
    submitted_at: datetime
    segment: int = Field(examples=[0])
    revision: int = Field(examples=[0])
    superseded: bool = Field(description="a later revision has taken its place", examples=[False])
    resource: ResourceId
    amount: int = Field(examples=[192_000])
    rate_card: str = Field(examples=["as-reported"])
    allocation_id: AllocationId
    project_id: ProjectId
    factory_id: FactoryId
    pool: str = Field(examples=["union"])
    award_id: str | None = Field(examples=["award-0198c7d3"])
    application_id: str | None = Field(examples=["app-0198c7d2"])
    mode: str | None = Field(examples=["aif_playground"])
    policy_version: str | None = Field(examples=["2025-12"])
    deciding_authority: str | None = Field(examples=["lumi-aif"])
    country: str | None = Field(examples=["FI"])
    actor: str | None = Field(examples=["startup"])
    transfers: list[int] = Field(description="`transfer_id` on the allocation's statement", examples=[[3]])
    grants: list[int] = Field(description="the transfers that put something into the allocation", examples=[[1]])


class TraceView(BaseModel):
    """The way from a job to all the sums it is part of."""

    job_id: JobId
    charges: list[TracedChargeView]

    @classmethod
    def of(cls, job_id: JobId, found: Sequence[TracedCharge]) -> Self:
        """Show where a job's charges come from."""
        shown = [{**vars(one), "actor": one.applicant_kind} for one in found]
        return cls(job_id=job_id, charges=[TracedChargeView.model_validate(one) for one in shown])


class BalancesView(BaseModel):
    """The five balances at one moment, in the resource's own unit: granted = available + held + charged - overrun."""

    granted: int = Field(examples=[288_000_000])
    available: int = Field(examples=[253_440_000])
    held: int = Field(examples=[11_520_000])
    charged: int = Field(examples=[23_040_000])
    overrun: int = Field(examples=[0])


class MovementView(BaseModel):
    """What transfers of one kind did in a month."""

    kind: str = Field(examples=["charge"])
    balance: str = Field(description="available, held, charged or overrun", examples=["held"])
    change: int = Field(examples=[-192_000])
    transfers: int = Field(examples=[1])


class MonthView(BaseModel):
    """A month of an allocation's books: opening, what moved, closing; each movement's lines are on the statement."""

    allocation_id: AllocationId
    project_id: ProjectId
    resource: ResourceId
    unit: str = Field(examples=["slice-second"])
    month: str = Field(examples=["2026-11"])
    opening: BalancesView
    movements: list[MovementView]
    closing: BalancesView

    @classmethod
    def of(cls, one: Standing, month: str, found: Sequence[Movement]) -> Self:
        """Show a month."""
        opening = _balances({}, [(line.role, line.before) for line in found])
        return cls(
            allocation_id=one.id,
            project_id=one.project_id,
            resource=one.resource,
            unit=one.unit or "slice-second",
            month=month,
            opening=opening,
            movements=[
                MovementView(
                    kind=line.kind, balance=line.role, change=_sign(line.role) * line.change, transfers=line.lines
                )
                for line in found
                if line.lines
            ],
            closing=_balances(opening.model_dump(), [(line.role, line.change) for line in found]),
        )


def _sign(role: str) -> int:
    return -1 if role == "overrun" else 1


def _balances(before: Mapping[str, int], changes: Sequence[tuple[str, int]]) -> BalancesView:
    """Overrun is shown as what is missing, its account holds that below zero."""
    found = {role: before.get(role, 0) for role in ("available", "held", "charged", "overrun")}
    for role, change in changes:
        found[role] += _sign(role) * change
    granted = found["available"] + found["held"] + found["charged"] - found["overrun"]
    return BalancesView(granted=granted, **found)


class DayView(BaseModel):
    """One UTC day of an allocation, with all that ran then, whenever it was heard of."""

    day: date = Field(examples=["2026-11-21"])
    used: int = Field(examples=[192_000])
    left: int = Field(description="of all that is granted now, after this day; below zero: more was used")


class AheadView(BaseModel):
    """What may be left after a coming day."""

    day: date = Field(examples=["2026-12-01"])
    expected: int
    low: int = Field(description="of ten such bands, one lies below this")
    high: int = Field(description="of ten such bands, one lies above this")


class ForecastView(BaseModel):
    """A guess, with its band."""

    method: str = Field(examples=[METHOD])
    days_seen: int = Field(examples=[14])
    level: int = Field(description="used on a day, as it goes now", examples=[192_000])
    ahead: list[AheadView]
    exhausted_on: date | None = Field(description="null: not before the allocation ends", examples=["2026-12-09"])
    exhausted_earliest: date | None = Field(examples=["2026-12-05"])
    exhausted_latest: date | None = Field(examples=["2026-12-17"])


class BurnView(BaseModel):
    """How an allocation burns down, and how long it may last."""

    allocation_id: AllocationId
    resource: ResourceId
    unit: str = Field(examples=["slice-second"])
    granted: int = Field(examples=[288_000_000])
    charged: int = Field(examples=[23_040_000])
    held: int = Field(examples=[11_520_000])
    starts_at: datetime
    ends_at: datetime
    days: list[DayView] = Field(description="every day since the first with usage or the start, today as it is so far")
    forecast: ForecastView | None = Field(description="null: fewer than seven whole days, or it is over")

    @classmethod
    def of(
        cls, one: Standing, days: Sequence[tuple[date, int]], found: Forecast | None, *, before: int, today: date
    ) -> Self:
        """Show the days, what was used `before` them, and the forecast, which counts its days from today."""
        left = one.granted - before
        shown = []
        for day, used in days:
            left -= used
            shown.append(DayView(day=day, used=used, left=left))

        def on(ahead: int | None) -> date | None:
            return None if ahead is None else today + timedelta(days=ahead)

        return cls(
            allocation_id=one.id,
            resource=one.resource,
            unit=one.unit or "slice-second",
            granted=one.granted,
            charged=one.charged,
            held=one.held,
            starts_at=one.starts_at,
            ends_at=one.ends_at,
            days=shown,
            forecast=None
            if found is None
            else ForecastView(
                method=METHOD,
                days_seen=len([day for day, _ in days if day < today]),
                level=round(found.level),
                ahead=[
                    AheadView(
                        day=today + timedelta(days=line.days), expected=line.expected, low=line.low, high=line.high
                    )
                    for line in found.ahead
                ],
                exhausted_on=on(found.exhausted),
                exhausted_earliest=on(found.exhausted_earliest),
                exhausted_latest=on(found.exhausted_latest),
            ),
        )


class AwardedAmountView(BaseModel):
    """What an award gave of one resource."""

    resource: ResourceId
    granted: int = Field(examples=[288_000_000])
    used: int = Field(examples=[23_040_000])
    granted_node_hours: Decimal | None = Field(examples=["1250.000"])
    used_node_hours: Decimal | None = Field(examples=["100.000"])

    @classmethod
    def of(cls, one: AwardedAmount, known: Countings) -> Self:
        """Show an amount."""
        return cls(
            resource=one.resource,
            granted=one.granted,
            used=one.charged,
            granted_node_hours=hours_of(one.granted, one.resource, known)[0],
            used_node_hours=hours_of(one.charged, one.resource, known)[0],
        )


class RegisteredAwardView(BaseModel):
    """An award, as anybody may know it: no person is named."""

    award_id: AwardId
    project_id: ProjectId
    title: str = Field(examples=["Speech models for small languages"])
    factory_id: FactoryId
    mode: str = Field(examples=["aif_playground"])
    policy_version: str = Field(examples=["2025-12"])
    deciding_authority: str = Field(examples=["lumi-aif"])
    country: str = Field(examples=["FI"])
    actor: str = Field(description="the kind of applicant", examples=["startup"])
    starts_at: datetime
    ends_at: datetime
    amounts: list[AwardedAmountView]

    @classmethod
    def of(cls, one: RegisteredAward, amounts: Sequence[AwardedAmount], known: Countings) -> Self:
        """Show an award with what it gave."""
        mine = [AwardedAmountView.of(amount, known) for amount in amounts if amount.award_id == one.award_id]
        return cls.model_validate({**vars(one), "actor": one.applicant_kind, "amounts": mine})


class ActorView(BaseModel):
    """What one kind of actor was given of one resource, and has used."""

    actor: str = Field(examples=["startup"])
    awards: int = Field(examples=[1])
    amount: AwardedAmountView

    @classmethod
    def of(cls, one: ActorSum, known: Countings) -> Self:
        """Show a kind of actor."""
        amount = AwardedAmount("", one.resource, one.granted, one.charged)
        return cls(actor=one.actor, awards=one.awards, amount=AwardedAmountView.of(amount, known))
