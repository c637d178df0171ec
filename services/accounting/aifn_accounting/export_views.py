"""What accounting shows and takes for exports: columns of the usage table, and values of hours."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal, Self

from aifn_events.vocabulary import Moment, ResourceId, Subject
from pydantic import BaseModel, Field

from aifn_accounting.domain.units import gpu_hours, node_hours
from aifn_accounting.exports.parquet import Kind
from aifn_accounting.exports.tables import Row
from aifn_accounting.store.exports import ChargedRun, HourValue
from aifn_accounting.views import Words

USAGE_COLUMNS: dict[str, Kind] = {
    "number": "integer",
    "machine_id": "text",
    "local_job_id": "text",
    "submitted_at": "moment",
    "segment": "integer",
    "revision": "integer",
    "job_id": "text",
    "project_id": "text",
    "factory_id": "text",
    "allocation_id": "text",
    "award_id": "text",
    "mode": "text",
    "pool": "text",
    "resource": "text",
    "amount": "integer",
    "node_hours": "decimal",
    "gpu_hours": "decimal",
    "rate_card": "text",
    "state": "text",
    "nodes": "integer",
    "started_at": "moment",
    "ended_at": "moment",
    "user": "text",
    "recorded_at": "moment",
}


def usage_row(one: ChargedRun) -> Row:
    """A charge as a row of the table; hours are empty where the machine is not known."""
    units, gpus = one.units_per_node, one.gpus_per_node
    counted = bool(units and gpus and one.resource.endswith("/gpu-time"))
    hours: dict[str, Decimal | None] = {
        "node_hours": node_hours(one.amount, units) if units else None,
        "gpu_hours": gpu_hours(one.amount, units, gpus) if counted and units and gpus else None,
    }
    return {**{name: getattr(one, name) for name in USAGE_COLUMNS if name not in hours}, **hours}


class HourValueWords(Words):
    """What an hour is worth, and who says so."""

    resource: ResourceId
    unit: Literal["node-hour", "gpu-hour"] = Field(examples=["gpu-hour"])
    valid_from: Moment = Field(examples=["2026-11-01T00:00:00Z"])
    amount: Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=6)] = Field(examples=["0.500000"])
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217", examples=["EUR"])
    source: str = Field(
        min_length=3,
        max_length=1000,
        pattern=r"\S",
        description="where this is from",
        examples=["cost model of 2026, page 4"],
    )


class HourValueView(BaseModel):
    """What an hour is worth from a moment on."""

    resource: ResourceId
    unit: str = Field(examples=["gpu-hour"])
    valid_from: datetime
    amount: Decimal = Field(examples=["0.500000"])
    currency: str = Field(examples=["EUR"])
    source: str = Field(examples=["cost model of 2026, page 4"])
    entered_by: Subject
    entered_at: datetime

    @classmethod
    def of(cls, one: HourValue) -> Self:
        """Show a value."""
        return cls(**vars(one))


class BalanceConfigView(BaseModel):
    """What the numbers of a balance file are."""

    unit: str = Field(examples=["gpu-hours"])
    project_type: str = Field(examples=["project"])


class UserBalanceView(BaseModel):
    """What a project has left, as one of its users sees it."""

    user: str = Field(examples=["mmeikalainen"])
    project: str = Field(examples=["aif-2026-0117"])
    value: float = Field(examples=[1100.0])


class BalanceFileView(BaseModel):
    """Open OnDemand's balance file, version 1."""

    version: int = Field(examples=[1])
    timestamp: int = Field(description="seconds since 1970", examples=[1795250000])
    config: BalanceConfigView
    balances: list[UserBalanceView]
